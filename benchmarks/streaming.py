"""Samples a second out of an S3 bucket, and time to the first sample: this stream beside well-known loaders.

    pip install mosaicml-streaming webdataset litdata==0.2.60 pylance spdl    # in an environment of its own, see below
    python -m benchmarks.streaming [--images 240] [--repeats 5] [--only plca_dist,tiff-zstd,litdata]

All read the same images (drawn streets of 1914 x 1052, PNGs of 2-3 MB like GTA5's, and label PNGs) from one SeaweedFS
server on this machine, in their own formats, shuffled, with two decoding threads or worker processes each, resize them
to a shorter edge of 760 to 988 and crop 730. This stream decodes PNGs with Wuffs (the extra `png`), the rivals with
Pillow, as they come; three rows show the other way round. SPDL has no format of its own and reads the Parquet shards.
Rows named after a form of `plca shards --encode` are this stream over shards in it. Each runs one epoch in a fresh
process with an empty cache, in turn; medians of several turns are reported. Imports do not count: the time to the first
sample begins with the construction of the loader. Nothing is reported unless each loader gave every sample once. The
bytes that this stream reads are counted in a run of its own, through a proxy.

The rivals hold filelock, botocore and others back. Those that are not installed are left out, by name. Some turns of
mosaicml-streaming and of litdata break, because their caches give back an incomplete sample. Such a turn is repeated,
and counted; one that breaks six times in a row ends the benchmark: leave its loader out with --only. litdata 0.2.76
breaks always, on an empty sample, with obstore and with boto3; 0.2.60 reads the same chunks.
"""

import argparse
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from PIL import Image

from benchmarks.common import save
from benchmarks.servers.proxy import FaultyProxy
from benchmarks.servers.seaweed import s3_environment, serving
from benchmarks.streaming_loaders import BUCKET, LOADERS, MODULES, SHARD, WORKERS, plca
from benchmarks.streaming_writers import WRITERS
from plca_dist.data.codec import decode_image
from plca_dist.data.datasets.dataset import Sample
from plca_dist.data.datasets.toytown import ToytownReader
from plca_dist.data.forms import ENCODED, KEEP, Encoding
from plca_dist.data.png import WITHOUT_WUFFS
from plca_dist.data.shards import Manifest, ShardReader, read_manifest, write_shards
from plca_dist.storage import Store, resolve

HEIGHT, WIDTH = 1052, 1914
#: Loaders whose turns may break, and how many in a row; a broken turn of the others ends the benchmark.
BREAKABLE = {"mosaicml-streaming": 5, "litdata": 5}
#: Seconds after which a turn counts as broken: tens of times as long as one takes.
PATIENCE_S = 300


class Streets(ToytownReader):
    """Drawn streets with half of their noise, so that the PNGs are as large as GTA5's."""

    def load(self, i: int) -> Sample:
        drawn = super().load(i)
        pixels = decode_image(drawn.image).permute(1, 2, 0).numpy()
        stream = io.BytesIO()
        Image.fromarray(pixels & 0xFE).save(stream, "PNG", compress_level=3)
        return replace(drawn, image=stream.getvalue())


def write(images: int, scratch: Path, loaders: Sequence[str]) -> int:
    """The same samples in the format of each loader; returns the bytes of the Parquet shards."""
    place = resolve(BUCKET)
    reader = Streets("source", images, 0, HEIGHT, WIDTH, labelled=True)

    def shards(name: str, form: str) -> Manifest:
        return write_shards(
            reader, place.child(name), with_labels=True, shard_rows=SHARD, workers=WORKERS, encoding=Encoding(form)
        )

    manifest = shards("parquet", KEEP)
    for form in ENCODED:
        if form in loaders:
            shards(form, form)
    rows = list(_rows(place.child("parquet")))
    size = SHARD * sum(len(image) + len(label) for image, label in rows) // len(rows)
    for loader, writer in WRITERS.items():
        if loader in map(_rival, loaders):
            writer(rows, scratch, size)
    for folder in (scratch / name for name in ("mds", "tar", "litdata")):
        for file in folder.iterdir() if folder.exists() else ():
            place.upload(file, f"{folder.name}/{file.name}")
    return sum(shard.bytes for shard in manifest.shards)


