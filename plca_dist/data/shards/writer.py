"""Samples -> Parquet shards and a manifest.

Samples are shuffled once before they are cut into shards, so that neighbours in a shard are not neighbours in a video.
Shards are written in parallel, each as a whole. Each finished shard gets a record of its inputs beside it. A call after
one that was cut short keeps the shards whose records still fit, and writes the rest. The manifest is written last, and
then the records are deleted. Two writers in one place would mix their shards: a claim keeps the second out.
"""

import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

from plca_dist.data.datasets.dataset import ForeignLabels, Reader
from plca_dist.data.encode import encoded
from plca_dist.data.forms import KEEP, Encoding
from plca_dist.data.label_record import record
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.order import permutation
from plca_dist.data.shards.cut import ROW_GROUP_BYTES, ROW_GROUP_ROWS, RowGroupCut
from plca_dist.data.shards.file import Row, make_row, write_shard
from plca_dist.data.shards.manifest import (
    MANIFEST,
    SCHEMA,
    SHARD_NAME,
    Encoded,
    Manifest,
    Record,
    Shard,
    Skipped,
    parse_record,
    read_manifest,
)
from plca_dist.data.shards.statistics import Statistics, of_sample, total
from plca_dist.errors import RunFailed, UserError
from plca_dist.storage import Store

log = logging.getLogger(__name__)

#: Some 700 MB for GTA5, whose images take 2.8 MB each.
SHARD_ROWS = 256

#: The largest share of the samples that may be left out: more are a fault of the whole set and not of single files.
MOST_SKIPPED = 0.25

_RECORDS = "_unfinished"


class Written(NamedTuple):
    """A finished shard. `statistics`: None where an older version wrote it."""

    shard: Shard
    skipped: tuple[Skipped, ...]
    statistics: Statistics | None


class Claim(Protocol):
    """The right to write into a directory. `lost`: another writer has taken it over."""

    @property
    def lost(self) -> bool: ...


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
    writer = _Writer(reader, store, with_labels, cut, encoding, skip_broken, progress)
    order = permutation(len(reader), "rows", seed)
    parts = [order[start : start + shard_rows].tolist() for start in range(0, len(order), shard_rows)]
    with ThreadPoolExecutor(workers) as pool:
        inputs = list(pool.map(writer.inputs_of, parts))

    def finished() -> Manifest:
        # Row groups of older versions were larger in places; they hold the same samples.
        older = [writer.inputs_of(part, replace(cut, enough_rows=None)) for part in parts]
        return _finished(store, (_digest(inputs), _digest(older)), skip_broken)

    if store.exists(MANIFEST) and not overwrite:
        return finished()
    with claim(store) as claimed:
        if store.exists(MANIFEST):
            if not overwrite:  # another writer has finished it since
                return finished()
            # The manifest is deleted first: from here on there is no data set until the new one is complete.
            store.delete(MANIFEST)
            store.delete_tree(_RECORDS)
        written = writer.run(parts, inputs, workers, claimed)
        writer.check(claimed)
        return _publish(reader, store, with_labels, encoding, written, _digest(inputs))


def _finished(store: Store, inputs: tuple[str, ...], skip_broken: bool) -> Manifest:
    manifest = read_manifest(store)
    if manifest.inputs not in inputs:
        raise UserError(
            f"{store.uri} already holds {manifest.rows} samples of {manifest.dataset}, written from other data or with "
            "other settings; choose another place, or replace them with --overwrite."
        )
    if manifest.skipped and not skip_broken:
        raise UserError(
            f"{store.uri} was written with --skip-broken and lacks {len(manifest.skipped)} samples "
            f"({manifest.skipped[0].id}, ...); pass --skip-broken to accept that, or --overwrite to write it again."
        )
    log.info("%s is up to date: %d samples in %d shards", store.uri, manifest.rows, len(manifest.shards))
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
    store.delete_tree(_RECORDS)
    return manifest


class _StoppedError(Exception):
    """Another shard has failed, so this one is left unfinished."""


