"""Samples a second out of an S3 bucket, and time to the first: this stream beside three well-known loaders.

    pip install mosaicml-streaming webdataset     # in an environment of its own: it holds filelock and others back
    python -m benchmarks.streaming [--images 240] [--repeats 3]

All four read the same images (drawn streets of 1914 x 1052, PNGs of 2-3 MB like GTA5's, and label
PNGs) from one SeaweedFS server on this machine, in their own formats, shuffled, with two decoding threads or worker
processes each, and put them through the same decoding, resizing to a shorter edge of 760 to 988 and cropping to 730.
Each runs one epoch in a fresh process with an empty cache, in turn; medians of several turns. Imports do not count;
time to the first sample runs from the construction of the loader. Before anything is reported, each must have given
every sample once. The bytes that this stream reads are counted in a run of its own, through a proxy.

Now and then a turn of mosaicml-streaming breaks over a sample that its cache gives back incomplete: it is repeated, and
counted.
"""

import argparse
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from PIL import Image

from benchmarks.common import save
from benchmarks.servers.proxy import FaultyProxy
from benchmarks.servers.seaweed import s3_environment, serving
from plca_dist.data.augment import augment
from plca_dist.data.codec import decode_image, decode_label
from plca_dist.data.datasets.samples import Sample
from plca_dist.data.datasets.toytown import ToytownReader
from plca_dist.data.order import keyed_rng
from plca_dist.data.shards import ShardReader, read_manifest, write_shards
from plca_dist.storage import Store, resolve

BUCKET = "s3://bucket/streaming"
HEIGHT, WIDTH = 1052, 1914
AUGMENT: dict[str, Any] = {"shorter_edge": (760, 988), "crop": (730, 730), "flip": True}
WORKERS = 2
#: Samples of a shard: of the order of 64 MB, which all of the formats recommend.
SHARD = 24
#: Loaders whose turns may break, and how many in a row; a turn of the others that breaks ends the benchmark.
BREAKABLE = {"mosaicml-streaming": 5}
#: Seconds after which a turn counts as broken: tens of times as long as one takes.
PATIENCE_S = 300
Given = tuple[int, torch.Tensor, torch.Tensor]


class Streets(ToytownReader):
    """Drawn streets with half of their noise, so that the PNGs are as large as GTA5's."""

    def load(self, i: int) -> Sample:
        drawn = super().load(i)
        pixels = decode_image(drawn.image).permute(1, 2, 0).numpy()
        stream = io.BytesIO()
        Image.fromarray(pixels & 0xFE).save(stream, "PNG", compress_level=3)
        return replace(drawn, image=stream.getvalue())


def write(images: int, scratch: Path) -> int:
    """The same samples as Parquet shards, MDS shards and tar files; returns the bytes of the Parquet shards."""
    from streaming import MDSWriter

    place = resolve(BUCKET)
    reader = Streets("source", images, 0, HEIGHT, WIDTH, labelled=True)
    manifest = write_shards(reader, place.child("parquet"), with_labels=True, shard_rows=SHARD, workers=WORKERS)
    rows = list(_rows(place.child("parquet")))
    size = sum(len(image) + len(label) for image, label in rows) // len(rows)
    columns = {"image": "bytes", "label": "bytes"}
    with MDSWriter(out=str(scratch / "mds"), columns=columns, size_limit=SHARD * size) as writer:
        for image, label in rows:
            writer.write({"image": image, "label": label})
    (scratch / "tar").mkdir()
    for start in range(0, len(rows), SHARD):
        with tarfile.open(scratch / "tar" / f"{start // SHARD:05}.tar", "w") as tar:
            for k, (image, label) in enumerate(rows[start : start + SHARD], start):
                for name, data in ((f"{k:06}.image.png", image), (f"{k:06}.label.png", label)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    for file in (*(scratch / "mds").iterdir(), *(scratch / "tar").iterdir()):
        place.upload(file, f"{file.parent.name}/{file.name}")
    return sum(shard.bytes for shard in manifest.shards)


def _rows(shards: Store) -> Iterator[tuple[bytes, bytes]]:
    manifest = read_manifest(shards)
    reader = ShardReader(shards, manifest)
    for group in manifest.row_groups:
        for row in reader.read_row_group(group.shard, group.group, ["image", "label"]).to_pylist():
            yield row["image"], row["label"]


def prepared(image: bytes, label: bytes) -> Given:
    """What every loader does with a sample; the first number tells samples apart."""
    number = zlib.crc32(image)
    ready, ready_label = augment(decode_image(image), decode_label(label), keyed_rng("benchmark", number), **AUGMENT)
    assert ready_label is not None
    return number, ready, ready_label


def plca(images: int, scratch: Path) -> Iterator[Given]:
    from plca_dist.data.domain import DomainStream
    from plca_dist.data.labels import LABEL_SETS
    from plca_dist.data.stream import Stream

    domain = DomainStream(
        resolve(BUCKET).child("parquet"), "source", classes=LABEL_SETS["toytown"].classes, batch=1, seed=0, window=8,
        **AUGMENT,
    )  # fmt: skip
    stream = Stream(domain, None, slots=range(1), micro=1, start_step=0, threads=WORKERS, prefetch=4)
    with closing(stream):
        for step in range(images):
            batch = next(stream)
            yield domain.order.sample(step, 0), batch.source_image[0], batch.source_label[0]


def mosaicml(images: int, scratch: Path) -> Iterator[Given]:
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    tempfile.tempdir = str(scratch)  # for its lock files, away from those that a broken process left behind

    class Prepared(StreamingDataset):
        def __getitem__(self, at: Any) -> Given:
            row = super().__getitem__(at)
            return prepared(row["image"], row["label"])

    dataset = Prepared(remote=f"{BUCKET}/mds", local=str(scratch / "cache"), shuffle=True, batch_size=1)
    yield from DataLoader(dataset, batch_size=None, num_workers=WORKERS, prefetch_factor=4)


def webdataset(images: int, scratch: Path) -> Iterator[Given]:
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


def ray_data(images: int, scratch: Path) -> Iterator[Given]:
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    place = resolve(BUCKET).child("parquet")
    paths = [f"{place.root}/{shard.name}" for shard in read_manifest(place).shards]

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        number, image, label = prepared(row["image"], row["label"])
        return {"number": number, "image": image.numpy(), "label": label.numpy()}

    dataset = ray.data.read_parquet(paths, filesystem=place.filesystem, shuffle="files")
    dataset = dataset.select_columns(["image", "label"]).map(prepare)
    for row in dataset.iter_rows():
        yield row["number"], torch.from_numpy(row["image"].copy()), torch.from_numpy(row["label"].copy())


LOADERS = {"plca_dist": plca, "mosaicml-streaming": mosaicml, "webdataset": webdataset, "ray data": ray_data}
MODULES = {"mosaicml-streaming": "streaming", "webdataset": "webdataset"}


def one_epoch(loader: str, images: int) -> dict[str, float]:
    """In this process: seconds to the first sample, and samples a second over the whole epoch, the start included."""
    if module := MODULES.get(loader):
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="plca-streaming-cache-", ignore_cleanup_errors=True) as cache:
        seen, first, began = set(), 0.0, time.perf_counter()
        for number, image, label in LOADERS[loader](images, Path(cache)):
            first = first or time.perf_counter() - began
            assert image.shape == (3, 730, 730), image.shape
            assert label.shape == (730, 730), label.shape
            seen.add(int(number))
        seconds = time.perf_counter() - began
    return {
        "samples": len(seen),
        "first_s": first,
        "samples_per_s": images / seconds,
        "after_first_per_s": (images - 1) / (seconds - first),
    }


