"""The loaders that streaming.py compares. Each yields every sample of an epoch, decoded and augmented alike."""

import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from plca_dist.data.augment import augment
from plca_dist.data.codec import decode_image, decode_label, pillow_image, pillow_label
from plca_dist.data.forms import ENCODED
from plca_dist.data.order import keyed_rng
from plca_dist.data.shards import read_manifest
from plca_dist.storage import resolve

BUCKET = "s3://bucket/streaming"
AUGMENT: dict[str, Any] = {"shorter_edge": (760, 988), "crop": (730, 730), "flip": True}
WORKERS = 2
#: Samples of a shard: about 64 MB, which all of the formats recommend.
SHARD = 24
#: A number that tells samples apart, the image and the label.
Prepared = tuple[int, torch.Tensor, torch.Tensor]
#: A number of images and an empty folder -> every sample once.
Loader = Callable[[int, Path], Iterator[Prepared]]
#: The rivals decode with Pillow, as they come; `with_wuffs` gives one of them what this stream has.
_rival_decoders = [pillow_image, pillow_label]


def prepared(image: bytes, label: bytes) -> Prepared:
    """The work of every loader on a sample."""
    number = zlib.crc32(image)
    of_image, of_label = _rival_decoders
    ready, ready_label = augment(of_image(image), of_label(label), keyed_rng("benchmark", number), **AUGMENT)
    assert ready_label is not None
    return number, ready, ready_label


def plca(images: int, scratch: Path, folder: str = "parquet", place: str = BUCKET) -> Iterator[Prepared]:
    from plca_dist.data.domain import DomainStream
    from plca_dist.data.labels import LABEL_SETS
    from plca_dist.data.stream import Stream

    domain = DomainStream(
        resolve(place).child(folder), "source", labels=LABEL_SETS["toytown"], batch=1, seed=0, window=8,
        **AUGMENT,
    )  # fmt: skip
    stream = Stream(domain, None, slots=range(1), micro=1, start_step=0, threads=WORKERS, prefetch=4)
    with closing(stream):
        for step in range(images):
            batch = next(stream)
            yield domain.order.sample(step, 0), batch.source_image[0], batch.source_label[0]


def plca_with_pillow(images: int, scratch: Path) -> Iterator[Prepared]:
    from plca_dist.data import decoded

    decoded.decode_image, decoded.decode_label = pillow_image, pillow_label
    return plca(images, scratch)


def mosaicml(images: int, scratch: Path) -> Iterator[Prepared]:
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    tempfile.tempdir = str(scratch)  # for its lock files, away from those that a broken process left behind

    class Rows(StreamingDataset):
        def __getitem__(self, at: Any) -> Prepared:
            row = super().__getitem__(at)
            return prepared(row["image"], row["label"])

    dataset = Rows(remote=f"{BUCKET}/mds", local=str(scratch / "cache"), shuffle=True, batch_size=1)
    yield from DataLoader(dataset, batch_size=None, num_workers=WORKERS, prefetch_factor=4)


def webdataset(images: int, scratch: Path) -> Iterator[Prepared]:
    import webdataset as wds
    from botocore.session import get_session

    client = get_session().create_client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    bucket, _, prefix = BUCKET.removeprefix("s3://").partition("/")
    names = [entry.name for entry in resolve(BUCKET).list("tar")]
    urls = [
        client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": f"{prefix}/{name}"}) for name in names
    ]
    dataset = (
        wds.WebDataset([f"pipe:curl -s -f '{url}'" for url in urls], shardshuffle=len(urls), empty_check=False)
        .shuffle(SHARD)
        .map(lambda row: prepared(row["image.png"], row["label.png"]))
    )
    yield from wds.WebLoader(dataset, batch_size=None, num_workers=WORKERS, prefetch_factor=4)


def ray_data(images: int, scratch: Path) -> Iterator[Prepared]:
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    place = resolve(BUCKET).child("parquet")
    paths = [f"{place.root}/{shard.name}" for shard in read_manifest(place).shards]

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        number, image, label = prepared(row["image"], row["label"])
        return {"number": number, "image": image.numpy(), "label": label.numpy()}

    dataset = ray.data.read_parquet(paths, filesystem=place.arrow(), shuffle="files")
    dataset = dataset.select_columns(["image", "label"]).map(prepare)
    for row in dataset.iter_rows():
        yield row["number"], torch.from_numpy(row["image"].copy()), torch.from_numpy(row["label"].copy())


