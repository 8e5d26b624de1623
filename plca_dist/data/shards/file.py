"""One shard: rows -> a Parquet file.

Columns are not compressed, because image bytes are already. Statistics and dictionaries are left out for images: each
entry would be a copy of an image. Page checksums let a reader notice damage before anything is decoded.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plca_dist.data.codec import encode_label
from plca_dist.data.datasets.dataset import Sample
from plca_dist.data.shards.manifest import Shard
from plca_dist.storage import Store

#: A row group is fetched as a whole, and the order of training shuffles row groups. The bytes bound what is fetched at
#: once. The rows give a small data set of small images several groups to shuffle.
ROW_GROUP_BYTES = 8 << 20
ROW_GROUP_ROWS = 64

_COLUMNS = (("id", pa.string()), ("image", pa.binary()), ("height", pa.int32()), ("width", pa.int32()))
_LABEL_COLUMNS = (("label", pa.binary()), ("pixel_counts", pa.list_(pa.int64())))
Row = dict[str, Any]


def shard_schema(with_labels: bool) -> pa.Schema:
    """The columns of a shard: `label` is a PNG of train ids, `pixel_counts` has one number per class."""
    return pa.schema(_COLUMNS + (_LABEL_COLUMNS if with_labels else ()))


def make_row(sample: Sample, classes: int | None) -> Row:
    """A sample as a row. `classes`: number of classes, for the label and its pixels of each; None leaves both out."""
    row: Row = {"id": sample.id, "image": sample.image, "height": sample.height, "width": sample.width}
    if classes is not None:
        assert sample.label is not None
        row["label"] = encode_label(sample.label)
        row["pixel_counts"] = np.bincount(sample.label.reshape(-1), minlength=256)[:classes].tolist()
    return row


def write_shard(
    store: Store, name: str, rows: Iterator[Row], *, with_labels: bool, row_group_rows: int, row_group_bytes: int
) -> Shard:
    """Write the rows as the object `name`, which appears once all of them are written. No rows, no object.

    At most one row group is in memory.
    """
    groups = _grouped(rows, row_group_rows, row_group_bytes)
    first = next(groups, None)
    if first is None:
        return Shard(name, 0, 0, "", ())
    schema, counts = shard_schema(with_labels), [len(first)]
    with store.writer(name) as stream:
        sink = _Hashing(stream)
        with pq.ParquetWriter(
            pa.PythonFile(sink, mode="w"),
            schema,
            compression="NONE",
            use_dictionary=False,
            write_statistics=["height", "width"],
            write_page_checksum=True,
        ) as parquet:
            parquet.write_table(pa.Table.from_pylist(first, schema=schema))
            for group in groups:
                parquet.write_table(pa.Table.from_pylist(group, schema=schema))
                counts.append(len(group))
    return Shard(name, sum(counts), sink.bytes, sink.sha256.hexdigest(), tuple(counts))


def _grouped(rows: Iterator[Row], most_rows: int, most_bytes: int) -> Iterator[list[Row]]:
    group: list[Row] = []
    weight = 0
    for row in rows:
        size = len(row["image"]) + len(row.get("label", b""))
        if group and (len(group) == most_rows or weight + size > most_bytes):
            yield group
            group, weight = [], 0
        group.append(row)
        weight += size
    if group:
        yield group


class _Hashing:
    """A writable file that passes bytes on to `stream`, and keeps their number and their SHA-256."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.sha256, self.bytes, self.closed = stream, hashlib.sha256(), 0, False

    def write(self, data: Any) -> int:
        self._stream.write(data)
        self.sha256.update(data)
        self.bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """Nothing to do: every write is passed on at once."""

    def close(self) -> None:
        self.closed = True
