"""Predictions for a folder of images: class ids, colours, and overlays to look at."""

import logging
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from plca_dist.config import ClusterSettings
from plca_dist.data.codec import encode_label, verified_image
from plca_dist.data.colours import colour, overlay, png
from plca_dist.data.formats import OTHER_SUFFIXES, READ, SUFFIXES, changes
from plca_dist.data.labels import LabelSet, cityscapes_ids, cityscapes_label_ids
from plca_dist.errors import UserError, some
from plca_dist.inference.distribute import InferenceJob, distribute, loaded
from plca_dist.messages import Progress
from plca_dist.storage import Location, Store, file_at, probe, resolve
from plca_dist.training.evaluation import probabilities
from plca_dist.training.trained import load_trained

log = logging.getLogger(__name__)

_LABEL_IDS, _TRAIN_IDS, _COLOUR, _OVERLAY = _FOLDERS = ("label_ids", "train_ids", "colour", "overlay")


def predict_images(
    job: InferenceJob,
    images: Location,
    out: Location,
    workers: ClusterSettings,
    progress: Progress,
    *,
    train_ids: bool = False,
) -> tuple[int, list[str]]:
    """Write three PNGs for every image, at its own size: its class ids, their colours, and the colours over the image.

    Class ids are the official evaluator's, in `<out>/label_ids`, where every class is one of Cityscapes'. Otherwise,
    and with `train_ids`, they are the label set's own, in `<out>/train_ids`, as `plca shards folder` reads them.
    Results lie in the subfolders of their images. Predictions use the job's aggregation.

    Args:
        images: a folder, or a single image.

    Returns:
        The number of images, and the URI of the folder of each kind of results.
    """
    trained = load_trained(job.weights)
    images, out = images.absolute(), out.absolute()
    folder = _TRAIN_IDS if train_ids else _ids_folder(trained.labels)
    target = probe(out)
    if single := _single(images):
        images = images.with_uri(images.uri.rstrip("/").rpartition("/")[0] or "/")
    names = _pictures(probe(images), target, single)
    done = 0
    changed: Counter[str] = Counter()
    for count, notes in distribute(_predict_part, (job, images, out, names, folder), len(names), workers):
        done += count
        changed += notes
        progress("images", done, len(names))
    for note, count in sorted(changed.items()):
        log.warning("%d of %d images: %s", count, len(names), note)
    return len(names), [f"{target.uri}/{folder}" for folder in (folder, _COLOUR, _OVERLAY)]


def _single(images: Location) -> str:
    """The name of the image, where `images` is one; empty for a folder."""
    if not images.uri.lower().endswith(SUFFIXES + OTHER_SUFFIXES):
        return ""
    store, name = file_at(images)
    folder = store.local and Path(store.root, name).is_dir()
    return name if store.exists(name) and not folder else ""


def _pictures(source: Store, target: Store, single: str = "") -> list[str]:
    """Names of the images below `source`, without the results of an earlier prediction below `target`.

    `single`: the only one that is wanted. Hidden files are none. Raises UserError for pictures that cannot be read, and
    for what is no file.
    """
    results = tuple(f"{target.root}/{folder}/" for folder in _FOLDERS)
    names = (
        [single]
        if single
        else [
            e.name
            for e in source.list()
            if e.name.lower().endswith(SUFFIXES + OTHER_SUFFIXES)
            and not f"{source.root}/{e.name}".startswith(results)
            and not any(part.startswith(".") for part in e.name.split("/"))
        ]
    )
    if not names:
        raise UserError(f"{source.uri} holds no images ({', '.join(SUFFIXES)}).")
    if others := [name for name in names if name.lower().endswith(OTHER_SUFFIXES)]:
        raise UserError(f"{source.uri}: {some(others)}: only {READ} are read; convert them, or take them away.")
    for name in names:
        if source.local and not Path(source.root, name).is_file():
            raise UserError(f"{source.uri}/{name} is no file but a pipe, socket or device; take it away.")
        if not target.local and any("\ud800" <= c <= "\udfff" for c in name):
            raise UserError(f"{source.uri}/{name}: its name is not UTF-8, as names in a bucket are; rename it.")
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(_result(name), name)
        if other != name:
            raise UserError(f"{source.uri}: {other} and {name} would get predictions of one name; rename one.")
    return names


def _result(name: str) -> str:
    """The name of the results of an image, below the folder of each kind."""
    return f"{PurePosixPath(name).with_suffix('')}.png"


def _predict_part(
    job: InferenceJob,
    images: Location,
    out: Location,
    names: list[str],
    folder: str,
    part: int,
    parts: int,
    device: str,
) -> tuple[int, Counter[str]]:
    """The number of images of this part, and what reading did to their pixels -> images."""
    trained = loaded(job, device)
    source, target = resolve(images), resolve(out)
    mine = names[part::parts]
    changed: Counter[str] = Counter()
    for name in mine:
        data = source.read(name)
        try:
            image_3HW = verified_image(data)
        except ValueError as error:
            raise UserError(f"{source.uri}/{name} cannot be read: {error}, or take it away.") from error
        changed.update(changes(data))
        probability_KHW = probabilities(
            trained.network, image_3HW, size=job.size, ratio=job.aggregation, inference=trained.inference
        )
        prediction_HW = probability_KHW.argmax(0).cpu().numpy().astype(np.uint8)
        ids_HW = cityscapes_label_ids(trained.labels.classes)[prediction_HW] if folder == _LABEL_IDS else prediction_HW
        picture_HW3 = image_3HW.permute(1, 2, 0).numpy()
        colours_HW3 = colour(prediction_HW, trained.labels.palette)
        result = _result(name)
        target.write(f"{folder}/{result}", encode_label(ids_HW))
        target.write(f"{_COLOUR}/{result}", png(Image.fromarray(colours_HW3)))
        target.write(f"{_OVERLAY}/{result}", png(Image.fromarray(overlay(picture_HW3, colours_HW3))))
    return len(mine), changed


def _ids_folder(labels: LabelSet) -> str:
    return _LABEL_IDS if set(labels.classes) <= set(cityscapes_ids()) else _TRAIN_IDS
