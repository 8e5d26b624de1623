"""Evaluation and prediction, in this process or shared out over a Ray cluster."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from plca_dist.config import Cluster, Evaluation
from plca_dist.data.codec import decode_image, encode_label
from plca_dist.data.labels import CITYSCAPES_CLASSES, LabelSet, cityscapes_label_ids
from plca_dist.data.prepare import Progress
from plca_dist.data.shards import read_manifest
from plca_dist.data.stream import labelled_samples
from plca_dist.errors import UserError
from plca_dist.launch.trained import Trained, load_trained
from plca_dist.report.panels import colour, overlay, png
from plca_dist.storage import probe, resolve
from plca_dist.training.evaluation import Counts, evaluate, probabilities, ratios

_PICTURES = (".png", ".jpg", ".jpeg")
#: Parts a worker gets in turn: small enough that a slow one does not keep the others waiting long.
_PARTS_PER_WORKER = 4


@dataclass(frozen=True)
class Job:
    """What every part of an evaluation or prediction knows; it travels to the workers instead of weights."""

    place: str
    size: tuple[int, int] | None
    aggregation: float
    endpoint: str | None
    threads: int


def job_from(
    place: str,
    aggregation: float | None = None,
    size: Sequence[int] | None = None,
    endpoint: str | None = None,
    workers: int = 1,
    gpu: bool = False,
) -> tuple[Job, Cluster]:
    """A job on the weights at `place`, with its run's recipe for whatever is not given, and the workers for it."""
    config = load_trained(place, endpoint).config
    settings = config.evaluation if config else Evaluation()
    wanted = Cluster(workers=workers, gpu=gpu)
    job = Job(
        place=place if "://" in place else str(Path(place).absolute()),
        size=(size[0], size[1]) if size else settings.size,
        aggregation=settings.aggregation if aggregation is None else aggregation,
        endpoint=endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        threads=(os.cpu_count() or 1) if _here(wanted) else wanted.cpus_per_worker,
    )
    return job, wanted


def evaluate_run(
    job: Job,
    data: str,
    workers: Cluster,
    progress: Progress,
    *,
    json_uri: str | None = None,
) -> tuple[dict[str, Any], str]:
    """Score trained weights on labelled shards, every image once, without aggregation and with it.

    Args:
        data: URI of a labelled shard directory.
        workers: how many processes, and whether on GPUs; one without a GPU runs here, without a cluster.
        progress: called with (what, images done, images in all).
        json_uri: where the result is written; default `evaluations/<last part of data>.json` in the run.

    Returns:
        What was written, and where.
    """
    trained = load_trained(job.place, job.endpoint)
    data = data if "://" in data else str(Path(data).absolute())
    images = read_manifest(probe(data, job.endpoint)).rows
    if images == 0:
        raise UserError(f"{data} holds no images.")
    parts = min(images, workers.workers * _PARTS_PER_WORKER)
    total: list[Counts] = []
    for counts in _share_out(_score_part, (job, data), parts, workers):
        total.append(counts)
        progress("images", sum(c.images for c in total), images)
    outcome = {"weights": job.place, "data": data, **reduce(add, total).result(trained.labels)}
    store, name = trained.store, f"evaluations/{data.rstrip('/').rpartition('/')[2]}.json"
    if json_uri:
        folder, _, name = json_uri.rpartition("/")
        store = resolve(folder or ".", job.endpoint)
    store.write(name, json.dumps(outcome, indent=1).encode())
    return outcome, f"{store.uri}/{name}"


def predict_images(job: Job, images: str, out: str, workers: Cluster, progress: Progress) -> tuple[int, str]:
    """Write, for every image: its class ids, its colours, and both over the image.

    `<out>/label_ids` holds the official evaluator's ids where every class is one of Cityscapes', else `<out>/train_ids`
    holds the label set's own. Predictions use the job's aggregation.

    Returns:
        How many images, and the name of the folder of ids.
    """
    trained = load_trained(job.place, job.endpoint)
    images, out = (u if "://" in u else str(Path(u).absolute()) for u in (images, out))
    probe(out, job.endpoint)
    names = _pictures(images, job.endpoint)
    parts = min(len(names), workers.workers * _PARTS_PER_WORKER)
    done = 0
    for count in _share_out(_predict_part, (job, images, out, names), parts, workers):
        done += count
        progress("images", done, len(names))
    return len(names), _ids_folder(trained.labels)