def bytes_read(images: int, endpoint: str, whole: int) -> float:
    """Bytes of Parquet that an epoch of this stream reads, over those there are.

    Of the second epoch: what the first one fetched ahead for it makes up for what it fetches ahead for the third.
    """
    read = []
    with FaultyProxy(endpoint) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        for given, _ in enumerate(plca(2 * images, Path()), 1):
            if given % images == 0:
                time.sleep(2)  # what is on its way arrives
                read.append(sum(n for path, n in proxy.read.items() if path.endswith(".parquet")))
        os.environ["AWS_ENDPOINT_URL"] = endpoint
    return (read[1] - read[0]) / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loader", choices=LOADERS, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.loader:
        print(json.dumps(one_epoch(parsed.loader, parsed.images)))
        return
    missing = [name for name, module in MODULES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise SystemExit(f"pip install {' '.join(missing)} boto3: this benchmark compares with them")

    with tempfile.TemporaryDirectory(prefix="plca-streaming-") as name:
        folder = Path(name)
        (folder / "server").mkdir()
        with serving(folder / "server") as server:
            os.environ |= s3_environment(server)
            whole = write(parsed.images, folder)
            ratio = bytes_read(parsed.images, server.endpoint, whole)
            size = whole / parsed.images / 2**20
            print(f"{parsed.images} samples of {size:.2f} MiB; an epoch reads {ratio:.3f} of the bytes", flush=True)
            results: dict[str, list[dict[str, float]]] = {loader: [] for loader in LOADERS}
            for _ in range(parsed.repeats):
                for loader, runs in results.items():
                    runs.append(_turn(loader, parsed.images))
                    print(f"{loader:20} {runs[-1]}", flush=True)
    rows = []
    print(f"\n{'loader':20} {'samples/s':>10} {'after the first':>16} {'first sample, s':>16}")
    for loader, runs in results.items():
        row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        row["broken"] = sum(run["broken"] for run in runs)
        rows.append({"loader": loader, "version": _version(loader), **row, "runs": runs})
        print(f"{loader:20} {row['samples_per_s']:10.2f} {row['after_first_per_s']:16.2f} {row['first_s']:16.2f}")
    print(save("streaming", {"images": parsed.images, "bytes_read_over_stored": ratio, "rows": rows}))


def _turn(loader: str, images: int) -> dict[str, float]:
    """An epoch in a fresh process; `broken`: how many processes broke before that one."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--loader", loader, "--images", str(images)]
    for broken in range(BREAKABLE.get(loader, 0) + 1):
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"{loader:20} broke: {error}", flush=True)
            continue
        result = json.loads(done.stdout.strip().splitlines()[-1])
        if result["samples"] != images:
            raise SystemExit(f"{loader} gave {result['samples']} different samples of {images}")
        return result | {"broken": broken}
    raise SystemExit(f"{loader} broke {broken + 1} times in a row")


def _version(loader: str) -> str | None:
    package = {"ray data": "ray", "plca_dist": "plca-dist"}.get(loader, loader)
    return version(package)


if __name__ == "__main__":
    main()
