"""The formats of the loaders that streaming.py compares: each writes the rows into a folder of its own below `scratch`.

Legend: rows are (image, label) as bytes; `size`: bytes of a shard.
"""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.streaming_loaders import BUCKET, SHARD, lance_options

Rows = list[tuple[bytes, bytes]]


def mds(rows: Rows, scratch: Path, size: int) -> None:
    from streaming import MDSWriter

    columns = {"image": "bytes", "label": "bytes"}
    with MDSWriter(out=str(scratch / "mds"), columns=columns, size_limit=size) as writer:
        for image, label in rows:
            writer.write({"image": image, "label": label})


def tars(rows: Rows, scratch: Path, size: int) -> None:
    (scratch / "tar").mkdir()
    for start in range(0, len(rows), SHARD):
        with tarfile.open(scratch / "tar" / f"{start // SHARD:05}.tar", "w") as tar:
            for k, (image, label) in enumerate(rows[start : start + SHARD], start):
                for name, data in ((f"{k:06}.image.png", image), (f"{k:06}.label.png", label)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def chunks(rows: Rows, scratch: Path, size: int) -> None:
    from litdata.streaming import Cache

    cache = Cache(str(scratch / "litdata"), chunk_bytes=size)
    for k, (image, label) in enumerate(rows):
        cache[k] = {"image": image, "label": label}
    cache.done()
    cache.merge()


def lance(rows: Rows, scratch: Path, size: int) -> None:
    import lance
    import pyarrow as pa

    schema = pa.schema([("image", pa.large_binary()), ("label", pa.large_binary())])

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(rows), SHARD):
            part = [{"image": image, "label": label} for image, label in rows[start : start + SHARD]]
            yield pa.RecordBatch.from_pylist(part, schema=schema)

    lance.write_dataset(batches(), f"{BUCKET}/lance.lance", schema=schema, storage_options=lance_options())


WRITERS: dict[str, Callable[[Rows, Path, int], None]] = {
    "mosaicml-streaming": mds,
    "webdataset": tars,
    "litdata": chunks,
    "lance": lance,
}
