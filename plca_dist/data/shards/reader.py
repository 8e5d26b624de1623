"""Single row groups of a shard directory, read back."""

import logging
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from threading import Event, Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from plca_dist.data.shards.file import shard_schema
from plca_dist.data.shards.manifest import MANIFEST, Manifest
from plca_dist.errors import UserError, first_line
from plca_dist.storage import Store

log = logging.getLogger(__name__)

#: The most footers that are kept.
_KEPT_FOOTERS = 256
#: Bytes read at the end of a shard: its footer, where it is no larger.
_TAIL_BYTES = 64 << 10


class Damaged(UserError):
    """The bytes of a row group in the store are not those that were written."""


def pass_over(error: Damaged, skip: bool, reported: set[str]) -> None:
    """Say what is damaged, once for all callers with this `reported`; or raise it, where damage is not passed over."""
    if not skip:
        raise error
    if str(error) not in reported:
        reported.add(str(error))
        log.warning("passing over damaged rows: %s", error)


class _Window:
    """Bytes of a file from `start` on, as a file of the whole for pyarrow; what lies outside is never asked for."""

    closed = False

    def __init__(self, data: bytes, start: int, size: int) -> None:
        self._data, self._start, self._size, self._at = pa.py_buffer(data), start, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read_buffer(self, count: int = -1) -> Any:
        begin = self._at - self._start
        count = self._size - self._at if count < 0 else count
        if begin < 0 or begin + count > self._data.size:
            raise OSError(f"bytes {self._at} to {self._at + count} lie outside of the row group")
        self._at += count
        return self._data.slice(begin, count)

    def read(self, count: int = -1) -> bytes:
        return self.read_buffer(count).to_pybytes()

    def close(self) -> None:
        """Nothing to do: the bytes go with their last reader."""


class ShardReader:
    """Reads single row groups of a shard directory; any number of threads may do so at once."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self._footers: OrderedDict[int, Any] = OrderedDict()
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
        try:
            return self._read(shard_index, group_index, columns)
        except Damaged:
            # Only damage met twice is in the store: the first time, the bytes may have been damaged on the way.
            return self._read(shard_index, group_index, columns)

    def _read(self, shard_index: int, group_index: int, columns: Sequence[str]) -> pa.Table:
        shard = self.manifest.shards[shard_index]
        try:
            footer = self._footer(shard_index)
            # With images nearly all of a row group is read, so the rest is too: the checksum is that of the whole.
            checked = bool(shard.checksums) and "image" in columns
            names = shard_schema(self.manifest.with_labels).names if checked else columns
            start, end = _extent(footer.row_group(group_index), names, shard.bytes)
            data = self._bytes(shard.name, start, end)
            if checked and zlib.crc32(data) != shard.checksums[group_index]:
                raise ValueError(f"its bytes are not those of its checksum in {MANIFEST}")
            # A parquet reader keeps state while it reads, so each call has its own. A known footer makes it cheap.
            window = pa.PythonFile(_Window(data, start, shard.bytes), mode="r")
            parquet = pq.ParquetFile(window, metadata=footer, page_checksum_verification=not checked)
            return parquet.read_row_group(group_index, columns=list(columns), use_threads=False)
        except UserError:
            raise
        except Exception as error:  # Arrow has no single error for bytes that are not Parquet's
            with self._lock:
                self._footers.pop(shard_index, None)  # reading it again shows whether it is still the same
            first = sum(shard.row_groups[:group_index])
            raise Damaged(
                f"{self.store.uri}/{shard.name}: row group {group_index} (rows {first} to "
                f"{first + shard.row_groups[group_index] - 1} of the shard) is damaged ({first_line(error)}); copy "
                "the shard again, write the shards again with --overwrite, or let training pass over such rows with "
                "--set order.damaged=skip."
            ) from error

    def _bytes(self, name: str, start: int, end: int) -> bytes:
        return self.store.read_range(name, start, end, unless=self._closed)

    def _footer(self, index: int) -> Any:
        with self._lock:
            if index in self._footers:
                self._footers.move_to_end(index)
                return self._footers[index]
        # Outside the lock, because it is a round trip to the store. Two threads may both read it; one is kept.
        footer = self._read_footer(index)
        with self._lock:
            footer = self._footers.setdefault(index, footer)
            while len(self._footers) > _KEPT_FOOTERS:
                self._footers.popitem(last=False)
        return footer

    def _read_footer(self, index: int) -> Any:
        shard = self.manifest.shards[index]
        where = f"{self.store.uri}/{shard.name}"
        size = self.store.size(shard.name, unless=self._closed)
        if size < shard.bytes:
            raise Damaged(
                f"{where} is cut short: {size} bytes, {self.store.uri}/{MANIFEST} says {shard.bytes}; copy the shard "
                "again, write the shards again with --overwrite, or let training pass over its rows with "
                "--set order.damaged=skip."
            )
        if size != shard.bytes:
            raise self._disagree(where, f"{size} bytes", f"{shard.bytes}")
        try:
            start = max(0, size - _TAIL_BYTES)
            tail = self._bytes(shard.name, start, size)
            # The file ends with the footer, its length in four bytes, and four letters.
            length = int.from_bytes(tail[-8:-4], "little") + 8
            if len(tail) < length <= size:
                start = size - length
                tail = self._bytes(shard.name, start, size)
            if shard.checksums and zlib.crc32(tail[-length:]) != shard.checksums[-1]:
                raise ValueError(f"its footer is not that of its checksum in {MANIFEST}")
            footer = pq.ParquetFile(pa.PythonFile(_Window(tail, start, size), mode="r")).metadata
            rows = tuple(footer.row_group(g).num_rows for g in range(footer.num_row_groups))
            columns = footer.schema.to_arrow_schema().names
        except UserError:
            raise
        except Exception as error:  # see `_read`
            raise Damaged(
                f"{where} is no readable Parquet file ({first_line(error)}); copy the shard again, write the shards "
                "again with --overwrite, or let training pass over its rows with --set order.damaged=skip."
            ) from error
        if rows != shard.row_groups:
            raise self._disagree(where, f"row groups of {list(rows)} rows", f"{list(shard.row_groups)}")
        expected = shard_schema(self.manifest.with_labels).names
        if columns != expected:
            raise self._disagree(where, f"columns {', '.join(columns)}", ", ".join(expected))
        return footer

    def _disagree(self, where: str, actual: str, stated: str) -> UserError:
        return UserError(
            f"{where} has {actual}, {self.store.uri}/{MANIFEST} says {stated}: they are not of one writing; "
            "copy the directory again, or write the shards again with --overwrite."
        )


def _extent(group: Any, columns: Sequence[str], size: int) -> tuple[int, int]:
    """First byte, and first byte after, of the named columns of a row group. ValueError where they lie outside."""
    chunks = [group.column(k) for k in range(group.num_columns)]
    wanted = [c for c in chunks if c.path_in_schema.partition(".")[0] in columns]
    start, end = min(map(_first_byte, wanted)), max(_first_byte(c) + c.total_compressed_size for c in wanted)
    if not 0 <= start < end <= size:
        raise ValueError(f"its footer places it at bytes {start} to {end} of {size}")
    return start, end


def _first_byte(chunk: Any) -> int:
    """A column's pages begin with its dictionary, where it has one."""
    return chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
