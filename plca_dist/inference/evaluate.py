"""Scores of trained weights on labelled shards, every image once."""

import logging
from collections.abc import Sequence
from contextlib import closing
from functools import reduce
from operator import add
from typing import Any

from plca_dist.config import ClusterSettings
from plca_dist.data.label_table import label_table
from plca_dist.data.shards import read_manifest
from plca_dist.data.whole_images import labelled_samples
from plca_dist.errors import UserError
from plca_dist.inference.distribute import InferenceJob, distribute, loaded
from plca_dist.messages import Progress
from plca_dist.run_files import EVALUATIONS, json_bytes
from plca_dist.storage import OUTAGE_PATIENCE_S, Location, file_at, probe, resolve
from plca_dist.training.class_gaps import evaluation_gaps
from plca_dist.training.evaluation import UNLABELLED, Counts, evaluate, ratios
from plca_dist.training.trained import TrainedNetwork, load_trained

log = logging.getLogger(__name__)


def evaluate_run(
    job: InferenceJob,
    data: Location,
    workers: ClusterSettings,
    progress: Progress,
    *,
    aggregation: Sequence[float] = (),
    json_file: Location | None = None,
) -> tuple[dict[str, Any], str]:
    """Score trained weights on labelled shards, every image once, at one or several aggregation ratios.

    Args:
        data: a labelled shard directory.
        workers: how many processes, and whether on GPUs; one without a GPU runs here, without a cluster.
        progress: called with (what, images done, images in all).
        aggregation: ratios λ; a single one is measured beside 0, several as they are. None given: the job's one.
        json_file: where the result is written; default `evaluations/<last part of data>.json` in the run, with the
            checkpoint's name before `.json` where the weights are a checkpoint's.

    Returns:
        The result, and the URI of its file.
    """
    trained = load_trained(job.weights)
    data = data.absolute()
    manifest = read_manifest(probe(data))
    label_table(manifest, trained.labels, data.uri)  # for its refusals, before anything starts
    if manifest.rows == 0:
        raise UserError(f"{data.uri} holds no images.")
    for line in evaluation_gaps(data.uri, manifest, trained.labels):
        log.warning("%s", line)
    store, name = file_at(json_file) if json_file else (trained.store, _result_name(trained, data.uri))
    measured = ratios(*(aggregation or (job.aggregation,)))
    total: list[Counts] = []
    for counts in distribute(_score_part, (job, data, measured), manifest.rows, workers):
        total.append(counts)
        progress("images", sum(c.images for c in total), manifest.rows)
    outcome = {"weights": job.weights.uri, "data": data.uri, **reduce(add, total).result(trained.labels)}
    if outcome["scores"][0]["miou"] is None:
        raise UserError(f"{data.uri}: {UNLABELLED} of {trained.labels.name!r}, so there is no score; {_GIVE_OTHERS}.")
    store.write(name, json_bytes(outcome))
    return outcome, f"{store.uri}/{name}"


#: Test splits of published sets come so.
_GIVE_OTHERS = "give a split whose labels are published"


def _result_name(trained: TrainedNetwork, data: str) -> str:
    checkpoint = f"-{trained.checkpoint}" if trained.checkpoint else ""
    return f"{EVALUATIONS}/{data.rstrip('/').rpartition('/')[2]}{checkpoint}.json"


def _score_part(
    job: InferenceJob, data: Location, measured: tuple[float, ...], part: int, parts: int, device: str
) -> Counts:
    trained = loaded(job, device)
    store = resolve(data, patience_s=OUTAGE_PATIENCE_S)
    with closing(labelled_samples(store, trained.labels, part, parts)) as samples:
        return evaluate(
            trained.network,
            samples,
            num_classes=len(trained.labels),
            size=job.size,
            ratios=measured,
            inference=trained.inference,
        )