@dataclass
class _Writer:
    """Writes shards on several threads, and counts the samples done."""

    reader: Reader
    store: Store
    with_labels: bool
    cut: RowGroupCut
    encoding: Encoding
    skip_broken: bool
    progress: Callable[[int, int], None] | None

    def __post_init__(self) -> None:
        self._ids = self.reader.ids
        label_set = self.reader.label_set if self.with_labels else None
        self._classes = label_set.classes if label_set else None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._done = self._left_out = 0

    def inputs_of(self, part: Sequence[int], cut: RowGroupCut | None = None) -> str:
        """A fingerprint of everything that decides the content of one shard. `cut`: another one than the writer's."""
        most = cut or self.cut
        settings: list[Any] = [SCHEMA, self.reader.dataset, self._classes, most.most_rows, most.most_bytes]
        if most.enough_rows is not None:
            settings.append({"enough_rows": most.enough_rows})
        if self.encoding != Encoding():
            settings.append(asdict(self.encoding))
        labels = self.reader.label_set if self.with_labels else None
        if labels and labels != LABEL_SETS.get(labels.name):  # a shipped one that holds train ids is its name
            settings.append(record(labels))
        return _digest([settings, [(self._ids[i], self.reader.stamp(i)) for i in part]])

    def check(self, claimed: Claim) -> None:
        """Raise RunFailed where another writer has taken the directory over."""
        if claimed.lost:
            raise RunFailed(f"{self.store.uri}: another writer took over; this one stopped and writes nothing more.")

    def run(self, parts: list[list[int]], inputs: list[str], workers: int, claimed: Claim) -> list[Written]:
        """Write the shards while the claim holds. Returns each with its skipped samples, in order."""
        sizes = {entry.name: entry.size for entry in self.store.list()}
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._shard, n, part, inputs[n], sizes, claimed) for n, part in enumerate(parts)]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _shard(self, number: int, part: list[int], inputs: str, sizes: dict[str, int], claimed: Claim) -> Written:
        name, record = f"shard-{number:05d}.parquet", f"{_RECORDS}/shard-{number:05d}.json"
        if record in sizes and (kept := parse_record(self.store.read(record))):
            # Objects appear whole or not at all, so a file of the right size is the right file.
            present = not kept.shard.rows or sizes.get(name) == kept.shard.bytes
            if kept.inputs == inputs and present and (self.skip_broken or not kept.skipped):
                self._leave_out(kept.skipped)
                self._advance(len(part))
                return Written(kept.shard, kept.skipped, kept.statistics)
        broken: list[Skipped] = []
        counted: list[Statistics] = []
        shard = write_shard(
            self.store,
            name,
            self._rows(part, broken, counted, claimed),
            with_labels=self.with_labels,
            cut=self.cut,
        )
        self.check(claimed)
        written = Written(shard, tuple(broken), total(counted))
        self.store.write(record, Record(inputs, *written).to_json())
        return written

    def _rows(self, part: list[int], broken: list[Skipped], counted: list[Statistics], claimed: Claim) -> Iterator[Row]:
        for i in part:
            if self._stop.is_set():
                raise _StoppedError
            self.check(claimed)
            try:
                sample = encoded(self.reader.load(i), self.encoding)
            except ForeignLabels:
                raise
            except UserError as error:
                if not self.skip_broken:
                    raise UserError(f"{error} --skip-broken leaves such samples out.") from error
                log.warning("left out %s: %s", self._ids[i], error)
                broken.append(Skipped(self._ids[i], str(error)))
                self._leave_out(broken[-1:])
            else:
                classes = len(self._classes) if self._classes else None
                counted.append(of_sample(sample, classes))
                yield make_row(sample, classes, self.encoding)
            self._advance(1)

    def _leave_out(self, samples: Sequence[Skipped]) -> None:
        with self._lock:
            self._left_out += len(samples)
            if self._left_out > MOST_SKIPPED * len(self.reader):
                raise UserError(
                    f"{self.reader.dataset}: more than {MOST_SKIPPED:.0%} of {len(self.reader)} samples are broken, "
                    f"which is a fault of the whole set; one of them: {samples[-1].reason}"
                )

    def _advance(self, samples: int) -> None:
        with self._lock:
            self._done += samples
            if self.progress:
                self.progress(self._done, len(self.reader))


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, allow_nan=False).encode()).hexdigest()
