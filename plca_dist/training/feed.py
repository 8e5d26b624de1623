"""From a recipe to its data: the streams it trains on, checked before anything starts."""

from typing import Literal

from plca_dist.config import Config
from plca_dist.data.domain import DomainStream, label_table
from plca_dist.data.labels import label_set
from plca_dist.data.order import slots_of_rank
from plca_dist.data.shards import read_manifest
from plca_dist.data.stream import Stream
from plca_dist.errors import UserError
from plca_dist.storage import OUTAGE_PATIENCE_S, probe, resolve


def open_stream(config: Config, rank: int, world_size: int, start_step: int, *, with_target: bool = True) -> Stream:
    """The training stream of one rank from `start_step` on; close it when done."""
    micro, _ = config.accumulation(world_size)
    slots = slots_of_rank(config.batch.pairs, world_size, rank)
    return Stream(
        _domain(config, "source"),
        _domain(config, "target") if with_target else None,
        slots=slots,
        micro=micro,
        start_step=start_step,
        threads=config.cluster.loader_threads,
        prefetch=config.cluster.prefetch,
    )


def _domain(config: Config, name: Literal["source", "target"]) -> DomainStream:
    settings = config.source if name == "source" else config.target
    return DomainStream(
        resolve(config.data_uri(settings.uri), config.storage.endpoint, patience_s=OUTAGE_PATIENCE_S),
        name,
        classes=label_set(config.labels).classes if name == "source" else None,
        batch=config.batch.pairs,
        seed=config.seed,
        window=config.order.window,
        shorter_edge=settings.shorter_edge,
        crop=settings.crop,
        flip=settings.flip,
        damaged=config.order.damaged,
    )


def check_data(config: Config, *, with_target: bool) -> dict[str, str]:
    """Look at every manifest the recipe names; returns a fingerprint of each training set's content.

    Raises:
        UserError: a store out of reach, no manifest, no labels where they are needed (or labels where they must not
            be), no class in common, fewer samples than a batch.
    """
    endpoint = config.storage.endpoint
    prints = {}
    for name in ("source", "target") if with_target else ("source",):
        uri = config.data_uri((config.source if name == "source" else config.target).uri)
        manifest = read_manifest(probe(uri, endpoint))
        if name == "target" and manifest.with_labels:
            raise UserError(
                f"{uri} holds labels, and target labels must not reach training; "
                "write the target's shards with --no-labels."
            )
        prints[name] = manifest.fingerprint()
        _domain(config, "source" if name == "source" else "target")
    if config.evaluation.uri:
        uri = config.data_uri(config.evaluation.uri)
        label_table(read_manifest(probe(uri, endpoint)), label_set(config.labels).classes, uri)
    return prints
