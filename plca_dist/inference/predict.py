"""Predictions for a folder of images: class ids, colours, and overlays to look at."""

from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from plca_dist.config import ClusterSettings
from plca_dist.data.codec import encode_label, verified_image
from plca_dist.data.colours import colour, overlay, png
from plca_dist.data.formats import OTHER_SUFFIXES, READ, SUFFIXES
from plca_dist.data.labels import LabelSet, cityscapes_ids, cityscapes_label_ids
from plca_dist.errors import UserError, some
from plca_dist.inference.distribute import InferenceJob, distribute, loaded
from plca_dist.messages import Progress
from plca_dist.storage import Location, Store, probe, resolve
from plca_dist.training.evaluation import probabilities
from plca_dist.training.trained import load_trained

_LABEL_IDS, _TRAIN_IDS, _COLOUR, _OVERLAY = _FOLDERS = ("label_ids", "train_ids", "colour", "overlay")


def predict_images(
    job: InferenceJob, images: Location, out: Location, workers: ClusterSettings, progress: Progress
) -> tuple[int, list[str]]:
    """Write three PNGs for every image, at its own size: its class ids, their colours, and the colours over the image.

    Class ids are the official evaluator's, in `<out>/label_ids`, where every class is one of Cityscapes'. Otherwise
    they are the label set's own, in `<out>/train_ids`. Predictions use the job's aggregation.

    Returns:
        The number of images, and the URI of the folder of each kind of results.
    """
    trained = load_trained(job.weights)
    images, out = images.absolute(), out.absolute()
    source, target = probe(images), probe(out)
    names = _pictures(source, target)
    done = 0
    for count in distribute(_predict_part, (job, images, out, names), len(names), workers):
        done += count
        progress("images", done, len(names))
    return len(names), [f"{target.uri}/{folder}" for folder in (_ids_folder(trained.labels), _COLOUR, _OVERLAY)]


def _pictures(source: Store, target: Store) -> list[str]:
    """Names of the images below `source`, without the results of an earlier prediction below `target`.

    Hidden files are none. Raises UserError for pictures that cannot be read, and for what is no file.
    """
    results = tuple(f"{target.root}/{folder}/" for folder in _FOLDERS)
    names = [
        e.name
        for e in source.list()
        if e.name.lower().endswith(SUFFIXES + OTHER_SUFFIXES)
        and not f"{source.root}/{e.name}".startswith(results)
        and not any(part.startswith(".") for part in e.name.split("/"))
    ]
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
        other = first.setdefault(PurePosixPath(name).stem, name)
        if other != name:
            raise UserError(
                f"{source.uri}: {other} and {name} would get predictions of one name; rename one, or predict "
                "folder by folder."
            )
    return names


def _predict_part(
    job: InferenceJob, images: Location, out: Location, names: list[str], part: int, parts: int, device: str
) -> int:
    trained = loaded(job, device)
    source, target = resolve(images), resolve(out)
    folder = _ids_folder(trained.labels)
    mine = names[part::parts]
    for name in mine:
        try:
            image_3HW = verified_image(source.read(name))
        except ValueError as error:
            raise UserError(f"{source.uri}/{name} cannot be read: {error}, or take it away.") from error
        probability_KHW = probabilities(
            trained.network, image_3HW, size=job.size, ratio=job.aggregation, inference=trained.inference
        )
        prediction_HW = probability_KHW.argmax(0).cpu().numpy().astype(np.uint8)
        ids_HW = cityscapes_label_ids(trained.labels.classes)[prediction_HW] if folder == _LABEL_IDS else prediction_HW
        picture_HW3 = image_3HW.permute(1, 2, 0).numpy()
        colours_HW3 = colour(prediction_HW, trained.labels.palette)
        stem = PurePosixPath(name).stem
        target.write(f"{folder}/{stem}.png", encode_label(ids_HW))
        target.write(f"{_COLOUR}/{stem}.png", png(Image.fromarray(colours_HW3)))
        target.write(f"{_OVERLAY}/{stem}.png", png(Image.fromarray(overlay(picture_HW3, colours_HW3))))
    return len(mine)


def _ids_folder(labels: LabelSet) -> str:
    return _LABEL_IDS if set(labels.classes) <= set(cityscapes_ids()) else _TRAIN_IDS
