"""Scores of trained weights on labelled shards, every image once."""

import json
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

from plca_dist.config import ClusterSettings
from plca_dist.data.prepare import Progress
from plca_dist.data.shards import read_manifest
from plca_dist.data.stream import label_table, labelled_samples
from plca_dist.errors import UserError
from plca_dist.inference.load import TrainedNetwork, load_trained
from plca_dist.inference.parts import InferenceJob, loaded, share_out
from plca_dist.run_files import EVALUATIONS
from plca_dist.storage import Store, absolute, file_at, probe
from plca_dist.training.evaluation import Counts, evaluate, ratios


def evaluate_run(
    job: InferenceJob,
    data: str,
    workers: ClusterSettings,
    progress: Progress,
    *,
    aggregation: Sequence[float] = (),
    json_uri: str | None = None,
) -> tuple[dict[str, Any], str]:
    """Score trained weights on labelled shards, every image once, at one or several aggregation ratios.

    Args:
        data: URI of a labelled shard directory.
        workers: how many processes, and whether on GPUs; one without a GPU runs here, without a cluster.
        progress: called with (what, images done, images in all).
        aggregation: ratios λ; a single one is measured beside 0, several as they are. None given: the job's one.
        json_uri: where the result is written; default `evaluations/<last part of data>.json` in the run, with the
            checkpoint's name before `.json` where the weights are a checkpoint's.

    Returns:
        What was written, and where.
    """
    trained = load_trained(job.place, job.endpoint)
    data = absolute(data)
    manifest = read_manifest(probe(data, job.endpoint))
    label_table(manifest, trained.labels.classes, data)  # for its refusals, before anything starts
    if manifest.rows == 0:
        raise UserError(f"{data} holds no images.")
    store, name = _place_of_result(trained, data, json_uri, job.endpoint)
    measured = ratios(*(aggregation or (job.aggregation,)))
    total: list[Counts] = []
    for counts in share_out(_score_part, (job, data, measured), manifest.rows, workers):
        total.append(counts)
        progress("images", sum(c.images for c in total), manifest.rows)
    outcome = {"weights": job.place, "data": data, **reduce(add, total).result(trained.labels)}
    store.write(name, json.dumps(outcome, indent=1).encode())
    return outcome, f"{store.uri}/{name}"


def _place_of_result(
    trained: TrainedNetwork, data: str, json_uri: str | None, endpoint: str | None
) -> tuple[Store, str]:
    if json_uri:
        return file_at(json_uri, endpoint)
    of = f"-{trained.checkpoint}" if trained.checkpoint else ""
    return trained.store, f"{EVALUATIONS}/{data.rstrip('/').rpartition('/')[2]}{of}.json"


def _score_part(
    job: InferenceJob, data: str, measured: tuple[float, ...], part: int, parts: int, device: str
) -> Counts:
    trained = loaded(job, device)
    samples = labelled_samples(data, trained.labels, part, parts, job.endpoint)
    return evaluate(
        trained.network,
        samples,
        num_classes=len(trained.labels),
        size=job.size,
        ratios=measured,
        inference=trained.inference,
    )