def litdata(images: int, scratch: Path) -> Iterator[Prepared]:
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(
        f"{BUCKET}/litdata",
        cache_dir=str(scratch / "cache"),
        shuffle=True,
        transform=lambda row: prepared(row["image"], row["label"]),
    )
    yield from StreamingDataLoader(
        dataset, batch_size=1, num_workers=WORKERS, prefetch_factor=4, collate_fn=lambda rows: rows[0]
    )


class LanceRows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """What `lance.torch.data.SafeLanceDataset` gives, decoded where it is read; spawned workers import this class."""

    def __init__(self, uri: str, options: dict[str, str]) -> None:
        from lance.torch.data import SafeLanceDataset

        self._rows = SafeLanceDataset(uri, dataset_options={"storage_options": options})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, at: list[int]) -> list[Prepared]:
        torch.set_num_threads(1)
        return [prepared(row["image"], row["label"]) for row in self._rows.__getitems__(at)]


def lance_options() -> dict[str, str]:
    return {"aws_endpoint": os.environ["AWS_ENDPOINT_URL"], "allow_http": "true", "aws_region": "us-east-1"}


def lance(images: int, scratch: Path) -> Iterator[Prepared]:
    from lance.torch.data import get_safe_loader

    rows = LanceRows(f"{BUCKET}/lance.lance", lance_options())
    loader = get_safe_loader(
        rows, batch_size=4, num_workers=WORKERS, shuffle=True, prefetch_factor=2, collate_fn=_as_they_are
    )
    for several in loader:
        yield from several


def _as_they_are(rows: list[Prepared]) -> list[Prepared]:
    return rows


def spdl(images: int, scratch: Path) -> Iterator[Prepared]:
    """It has no format of its own: row groups of the Parquet shards, read by pyarrow."""
    import pyarrow.parquet as pq
    from spdl.pipeline import PipelineBuilder

    from plca_dist.data.order import permutation

    place = resolve(BUCKET).child("parquet")
    manifest, filesystem = read_manifest(place), place.arrow()
    groups = [manifest.row_groups[k] for k in permutation(len(manifest.row_groups), "spdl")]

    def fetched(group: Any) -> list[tuple[bytes, bytes]]:
        with filesystem.open_input_file(f"{place.root}/{manifest.shards[group.shard].name}") as file:
            table = pq.ParquetFile(file).read_row_group(group.group, columns=["image", "label"])
        return [(row["image"], row["label"]) for row in table.to_pylist()]

    pipeline = (
        PipelineBuilder()
        .add_source(groups)
        .pipe(fetched, concurrency=WORKERS)
        .disaggregate()
        .pipe(lambda row: prepared(*row), concurrency=WORKERS)
        .add_sink(4)
        .build(num_threads=2 * WORKERS)
    )
    with pipeline.auto_stop():
        yield from pipeline.get_iterator()


def with_wuffs(loader: Loader) -> Loader:
    """The loader, whose workers this process forks, with this stream's decoders."""

    def load(images: int, scratch: Path) -> Iterator[Prepared]:
        _rival_decoders[:] = decode_image, decode_label
        return loader(images, scratch)

    return load


#: Rivals -> the module that each needs, and the package that has it.
MODULES = {
    "mosaicml-streaming": ("streaming", "mosaicml-streaming"),
    "webdataset": ("webdataset", "webdataset"),
    "litdata": ("litdata", "litdata"),
    "lance": ("lance", "pylance"),
    "spdl": ("spdl.pipeline", "spdl"),
}
LOADERS: dict[str, Loader] = {
    "plca_dist": plca,
    "mosaicml-streaming": mosaicml,
    "webdataset": webdataset,
    "ray data": ray_data,
    "litdata": litdata,
    "lance": lance,
    "spdl": spdl,
    "plca_dist (Pillow)": plca_with_pillow,
    "webdataset (Wuffs)": with_wuffs(webdataset),
    "litdata (Wuffs)": with_wuffs(litdata),
} | {form: partial(plca, folder=form) for form in ENCODED}