def _rows(shards: Store) -> Iterator[tuple[bytes, bytes]]:
    manifest = read_manifest(shards)
    reader = ShardReader(shards, manifest)
    for group in manifest.row_groups:
        for row in reader.read_row_group(group.shard, group.group, ["image", "label"]).to_pylist():
            yield row["image"], row["label"]


def one_epoch(loader: str, images: int) -> dict[str, float]:
    """In this process: seconds to the first sample, and samples a second over the whole epoch, the start included."""
    if needed := _needed(loader):
        importlib.import_module(needed[0])
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
    """Bytes of Parquet that an epoch of this stream reads, over all bytes of Parquet.

    The second epoch is measured: the first has fetched ahead for it about as much as it fetches ahead for the third.
    """
    read = []
    with FaultyProxy(endpoint) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        for given, _ in enumerate(plca(2 * images, Path()), 1):
            if given % images == 0:
                time.sleep(2)  # until requests under way have arrived
                read.append(sum(n for path, n in proxy.read.items() if path.endswith(".parquet")))
        os.environ["AWS_ENDPOINT_URL"] = endpoint
    return (read[1] - read[0]) / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", metavar="LOADERS", help="some of them, separated by commas")
    parser.add_argument("--loader", choices=LOADERS, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.loader:
        print(json.dumps(one_epoch(parsed.loader, parsed.images)))
        return
    wanted = parsed.only.split(",") if parsed.only else list(LOADERS)
    if unknown := set(wanted) - set(LOADERS):
        raise SystemExit(f"no such loaders: {', '.join(unknown)}; there are {', '.join(LOADERS)}")
    needed = {name: _needed(name) for name in wanted}
    missing = {name: need[1] for name, need in needed.items() if need and not _is_installed(need[0])}
    loaders = [name for name in wanted if name not in missing]
    if missing:
        print(f"left out: {', '.join(missing)}; pip install {' '.join(sorted(set(missing.values())))}")
    if WITHOUT_WUFFS is not None:
        raise SystemExit(f"there is no Wuffs ({WITHOUT_WUFFS}): pip install '.[png]'")

    with tempfile.TemporaryDirectory(prefix="plca-streaming-") as name:
        folder = Path(name)
        (folder / "server").mkdir()
        with serving(folder / "server") as server:
            os.environ |= s3_environment(server)
            whole = write(parsed.images, folder, loaders)
            ratio = bytes_read(parsed.images, server.endpoint, whole)
            size = whole / parsed.images / 2**20
            print(f"{parsed.images} samples of {size:.2f} MiB; an epoch reads {ratio:.3f} of the bytes", flush=True)
            results: dict[str, list[dict[str, float]]] = {loader: [] for loader in loaders}
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
    found = {"images": parsed.images, "bytes_read_over_stored": ratio, "left_out": list(missing), "rows": rows}
    print(save("streaming", found))


def _turn(loader: str, images: int) -> dict[str, float]:
    """An epoch in a fresh process; `broken`: how many processes broke before that one."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--loader", loader, "--images", str(images)]
    for broken in range(BREAKABLE.get(_rival(loader), 0) + 1):
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"{loader:20} broke: {error}", flush=True)
            continue
        # Ray's last words may come behind the result.
        result = json.loads([line for line in done.stdout.splitlines() if line.startswith('{"samples"')][-1])
        if result["samples"] != images:
            raise SystemExit(f"{loader} gave {result['samples']} different samples of {images}")
        return result | {"broken": broken}
    raise SystemExit(f"{loader} broke {broken + 1} times in a row")


def _rival(loader: str) -> str:
    """Whose loader it is: its name without the decoder."""
    return loader.partition(" (")[0]


def _needed(loader: str) -> tuple[str, str] | None:
    """The module and the package of a rival."""
    return MODULES.get(_rival(loader))


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def _version(loader: str) -> str | None:
    needed = _needed(loader)
    return version(needed[1] if needed else "ray" if loader == "ray data" else "plca-dist")


if __name__ == "__main__":
    main()
