"""Samples -> Parquet shards and a manifest.

Samples are shuffled once before they are cut into shards, so that neighbours in a shard are not neighbours in a video.
The manifest is written last, and then the records of the shards (`fill`) are deleted. Two writers in one place would
mix their shards: a claim keeps the second out.
"""

import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from plca_dist.data.datasets.dataset import Reader
from plca_dist.data.forms import KEEP, Encoding
from plca_dist.data.label_record import record
from plca_dist.data.order import permutation
from plca_dist.data.shards.cut import ROW_GROUP_BYTES, ROW_GROUP_ROWS, RowGroupCut
from plca_dist.data.shards.fill import RECORDS, Claim, ShardFiles, Written, digest
from plca_dist.data.shards.manifest import (
    MANIFEST,
    SHARD_NAME,
    Encoded,
    Manifest,
    read_manifest,
)
from plca_dist.data.shards.statistics import total
from plca_dist.errors import UserError, counted
from plca_dist.storage import Store

log = logging.getLogger(__name__)

#: Some 700 MB for GTA5, whose images take 2.8 MB each.
SHARD_ROWS = 256


class _Unclaimed:
    lost = False


#: Takes the claim on a directory for the time of a `with` block, or refuses.
Claiming = Callable[[Store], AbstractContextManager[Claim]]


def unclaimed(_: Store) -> AbstractContextManager[Claim]:
    """No claim: nothing else writes into the directory."""
    return nullcontext(_Unclaimed())


def write_shards(
    reader: Reader,
    store: Store,
    *,
    with_labels: bool,
    seed: int = 0,
    shard_rows: int = SHARD_ROWS,
    row_group_rows: int = ROW_GROUP_ROWS,
    row_group_bytes: int = ROW_GROUP_BYTES,
    encoding: Encoding | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
    overwrite: bool = False,
    claim: Claiming = unclaimed,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write every sample of `reader` into the shard directory `store`.

    A second call for the same data returns the manifest of the finished shards, or continues where the first was cut
    short.

    Args:
        reader: gives the samples.
        store: the shard directory; it need not exist.
        with_labels: whether to write labels. Target shards for training must have none.
        seed: decides the order of the rows.
        shard_rows: rows of a shard.
        row_group_rows: most rows of a row group.
        row_group_bytes: most bytes of a row group's images and labels, unless a single row has more.
        encoding: the form of the images; None: files as they came.
        workers: threads, default one per usable core; each writes one shard at a time.
        skip_broken: leave broken samples out and list them in the manifest, instead of stopping at the first. Labels
            with values outside their set are no broken files, and stop it.
        overwrite: replace a finished dataset.
        claim: keeps other writers out while shards are written; to find finished ones takes none.
        progress: called with (samples done, samples in all), from any thread but never from two at once.

    Raises:
        UserError: for a broken sample (with `skip_broken`: for too many), missing labels, or a directory that already
            holds another dataset (without `overwrite`). No manifest is written then.
        RunFailed: when another writer has taken over.
    """
    sizes = {"shard_rows": shard_rows, "row_group_rows": row_group_rows, "row_group_bytes": row_group_bytes}
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"{name} {value}: give at least 1.")
    if with_labels and not reader.labelled:
        raise UserError(
            f"{reader.dataset} was opened without labels; open it with labels or write shards without them."
        )
    workers = workers or _usable_cores()
    cut = RowGroupCut.of(len(reader), row_group_rows, row_group_bytes)
    encoding = encoding or Encoding()
    writer = ShardFiles(reader, store, with_labels, cut, encoding, skip_broken, progress)
    order = permutation(len(reader), "rows", seed)
    parts = [order[start : start + shard_rows].tolist() for start in range(0, len(order), shard_rows)]
    with ThreadPoolExecutor(workers) as pool:
        inputs = list(pool.map(writer.inputs_of, parts))

    def finished() -> Manifest:
        # Row groups of older versions were larger in places; they hold the same samples.
        older = [writer.inputs_of(part, replace(cut, enough_rows=None)) for part in parts]
        return _finished(store, (digest(inputs), digest(older)), skip_broken)

    if store.exists(MANIFEST) and not overwrite:
        return finished()
    with claim(store) as claimed:
        if store.exists(MANIFEST):
            if not overwrite:  # another writer has finished it since
                return finished()
            # The manifest is deleted first: from here on there is no data set until the new one is complete.
            store.delete(MANIFEST)
            store.delete_tree(RECORDS)
        written = writer.run(parts, inputs, workers, claimed)
        writer.check(claimed)
        return _publish(reader, store, with_labels, encoding, written, digest(inputs))


def _finished(store: Store, inputs: tuple[str, ...], skip_broken: bool) -> Manifest:
    manifest = read_manifest(store)
    if manifest.inputs not in inputs:
        raise UserError(
            f"{store.uri} already holds {manifest.rows} samples of {manifest.dataset}, written from other data or with "
            "other settings; choose another place, or replace them with --overwrite."
        )
    if manifest.skipped and not skip_broken:
        raise UserError(
            f"{store.uri} was written with --skip-broken and lacks {counted(len(manifest.skipped), 'samples')} "
            f"({manifest.skipped[0].id}, ...); pass --skip-broken to accept that, or --overwrite to write it again."
        )
    log.info("%s is up to date: %s", store.uri, manifest.extent)
    return manifest


def _publish(
    reader: Reader, store: Store, with_labels: bool, encoding: Encoding, written: list[Written], inputs: str
) -> Manifest:
    shards = tuple(part.shard for part in written if part.shard.rows)
    skipped = tuple(entry for part in written for entry in part.skipped)
    counted = [part.statistics for part in written if part.statistics]
    kept = {shard.name for shard in shards}
    for entry in store.list():
        # Left by an earlier, larger data set in the same place.
        if re.match(SHARD_NAME, entry.name) and entry.name not in kept:
            store.delete(entry.name)
    classes = reader.label_set
    manifest = Manifest(
        dataset=reader.dataset,
        label_set=classes.name if classes else None,
        classes=classes.classes if classes else (),
        with_labels=with_labels,
        rows=sum(shard.rows for shard in shards),
        shards=shards,
        skipped=skipped,
        inputs=inputs,
        statistics=total(counted) if len(counted) == len(written) else None,
        own_labels=record(classes) if classes else None,
        encoding=None if encoding.form == KEEP else Encoded(encoding.form, encoding.max_edge, encoding.lossless),
    )
    store.write(MANIFEST, manifest.to_json())
    store.delete_tree(RECORDS)
    return manifest


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS
