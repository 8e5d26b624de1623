"""What 1 to 4096 ranks read in an epoch, hold in memory and ask of the store, and how well the order mixes.

    python -m benchmarks.ranks [--traffic]

The orders are the real ones, computed for every rank; nothing is fetched. Images are as large as PNGs of a camera are
(2.4 MB, spread by a quarter), as JPEGs of the same (0.6 MB), or as small ones (0.1 MB). A rank has one pair of each
batch, of at least 8 pairs. For each: the shards and the cut of older versions, those shards under the new cut, and new
shards under it.

  read     bytes that all ranks fetch in an epoch, over those that the set has (an epoch leaves out what makes no batch)
  busiest  bytes of the rank that fetches most, over the average rank's
  held     row groups, and their MB, that the fullest rank has in memory at once, without what is fetched ahead
  apart    steps between two samples of one row group, the median, over that of a full shuffle
  spread   row groups of a batch over its samples; 1: no two samples of one

With --traffic a real run over a bucket counts requests through a proxy, with one rank and with two: until the first
step, and in the minute after it.
"""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save
from benchmarks.servers.proxy import FaultyProxy
from benchmarks.servers.seaweed import s3_environment, serving
from plca_dist.data.order import Order, slots_of_rank
from plca_dist.data.shards.cut import RowGroupCut

SETS = {"cityscapes": 2975, "gta5": 24_966}
IMAGE_MB = (2.4, 0.6, 0.1)
RANKS = (1, 8, 64, 256, 512, 1024, 2048, 4096)
LEAST_PAIRS, WINDOW = 8, 8
FORMS = {"older shards, cut 1": 1, "older shards, cut 2": 2, "new shards, cut 2": 2}
STEADY_S, STEPS = 60, 100_000


def row_groups(samples: int, image_mb: float, cut: RowGroupCut) -> tuple[np.ndarray, np.ndarray]:
    """Rows and bytes of each row group."""
    sizes = np.random.default_rng(0).lognormal(np.log(image_mb * 1e6), 0.25, samples).astype(int)
    groups = list(cut.grouped({"image": range(size)} for size in sizes))
    return np.array([len(g) for g in groups]), np.array([sum(len(row["image"]) for row in g) for g in groups])


def held_by(order: Order, group_of: np.ndarray, slots: range) -> list[tuple[int, int, int]]:
    """(row group, first step, last step) of every fetch of a rank: slots that use a group at one time share a fetch."""
    spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for slot in slots:
        groups = group_of[order.stretch(0, slot)]
        found, first = np.unique(groups, return_index=True)
        last = len(groups) - 1 - np.unique(groups[::-1], return_index=True)[1]
        for group, begin, end in zip(found.tolist(), first.tolist(), last.tolist(), strict=True):
            spans[group].append((begin, end))
    return [(group, *span) for group, visits in spans.items() for span in _joined(sorted(visits))]


def _joined(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    begin, end = spans[0]
    for other, until in spans[1:]:
        if other > end:
            yield begin, end
            begin = other
        end = max(end, until)
    yield begin, end


def most_at_once(fetches: list[tuple[int, int, int]], weight: np.ndarray) -> float:
    changes = sorted(
        change for group, begin, end in fetches for change in ((begin, 1, weight[group]), (end + 1, 0, -weight[group]))
    )
    return float(max(itertools.accumulate(change[2] for change in changes)))


def reads(order: Order, group_of: np.ndarray, sizes: np.ndarray, ranks: int) -> dict[str, float]:
    by_rank = [held_by(order, group_of, slots_of_rank(order.batch, ranks, rank)) for rank in range(ranks)]
    fetched = np.array([sum(sizes[group] for group, _, _ in fetches) for fetches in by_rank])
    return {
        "read": fetched.sum() / sizes.sum(),
        "busiest": fetched.max() / fetched.mean(),
        "held": max(most_at_once(fetches, np.ones(len(sizes))) for fetches in by_rank),
        "held_mb": max(most_at_once(fetches, sizes) for fetches in by_rank) / 1e6,
    }


def mixing(order: Order, group_of: np.ndarray) -> dict[str, float | None]:
    steps = order.steps_per_epoch
    groups_BT = group_of[order.epoch_order(0)[: order.batch * steps]].reshape(order.batch, steps)
    shuffled_BT = np.random.default_rng(0).permutation(groups_BT.reshape(-1)).reshape(groups_BT.shape)
    apart, by_chance = _apart(groups_BT), _apart(shuffled_BT)
    return {
        "apart": apart / by_chance if by_chance else None,  # None: hardly any two samples, or a step or two an epoch
        "spread": float(np.mean([len(np.unique(batch)) for batch in groups_BT.T])) / order.batch,
    }


def _apart(groups_BT: np.ndarray) -> float:
    """Median steps between two samples of one row group, 0 where hardly any are used."""
    batch, steps = groups_BT.shape
    by_group: dict[int, list[int]] = defaultdict(list)
    for group, step in zip(groups_BT.reshape(-1).tolist(), np.tile(np.arange(steps), batch).tolist(), strict=True):
        by_group[group].append(step)
    found = [abs(a - b) for taken in by_group.values() for a, b in itertools.combinations(taken, 2)]
    return float(np.median(found)) if len(found) > 100 else 0.0


def simulate(samples: int, image_mb: float) -> Iterator[dict[str, Any]]:
    for form, cut in FORMS.items():
        rows, sizes = row_groups(samples, image_mb, RowGroupCut.of(samples) if "new" in form else RowGroupCut())
        group_of = np.repeat(np.arange(len(rows)), rows)
        for ranks in RANKS:
            if (batch := max(ranks, LEAST_PAIRS)) > samples:
                continue
            began = time.perf_counter()
            order = Order(rows.tolist(), batch, 0, "target", WINDOW, cut)
            order.stretch(0, 0)
            seconds = time.perf_counter() - began
            yield {
                "form": form, "row_groups": len(rows), "ranks": ranks, "steps": order.steps_per_epoch,
                **reads(order, group_of, sizes, ranks), **mixing(order, group_of), "order_s": seconds,
            }  # fmt: skip


def traffic(workers: int, bucket: str, proxy: FaultyProxy) -> dict[str, dict[str, int]]:
    """Requests by what they are for: until the first step is done, and in the minute after it."""
    before = Counter(proxy.asked)
    command = [
        sys.executable, "-m", "plca_dist.cli", "train", "toytown", "--name", f"ranks-{workers}",
    ]  # fmt: skip
    for setting in (
        f"data={bucket}", f"storage.uri={bucket}/runs", f"cluster.workers={workers}", "log.every=1",
        f"schedule.steps={STEPS}", f"checkpoint.every={STEPS}", f"evaluation.every={STEPS}",
    ):  # fmt: skip
        command += ["--set", setting]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        try:
            told = []
            for line in process.stdout:
                told.append(line)
                if f"/{STEPS}" in line:
                    break
            else:
                raise SystemExit(f"the run ended before its first step: {''.join(told)}")
            started = Counter(proxy.asked)
            time.sleep(STEADY_S)
            steady = Counter(proxy.asked)
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
    return {"start": _kinds(started - before), "minute": _kinds(steady - started)}


def _kinds(asked: Counter[tuple[str, str]]) -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for (_, path), count in asked.items():
        kinds[next((kind for part, kind in KINDS.items() if part in path), "run")] += count
    return dict(kinds)


#: A part of a request's path and query -> what it is for; the rest is the run's own files.
KINDS = {"manifest.json": "manifest", ".parquet": "shards", "lease": "lease", "toytown": "shards"}


def measure_traffic() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="plca-ranks-") as name, serving(Path(name)) as server:
        os.environ |= s3_environment(server)
        plca = [sys.executable, "-m", "plca_dist.cli"]
        subprocess.run([*plca, "shards", "toytown", "--out", "s3://bucket/data/toytown"], check=True)
        with FaultyProxy(server.endpoint) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
            counted = {str(workers): traffic(workers, "s3://bucket/data", proxy) for workers in (1, 2)}
    print(f"\n{'requests':18} {'1 rank':>8} {'2 ranks':>8}")
    for phase in ("start", "minute"):
        one, two = counted["1"][phase], counted["2"][phase]
        for kind in sorted(one.keys() | two.keys()):
            print(f"{phase:7} {kind:10} {one.get(kind, 0):8} {two.get(kind, 0):8}")
    each = counted["2"]["start"]["manifest"] - counted["1"]["start"]["manifest"]
    print(f"A further rank asks {each} times for manifests. The lease is the driver's: it is asked for by the clock.")
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traffic", action="store_true", help="count the requests of real runs too: three minutes")
    parsed = parser.parse_args()
    result: dict[str, Any] = {"window": WINDOW, "sets": []}
    for (name, samples), image_mb in itertools.product(SETS.items(), IMAGE_MB):
        print(f"\n{name}: {samples} images of {image_mb} MB")
        head = (
            ("ranks", 6),
            ("steps", 6),
            ("read", 6),
            ("busiest", 8),
            ("held", 5),
            ("MB", 5),
            ("apart", 6),
            ("spread", 7),
        )
        print(" " * 20, *(f"{title:>{width}}" for title, width in head))
        rows = []
        for row in simulate(samples, image_mb):
            rows.append(row)
            apart = "-" if row["apart"] is None else f"{row['apart']:.2f}"
            print(
                f"{row['form']:20} {row['ranks']:6} {row['steps']:6} {row['read']:6.3f} {row['busiest']:8.2f} "
                f"{row['held']:5.0f} {row['held_mb']:5.0f} {apart:>6} {row['spread']:7.3f}",
                flush=True,
            )
        result["sets"].append({"name": name, "samples": samples, "image_mb": image_mb, "rows": rows})
    if parsed.traffic:
        result["requests"] = measure_traffic()
    print(save("ranks", result))


if __name__ == "__main__":
    main()
