"""Single row groups of a shard directory, read back."""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Event, Lock
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from plca_dist.data.shards.file import shard_schema
from plca_dist.data.shards.manifest import MANIFEST, Manifest
from plca_dist.errors import UserError
from plca_dist.storage import Store

#: The most shards that stay open, each with a handle and a footer. It bounds the open files of a local data set.
_KEPT_OPEN = 256


class Damaged(UserError):
    """The bytes of a row group in the store are not those that were written."""


class _Open(NamedTuple):
    file: Any
    footer: Any


class ShardReader:
    """Reads single row groups of a shard directory; any number of threads may do so at once."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self._opened: OrderedDict[int, _Open] = OrderedDict()
        self._lock = Lock()
        self._closed = Event()

    def close(self) -> None:
        """End the waiting of reads for a store that is away."""
        self._closed.set()

    def read_row_group(self, shard_index: int, group_index: int, columns: Sequence[str]) -> pa.Table:
        """The named columns of one row group; only their bytes are fetched.

        Args:
            shard_index: number of the shard in the manifest.
            group_index: number of the row group in the shard.
            columns: out of `shard_schema`.

        Raises:
            Damaged: when its bytes do not match their checksums, or the shard is cut short.
            UserError: when the shards have no such column, a shard is missing or differs from the manifest, or the
                store is away for longer than its patience.
        """
        known = shard_schema(self.manifest.with_labels).names
        missing = [name for name in columns if name not in known]
        if missing:
            without = "" if self.manifest.with_labels else " (they were written without labels)"
            raise UserError(f"the shards under {self.store.uri} have no column {', '.join(missing)}{without}.")
        name = self.manifest.shards[shard_index].name

        def read() -> pa.Table:
            return self._read(shard_index, group_index, columns)

        try:
            return self.store.patiently(name, read, unless=self._closed)
        except Damaged:
            # Only damage met twice is in the store: the first time, the bytes may have been damaged on the way.
            return self.store.patiently(name, read, unless=self._closed)

    def _read(self, shard_index: int, group_index: int, columns: Sequence[str]) -> pa.Table:
        try:
            opened = self._open(shard_index)
            # A parquet reader keeps state while it reads, so each call has its own. Opening one with a known footer
            # costs nothing. `pre_buffer` joins the columns into few requests.
            parquet = pq.ParquetFile(
                opened.file, metadata=opened.footer, pre_buffer=True, page_checksum_verification=True
            )
            return parquet.read_row_group(group_index, columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            with self._lock:
                self._opened.pop(shard_index, None)  # opening it again shows whether it is still there
            if isinstance(error, OSError) and self.store.failed(error):
                raise
            shard = self.manifest.shards[shard_index]
            first = sum(shard.row_groups[:group_index])
            raise Damaged(
                f"{self.store.uri}/{shard.name}: row group {group_index} (rows {first} to "
                f"{first + shard.row_groups[group_index] - 1} of the shard) is damaged ({error}); copy the shard "
                "again, write the shards again with --overwrite, or let training pass over such rows with "
                "--set order.damaged=skip."
            ) from error

    def _open(self, index: int) -> _Open:
        with self._lock:
            if index in self._opened:
                self._opened.move_to_end(index)
                return self._opened[index]
        # Outside the lock, because opening is a round trip to the store. Two threads may both open it; one is kept.
        opened = self._opened_shard(index)
        with self._lock:
            opened = self._opened.setdefault(index, opened)
            # A reader that still uses a dropped file keeps it alive; it closes with its last reference.
            while len(self._opened) > _KEPT_OPEN:
                self._opened.popitem(last=False)
        return opened

    def _opened_shard(self, index: int) -> _Open:
        shard = self.manifest.shards[index]
        where = f"{self.store.uri}/{shard.name}"
        file = self.store.open(shard.name)
        size = file.size()
        if size < shard.bytes:
            raise Damaged(
                f"{where} is cut short: {size} bytes, {self.store.uri}/{MANIFEST} says {shard.bytes}; copy the shard "
                "again, write the shards again with --overwrite, or let training pass over its rows with "
                "--set order.damaged=skip."
            )
        if size != shard.bytes:
            raise self._disagree(where, f"{size} bytes", f"{shard.bytes}")
        try:
            footer = pq.ParquetFile(file).metadata
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and self.store.failed(error):
                raise
            raise Damaged(
                f"{where} is no readable Parquet file ({error}); copy the shard again, write the shards again with "
                "--overwrite, or let training pass over its rows with --set order.damaged=skip."
            ) from error
        rows = tuple(footer.row_group(g).num_rows for g in range(footer.num_row_groups))
        if rows != shard.row_groups:
            raise self._disagree(where, f"row groups of {list(rows)} rows", f"{list(shard.row_groups)}")
        columns = footer.schema.to_arrow_schema().names
        expected = shard_schema(self.manifest.with_labels).names
        if columns != expected:
            raise self._disagree(where, f"columns {', '.join(columns)}", ", ".join(expected))
        return _Open(file, footer)

    def _disagree(self, where: str, actual: str, stated: str) -> UserError:
        return UserError(
            f"{where} has {actual}, {self.store.uri}/{MANIFEST} says {stated}: they are not of one writing; "
            "copy the directory again, or write the shards again with --overwrite."
        )
