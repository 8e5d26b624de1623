"""The shard directory: Parquet shards and a manifest, and reading them back.

`write_shards` (shard_writer.py) makes one, `read_manifest` (manifest.py) opens one, `ShardReader` reads row groups.
"""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from plca_dist.data.manifest import MANIFEST, Manifest, read_manifest
from plca_dist.data.shard_file import shard_schema
from plca_dist.data.shard_writer import write_shards
from plca_dist.errors import UserError
from plca_dist.storage import Store

__all__ = ["Manifest", "ShardReader", "read_manifest", "write_shards"]

#: Open shards that are kept, for each an object handle and its footer; bounds the file handles of a local dataset.
_KEPT_OPEN = 256


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

    def read_row_group(self, shard_index: int, group_index: int, columns: Sequence[str]) -> pa.Table:
        """The named columns of one row group; only their bytes are fetched.

        Args:
            shard_index: number of the shard in the manifest.
            group_index: number of the row group in the shard.
            columns: out of `shard_schema`.

        Raises:
            UserError: when the shards have no such column, a shard is missing, is not what the manifest says, or its
                bytes do not match their checksums.
        """
        known = shard_schema(self.manifest.with_labels).names
        missing = [name for name in columns if name not in known]
        if missing:
            without = "" if self.manifest.with_labels else " (they were written without labels)"
            raise UserError(f"the shards under {self.store.uri} have no column {', '.join(missing)}{without}.")
        name = self.manifest.shards[shard_index].name
        opened = self._open(shard_index)
        try:
            # A parquet reader keeps state while it reads, so each call has its own; opening one with a known footer
            # costs nothing. `pre_buffer` joins the columns into few requests.
            parquet = pq.ParquetFile(
                opened.file, metadata=opened.footer, pre_buffer=True, page_checksum_verification=True
            )
            return parquet.read_row_group(group_index, columns=list(columns), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{self.store.uri}/{name}: row group {group_index} cannot be read ({error}); "
                "if the store is well, the shard is damaged: write the shards again with --overwrite."
            ) from error

    def _open(self, index: int) -> _Open:
        with self._lock:
            if index in self._opened:
                self._opened.move_to_end(index)
                return self._opened[index]
        # Outside the lock: opening is a round trip to the store. Two threads may do it twice; one is kept.
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
        if size != shard.bytes:
            raise self._disagree(where, f"{size} bytes", f"{shard.bytes}")
        try:
            footer = pq.ParquetFile(file).metadata
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{where} is no readable Parquet file ({error}); write the shards again with --overwrite."
            ) from error
        rows = tuple(footer.row_group(g).num_rows for g in range(footer.num_row_groups))
        if rows != shard.row_groups:
            raise self._disagree(where, f"row groups of {list(rows)} rows", f"{list(shard.row_groups)}")
        columns = footer.schema.to_arrow_schema().names
        expected = shard_schema(self.manifest.with_labels).names
        if columns != expected:
            raise self._disagree(where, f"columns {', '.join(columns)}", ", ".join(expected))
        return _Open(file, footer)

    def _disagree(self, where: str, found: str, stated: str) -> UserError:
        return UserError(
            f"{where} has {found}, {self.store.uri}/{MANIFEST} says {stated}: they are not of one writing; "
            "copy the directory again, or write the shards again with --overwrite."
        )