def _pictures(images: str, endpoint: str | None) -> list[str]:
    names = [e.name for e in probe(images, endpoint).list() if e.name.lower().endswith(_PICTURES)]
    if not names:
        raise UserError(f"{images} holds no images ({', '.join(_PICTURES)}).")
    stems = [PurePosixPath(name).stem for name in names]
    twice = sorted({s for s in stems if stems.count(s) > 1})
    if twice:
        raise UserError(f"{images}: several images are called {twice[0]!r}, and their predictions would collide.")
    return names


def _here(workers: Cluster) -> bool:
    return workers.workers == 1 and not workers.gpu


def _share_out(work: Callable[..., Any], arguments: Sequence[Any], parts: int, workers: Cluster) -> Iterator[Any]:
    """`work(*arguments, part, parts, device)` for every part, in any order."""
    if _here(workers):
        for part in range(parts):
            yield work(*arguments, part, parts, "cpu")
        return
    import ray

    from plca_dist.launch.cluster import WORKER_ENVIRONMENT, connection

    with connection(workers, lambda message: None):
        remote = ray.remote(
            num_cpus=workers.cpus_per_worker,
            num_gpus=int(workers.gpu),
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        )(work)
        waiting = [remote.remote(*arguments, p, parts, "cuda" if workers.gpu else "cpu") for p in range(parts)]
        try:
            while waiting:
                ready, waiting = ray.wait(waiting)
                yield from ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise


#: The last network a process loaded: parts of one job follow each other in the same worker process.
_loaded: dict[tuple[str, str], Trained] = {}


def _trained(job: Job, device: str) -> Trained:
    key = (job.place, device)
    if key not in _loaded:
        _loaded.clear()
        torch.set_num_threads(job.threads)
        _loaded[key] = load_trained(job.place, job.endpoint)
        _loaded[key].network.to(device)
    return _loaded[key]


def _score_part(job: Job, data: str, part: int, parts: int, device: str) -> Counts:
    trained = _trained(job, device)
    samples = labelled_samples(data, trained.labels, part, parts, job.endpoint)
    return evaluate(
        trained.network, samples, num_classes=len(trained.labels), size=job.size, ratios=ratios(job.aggregation)
    )


def _predict_part(job: Job, images: str, out: str, names: list[str], part: int, parts: int, device: str) -> int:
    trained = _trained(job, device)
    source, target = resolve(images, job.endpoint), resolve(out, job.endpoint)
    folder = _ids_folder(trained.labels)
    mine = names[part::parts]
    for name in mine:
        try:
            image_3HW = decode_image(source.read(name))
        except RuntimeError as error:
            raise UserError(f"{source.uri}/{name}: not a readable image ({error}).") from error
        probability_KHW = probabilities(trained.network, image_3HW, size=job.size, ratio=job.aggregation)
        prediction_HW = probability_KHW.argmax(0).cpu().numpy().astype(np.uint8)
        ids_HW = cityscapes_label_ids(trained.labels.classes)[prediction_HW] if folder == "label_ids" else prediction_HW
        picture_HW3 = image_3HW.permute(1, 2, 0).numpy()
        colours_HW3 = colour(prediction_HW, trained.labels.palette)
        stem = PurePosixPath(name).stem
        target.write(f"{folder}/{stem}.png", encode_label(ids_HW))
        target.write(f"colour/{stem}.png", png(Image.fromarray(colours_HW3)))
        target.write(f"overlay/{stem}.png", png(Image.fromarray(overlay(picture_HW3, colours_HW3))))
    return len(mine)


def _ids_folder(labels: LabelSet) -> str:
    return "label_ids" if set(labels.classes) <= set(CITYSCAPES_CLASSES) else "train_ids"
