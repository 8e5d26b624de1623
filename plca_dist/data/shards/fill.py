"""Samples -> shard files, on several threads, with a record of its inputs beside each finished one.

A call after one that was cut short keeps the files whose records still fit, and writes the rest.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

from plca_dist.data.datasets.dataset import ForeignLabels, Reader
from plca_dist.data.encode import encoded
from plca_dist.data.forms import Encoding
from plca_dist.data.label_record import record
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.shards.cut import RowGroupCut
from plca_dist.data.shards.file import Row, make_row, write_shard
from plca_dist.data.shards.manifest import SCHEMA, Record, Shard, Skipped, parse_record
from plca_dist.data.shards.statistics import Statistics, of_sample, total
from plca_dist.errors import RunFailed, UserError
from plca_dist.storage import Store

log = logging.getLogger(__name__)

#: The largest share of the samples that may be left out: more are a fault of the whole set and not of single files.
MOST_SKIPPED = 0.25

#: The directory of the records.
RECORDS = "_unfinished"


class Written(NamedTuple):
    """A finished shard. `statistics`: None where an older version wrote it."""

    shard: Shard
    skipped: tuple[Skipped, ...]
    statistics: Statistics | None


class Claim(Protocol):
    """The right to write into a directory. `lost`: another writer has taken it over."""

    @property
    def lost(self) -> bool: ...


class _StoppedError(Exception):
    """Another shard has failed, so this one is left unfinished."""


@dataclass
class ShardFiles:
    """Writes shards on several threads, and counts the samples done. `progress`: as of `write_shards`."""

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
        return digest([settings, [(self._ids[i], self.reader.stamp(i)) for i in part]])

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
        name, record = f"shard-{number:05d}.parquet", f"{RECORDS}/shard-{number:05d}.json"
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


def digest(value: Any) -> str:
    """SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, allow_nan=False).encode()).hexdigest()
