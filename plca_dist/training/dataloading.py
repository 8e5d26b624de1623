"""From a recipe to its data: the streams that it trains on, and their check before anything starts."""

from typing import Final, Literal

from plca_dist.config import Config
from plca_dist.data.domain import DomainStream
from plca_dist.data.label_table import label_table
from plca_dist.data.order import NEWEST_CUT, slots_of_rank
from plca_dist.data.rare_classes import RareClasses
from plca_dist.data.shards import Manifest, read_manifest
from plca_dist.data.stream import Stream
from plca_dist.errors import UserError
from plca_dist.storage import OUTAGE_PATIENCE_S, Store, probe, resolve

DomainName = Literal["source", "target"]
DOMAINS: Final[tuple[DomainName, ...]] = ("source", "target")


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


def open_shards(config: Config, uri: str) -> Store:
    """One of the recipe's shard directories, for reads that outlast an outage of the store."""
    return resolve(config.location(config.data_uri(uri)), patience_s=OUTAGE_PATIENCE_S)


def _domain(config: Config, name: DomainName) -> DomainStream:
    settings = config.source if name == "source" else config.target
    return DomainStream(
        open_shards(config, settings.uri),
        name,
        labels=config.label_set if name == "source" else None,
        batch=config.batch.pairs,
        seed=config.seed,
        window=config.order.window,
        cut=config.order.cut or NEWEST_CUT,
        shorter_edge=settings.shorter_edge,
        crop=settings.crop,
        flip=settings.flip,
        damaged=config.order.damaged,
        rare=_rare_classes(config) if name == "source" else None,
    )


def _rare_classes(config: Config) -> RareClasses | None:
    settings = config.rare_class_sampling
    if settings.temperature is None:
        return None
    return RareClasses(settings.temperature, settings.pixels, settings.crops)


def check_data(config: Config, *, with_target: bool) -> dict[str, str]:
    """Look at every manifest that the recipe names.

    Returns:
        For each domain that is trained on, a fingerprint of its content.

    Raises:
        UserError: a store out of reach, no manifest, no labels where they are needed (or labels where they must not
            be), no class in common, fewer samples than a batch.
    """
    fingerprints: dict[str, str] = {}
    for name in DOMAINS if with_target else DOMAINS[:1]:
        fingerprints[name] = _manifest(config, name).fingerprint()
        _domain(config, name)
    if config.evaluation.unlabelled and not with_target and _manifest(config, "target").rows == 0:
        raise UserError(
            f"{config.data_uri(config.target.uri)} holds no images to measure evaluation.unlabelled = "
            f"{config.evaluation.unlabelled} on; write shards of the target, or set that to 0."
        )
    if config.evaluation.uri:
        uri = config.data_uri(config.evaluation.uri)
        manifest = read_manifest(probe(config.location(uri)))
        label_table(manifest, config.label_set, uri)
    return fingerprints


def _manifest(config: Config, name: DomainName) -> Manifest:
    uri = config.data_uri((config.source if name == "source" else config.target).uri)
    manifest = read_manifest(probe(config.location(uri)))
    if name == "target" and manifest.with_labels:
        raise UserError(
            f"{uri} holds labels, and target labels must not reach training; "
            "write the target's shards with --no-labels."
        )
    return manifest
