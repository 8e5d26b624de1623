"""Where the processor's time of a training sample goes, on its way from an S3 server or a disk to the crop.

    python -m benchmarks.sample_cost [--images 96] [--repeats 5] [--forms keep,tiff-zstd]

The samples are those of streaming.py, read from a server on the same cores, and from a directory. Each turn is one
epoch in a fresh process, which has read from the store before. The clocks are those of the threads that do a part, so
waiting does not count. `other` is what the process used beside the parts: the thread of the store's client, and the
interpreter. Cores over the sum of all is the most samples a second that this machine gives; decoding and cropping are
the same work for every loader.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.common import save
from benchmarks.servers.seaweed import s3_environment, serving
from benchmarks.streaming import write
from benchmarks.streaming_loaders import BUCKET, WORKERS, plca
from plca_dist.data import decoded, domain, stream
from plca_dist.data.forms import FORMS, KEEP
from plca_dist.data.shards import fetch, read_manifest, reader
from plca_dist.storage import Store, resolve

#: Part -> where its function is looked up. None calls another on its thread.
PARTS: dict[str, tuple[Any, str]] = {
    "decode image": (decoded, "decode_image"),
    "decode label": (decoded, "decode_label"),
    "resize and crop": (domain, "augment"),
    "class numbers": (domain, "look_up"),
    "checksum and Parquet": (reader.ShardReader, "read_row_group"),
    "bytes of the row": (fetch.RowGroups, "row"),
    "batch": (stream.Stream, "__next__"),
}


def one_epoch(place: str, form: str, images: int) -> dict[str, float]:
    """In this process: milliseconds of a sample by part, and samples a second, the start included."""
    used: Counter[str] = Counter()
    for part, (owner, name) in PARTS.items():
        setattr(owner, name, _timed(getattr(owner, name), part, used))
    folder = "parquet" if form == KEEP else form
    read_manifest(resolve(place).child(folder))  # imports the store's client
    began, clock = time.process_time(), time.perf_counter()
    for _ in plca(images, Path(), folder, place):
        pass
    seconds, total = time.perf_counter() - clock, time.process_time() - began
    used["other"] = total - sum(used.values())
    return {part: 1e3 * used[part] / images for part in (*PARTS, "other")} | {"samples_per_s": images / seconds}


def _timed(function: Any, part: str, used: Counter[str]) -> Any:
    def timed(*given: Any, **named: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*given, **named)
        finally:
            used[part] += time.thread_time() - began

    return timed


def _copied(shards: Store, folder: Path) -> str:
    """A copy of all shards in a directory; returns its place."""
    copy = resolve(str(folder))
    for entry in shards.list():
        copy.write(entry.name, shards.read(entry.name))
    return str(folder)


def _turn(place: str, form: str, images: int, server: int) -> dict[str, float]:
    before = _processor_s(server)
    command = [sys.executable, "-m", "benchmarks.sample_cost", "--turn", place, form, "--images", str(images)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    parts = json.loads(done.stdout.strip().splitlines()[-1])
    return {"server": 1e3 * (_processor_s(server) - before) / images} | parts


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--forms", default=f"{KEEP},tiff-zstd", help="separated by commas")
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.turn:
        print(json.dumps(one_epoch(*parsed.turn, parsed.images)))
        return
    forms = parsed.forms.split(",")
    if unknown := set(forms) - set(FORMS):
        raise SystemExit(f"no such forms: {', '.join(unknown)}; there are {', '.join(FORMS)}")
    with tempfile.TemporaryDirectory(prefix="plca-sample-cost-") as name:
        (Path(name) / "server").mkdir()
        with serving(Path(name) / "server") as server:
            os.environ |= s3_environment(server)
            write(parsed.images, Path(name), forms)
            disk = _copied(resolve(BUCKET), Path(name) / "disk")
            places = {form: (BUCKET, form) for form in forms} | {f"{form}, disk": (disk, form) for form in forms}
            turns: dict[str, list[dict[str, float]]] = {row: [] for row in places}
            for _ in range(parsed.repeats):
                for row, results in turns.items():
                    results.append(_turn(*places[row], parsed.images, server.pid))
    rows = {
        name: {key: statistics.median(t[key] for t in results) for key in results[0]} for name, results in turns.items()
    }
    for row in rows.values():
        row["all"] = sum(value for part, value in row.items() if part != "samples_per_s")
        row["most_samples_per_s"] = 1e3 * WORKERS / row["all"]
    print(f"{'processor ms a sample':24}" + "".join(f"{name:>18}" for name in rows))
    for part in rows[forms[0]]:
        print(f"{part:24}" + "".join(f"{row[part]:18.1f}" for row in rows.values()))
    print(save("sample_cost", {"images": parsed.images, "workers": WORKERS, "rows": rows, "turns": turns}))


if __name__ == "__main__":
    main()
