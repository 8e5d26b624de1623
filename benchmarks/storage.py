"""What a store costs this project: shards, checkpoints, small objects, the lease, memory; two checkouts side by side.

    python -m benchmarks.storage [--stores s3,local] [--rounds 4] [--against CHECKOUT] [--output NAME]

The stores are real servers on this machine (SeaweedFS, Azurite, a GCS emulator) and a local directory. Each case of
storage_measure.py is a fresh process, which uses only what the storage layer's users call:

process    memory, threads and seconds of importing and probing; then 125 rows of GTA5's size (2-3 MB of random bytes
           and a label each, five shards of 64 MB) by row groups in shuffled order on four threads, with a new reader
latency    the same reading through a proxy that answers each request 10 ms later than the server, which on loopback
           takes next to nothing; the proxy in Python bounds the speed, `latency_0` is the proxy without the 10 ms
large      upload and download of 64 MiB files
small      each call on objects of 1 KiB
lease      `Lease.acquire` on a new run, the first of a process apart; a renewal: `fenced` and a write
commit     a checkpoint of four files of 64 KiB as the Saver saves it; its commit, its pruning, a look for what counts

With `--against`, the same cases run with the code of another checkout too, in turn, by the same interpreter, which has
to have what both need. Both read the same shards, written by the first checkout that knows the store. The numbers are
medians over rounds, `ratio` the median over rounds of this checkout's over the other's in the same round. Milliseconds
are medians and 90th percentiles of tens of calls in a process, without its first; MB are 10^6 bytes; seconds of the
processor are those of the reading process. A case waits up to 10 s for an idle machine; `others` is the share
of its processor that processes foreign to the benchmark took meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import save
from benchmarks.servers.proxy import FaultyProxy
from benchmarks.servers.stores import KINDS

CHECKOUT = Path(__file__).parents[1]
MEASURE = Path(__file__).with_name("storage_measure.py")
#: Case -> the function in storage_measure.py, and seconds by which the proxy delays each answer; None: no proxy.
CASES = {
    "process": ("process", None),
    "latency_0": ("read", 0.0),
    "latency_10_ms": ("read", 0.01),
    "small": ("small", None),
    "lease": ("lease", None),
    "commit": ("commit", None),
    "large": ("large", None),  # last: what a server still has to do after it would slow small objects down
}
UNREACHABLE = 3
IDLE, PATIENCE_S = 0.1, 10
Runs = dict[str, dict[str, list[float]]]  # metric -> checkout -> a value of each round


@dataclass(frozen=True)
class Place:
    """A store for the benchmark: where it is, the variables of its clients, and those of clients behind a proxy."""

    uri: str
    variables: dict[str, str]
    proxied: dict[str, str]
    proxy: FaultyProxy | None


@contextmanager
def store(kind: str, folder: Path) -> Iterator[Place]:
    """A new store with its files in `folder`, until the block ends."""
    if kind == "local":
        yield Place(str(folder / "store"), {}, {}, None)
        return
    known = KINDS[kind]
    with known.serving(folder) as server, FaultyProxy(server.endpoint, kind=kind) as proxy:
        proxied = known.through(server, proxy.endpoint)
        yield Place(f"{known.bucket}/benchmark", known.environment(server), proxied, proxy)


def run(case: str, checkout: Path, uri: str, shards: str, variables: dict[str, str]) -> Any:
    """A case in a fresh process with the checkout's code; None where its code does not know the store."""
    done = subprocess.run(
        [sys.executable, str(MEASURE), case, uri, shards],
        env={**os.environ, **variables, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if case == "reach" and done.returncode == UNREACHABLE:
        return None
    if done.returncode:
        raise SystemExit(f"{case} on {uri} ended with {done.returncode}: nothing is reported")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    if Path(answer["code"]).resolve() != checkout:
        raise SystemExit(f"{case} ran the code in {answer['code']}, not that in {checkout}")
    return answer["result"]


def measure(kind: str, place: Place, checkouts: dict[str, Path], rounds: int) -> dict[str, Any]:
    """Every case of one store, by every checkout that knows it, in turn."""
    shards = f"{place.uri}/shards"
    loaded = {name: run("reach", path, place.uri, shards, place.variables) for name, path in checkouts.items()}
    known = {name: path for name, path in checkouts.items() if loaded[name] is not None}
    if not known:
        raise SystemExit(f"no checkout knows the store {kind}")
    data = run("write", next(iter(known.values())), place.uri, shards, place.variables)
    runs: dict[str, Runs] = {}
    for turn in range(rounds):
        for case, (function, delay) in CASES.items():
            if delay is not None and place.proxy is None:
                continue
            variables = place.variables if delay is None else place.proxied
            if place.proxy and delay is not None:
                place.proxy.stall, place.proxy.stall_s = float(delay > 0), delay
            # Who is first changes from round to round.
            for name in sorted(known, reverse=turn % 2 == 1):
                uri = f"{place.uri}/{turn}-{name}-{case}"
                _wait_until_idle()
                foreign, before = Foreign(), _requests(place.proxy)
                found = run(function, known[name], uri, shards, variables)
                found["others"] = foreign.share()
                if delay is not None and _requests(place.proxy) - before < data["row_groups"]:
                    raise SystemExit(f"{case} on {kind} went around the proxy: nothing is reported")
                for metric, value in found.items():
                    runs.setdefault(case, {}).setdefault(metric, {}).setdefault(name, []).append(value)
        print(f"{kind}: round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    cases = {case: {metric: _row(metric, of) for metric, of in metrics.items()} for case, metrics in runs.items()}
    return {"data": data, "libraries": loaded, "cases": cases}


class Foreign:
    """What processes that are not this one's take of the machine's processor, from now on."""

    def __init__(self) -> None:
        self._began, self._taken = time.monotonic(), self._seconds()

    def share(self) -> float:
        cores = os.cpu_count() or 1
        return max(0.0, (self._seconds() - self._taken) / (time.monotonic() - self._began) / cores)

    def _seconds(self) -> float:
        machine = psutil.cpu_times()
        ended, alive = os.times(), 0.0  # of this process and its children that have ended; of those that have not
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                alive += sum(child.cpu_times()[:4])
        return sum(machine[:3]) + machine.irq + machine.softirq - sum(ended[:4]) - alive


def _requests(proxy: FaultyProxy | None) -> int:
    return sum(proxy.requests.values()) if proxy else 0


def _wait_until_idle() -> None:
    os.sync()  # the writes of the case before are not this one's
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        foreign = Foreign()
        time.sleep(0.5)
        if foreign.share() < IDLE:
            return


def _row(metric: str, runs: dict[str, list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {name: statistics.median(values) for name, values in runs.items()}
    if len(runs) == 2 and metric != "others" and all(runs["against"]):
        row["ratio"] = statistics.median(a / b for a, b in zip(runs["this"], runs["against"], strict=True))
    return row | {"runs": {name: [round(value, 4) for value in values] for name, values in runs.items()}}


def show(stores: dict[str, Any]) -> None:
    print(f"{'store':6} {'case':14} {'metric':26} {'this':>10} {'against':>10} {'ratio':>7}")
    for kind, found in stores.items():
        for case, metrics in found["cases"].items():
            for metric, row in metrics.items():
                cells = (f"{row[name]:.4g}" if name in row else "" for name in ("this", "against", "ratio"))
                print("{:6} {:14} {:26} {:>10} {:>10} {:>7}".format(kind, case, metric, *cells))


def _commit(checkout: Path) -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default="s3,local", help=f"of local, {', '.join(KINDS)}; default s3,local")
    parser.add_argument("--rounds", type=int, default=4, help="an even number, so that each checkout is first as often")
    parser.add_argument("--against", type=Path, help="another checkout of this project, to compare with")
    parser.add_argument("--output", default="storage", help="name of the JSON in results/")
    parsed = parser.parse_args()
    kinds = parsed.stores.split(",")
    if unknown := set(kinds) - {"local", *KINDS}:
        parser.error(f"no store is called {', '.join(sorted(unknown))}")
    checkouts = {"this": CHECKOUT.resolve()}
    if parsed.against:
        if not (parsed.against / "plca_dist" / "storage").is_dir():
            parser.error(f"{parsed.against} is no checkout of this project")
        checkouts["against"] = parsed.against.resolve()
    stores = {}
    for kind in kinds:
        scratch = tempfile.TemporaryDirectory(prefix="plca-storage-", ignore_cleanup_errors=True)
        with scratch as name, store(kind, Path(name)) as place:
            stores[kind] = measure(kind, place, checkouts, parsed.rounds)
    show(stores)
    commits = {name: _commit(path) for name, path in checkouts.items()}
    print(save(parsed.output, {"commits": commits, "rounds": parsed.rounds, "stores": stores}))


if __name__ == "__main__":
    main()
