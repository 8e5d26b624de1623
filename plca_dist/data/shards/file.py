"""One shard: rows -> a Parquet file.

Columns are not compressed, because image bytes are already. Statistics and dictionaries are left out for images: each
entry would be a copy of an image. Checksums of row groups, in the manifest, let a reader notice damage before anything
is decoded; those of pages, in the file, let other readers.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plca_dist.data.datasets.dataset import Sample
from plca_dist.data.encode import encoded_label
from plca_dist.data.forms import Encoding
from plca_dist.data.shards.cut import RowGroupCut
from plca_dist.data.shards.manifest import Shard
from plca_dist.errors import UserError
from plca_dist.storage import Store

_COLUMNS = (("id", pa.string()), ("image", pa.binary()), ("height", pa.int32()), ("width", pa.int32()))
_LABEL_COLUMNS = (("label", pa.binary()), ("pixel_counts", pa.list_(pa.int64())))
Row = dict[str, Any]


def shard_schema(with_labels: bool) -> pa.Schema:
    """The columns of a shard: `label` is an encoded image of train ids, `pixel_counts` has one number per class."""
    return pa.schema(_COLUMNS + (_LABEL_COLUMNS if with_labels else ()))


def make_row(sample: Sample, classes: int | None, encoding: Encoding) -> Row:
    """A sample as a row. `classes`: number of classes, for the label and its pixels of each; None leaves both out."""
    row: Row = {"id": sample.id, "image": sample.image, "height": sample.height, "width": sample.width}
    if classes is not None:
        assert sample.label is not None
        row["label"] = encoded_label(sample.label, encoding)
        row["pixel_counts"] = np.bincount(sample.label.reshape(-1), minlength=256)[:classes].tolist()
    return row


def write_shard(store: Store, name: str, rows: Iterator[Row], *, with_labels: bool, cut: RowGroupCut) -> Shard:
    """Write the rows as the object `name`, which appears once all of them are written. No rows, no object.

    At most one row group is in memory.
    """
    groups = cut.grouped(rows)
    first = next(groups, None)
    if first is None:
        return Shard(name, 0, 0, "", ())
    schema, counts, checksums = shard_schema(with_labels), [], []
    faults: list[UserError] = []
    with _explained(faults), store.writer(name) as stream:
        sink = _Hashing(stream, faults)
        with pq.ParquetWriter(
            pa.PythonFile(sink, mode="w"),
            schema,
            compression="NONE",
            use_dictionary=False,
            write_statistics=["height", "width"],
            write_page_checksum=True,
        ) as parquet:
            sink.checksum()  # of four letters, with which each Parquet file begins
            for group in chain([first], groups):
                parquet.write_table(pa.Table.from_pylist(group, schema=schema))
                counts.append(len(group))
                checksums.append(sink.checksum())
        sink.flush()
    checksums.append(sink.checksum())
    return Shard(name, sum(counts), sink.bytes, sink.sha256.hexdigest(), tuple(counts), tuple(checksums))


@contextmanager
def _explained(faults: list[UserError]) -> Iterator[None]:
    """The first of the faults in place of what came of it: closing a file that its disk does not take fails again."""
    try:
        yield
    except Exception:
        if faults:
            raise faults[0] from None
        raise


class _Hashing:
    """A writable file that passes bytes on to `stream`, and keeps their number and their SHA-256.

    Raises UserError where the disk of `stream` does not take them: for a bucket, that is the one of temporary files.
    `faults` gets it too.
    """

    def __init__(self, stream: Any, faults: list[UserError]) -> None:
        self._faults = faults
        self._stream, self.sha256, self.bytes, self.closed = stream, hashlib.sha256(), 0, False
        self._crc = 0

    def write(self, data: Any) -> int:
        self._pass_on(self._stream.write, data)
        self.sha256.update(data)
        self._crc = zlib.crc32(data, self._crc)
        self.bytes += len(data)
        return len(data)

    def checksum(self) -> int:
        """CRC-32 of the bytes since the last call."""
        crc, self._crc = self._crc, 0
        return crc

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._pass_on(self._stream.flush)

    def _pass_on(self, method: Callable[..., Any], *arguments: Any) -> None:
        try:
            method(*arguments)
        except OSError as error:
            fault = UserError(
                f"{self._stream.name}: cannot be written: {error.strerror}; free space there. Shards for a bucket wait "
                "in the folder for temporary files, which TMPDIR names."
            )
            self._faults.append(fault)
            raise fault from error

    def close(self) -> None:
        self.closed = True
