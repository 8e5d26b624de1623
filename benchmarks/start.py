"""Where the time goes from the command to the first step: a real run on this machine's own Ray cluster, in stages.

    python -m benchmarks.start [--repeats 5] [--workers 1]

A run of toytown of one step in a fresh process. The driver and each worker write down when a stage ends; the functions
that end them are wrapped here, and what they do is the product's own. Stages are those of rank 0; medians of several
runs, and the seconds of each run from the command to its first step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import save

#: What ends a stage, in the order of a run -> what the stage is.
STAGES = {
    "imported": "interpreter and imports of the driver",
    "checked": "recipe, shards and network are checked",
    "ray": "Ray starts on this machine",
    "fitting": "lease, mailbox and the rest of the driver",
    "worker": "Ray Train starts the worker's process and its group",
    "worker imported": "imports of the worker: DeepSpeed and the training loop",
    "engine": "network and engine",
    "stream": "manifests, and the threads that read ahead",
    "batch": "the first batch",
    "step": "the first step",
}
_LOG = "PLCA_BENCHMARK_START_LOG"


def mark(name: str) -> None:
    with Path(os.environ[_LOG]).open("a") as log:
        log.write(json.dumps([name, time.time()]) + "\n")


def marking(name: str, function: Callable[..., Any], *, before: bool = False) -> Callable[..., Any]:
    def marked(*args: Any, **kwargs: Any) -> Any:
        if before:
            mark(name)
            return function(*args, **kwargs)
        result = function(*args, **kwargs)
        mark(name)
        return result

    return marked


def timed_rank(settings: dict[str, Any]) -> None:
    """In place of `attempt._run_rank`, which it calls."""
    import ray.train

    from plca_dist.run import attempt

    if ray.train.get_context().get_world_rank() == 0:
        mark("worker")
        from plca_dist.training import loop

        mark("worker imported")
        loop.build_engine = marking("engine", loop.build_engine)
        loop.open_stream = marking("stream", loop.open_stream)
        following = loop.Ahead.__next__
        loop.Ahead.__next__ = marking("batch", following)  # type: ignore[method-assign]
        loop.average_buffers = marking("step", loop.average_buffers)
    attempt._run_rank(settings)


def command(recipe: list[str], log: str) -> None:
    """The command `plca train` in this process, its stages marked."""
    from plca_dist.recipe import load
    from plca_dist.run import attempt, train

    mark("imported")
    fitted = train.fit

    def fit(run: Any, *rest: Any) -> Any:
        mark("fitting")
        attempt._run_rank, own = timed_rank, attempt._run_rank
        try:
            return fitted(run, *rest)
        finally:
            attempt._run_rank = own

    train.open_run = marking("checked", train.open_run)
    train.mailbox = marking("ray", train.mailbox, before=True)
    train.fit = fit
    train.train(load("toytown", recipe), "start", lambda event: None)


def one_run(shards: Path, workers: int) -> dict[str, float]:
    """Seconds of each stage."""
    with tempfile.TemporaryDirectory(prefix="plca-start-") as folder:
        log = Path(folder) / "log"
        os.environ[_LOG] = str(log)
        recipe = [
            f"data={shards}", f"storage.uri={folder}/runs", f"cluster.workers={workers}", "schedule.steps=1",
            "evaluation.uri=null", "checkpoint.every=1000",
        ]  # fmt: skip
        began = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.start", "--command", json.dumps(recipe)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"the run failed: {done.stdout}{done.stderr}")
        first: dict[str, float] = {}
        for line in log.read_text().splitlines():
            name, at = json.loads(line)
            first.setdefault(name, at)
    ends = [began, *(first[name] for name in STAGES)]
    return {name: end - start for name, start, end in zip(STAGES, ends, ends[1:], strict=False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--command", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.command:
        command(json.loads(parsed.command), os.environ[_LOG])
        return
    with tempfile.TemporaryDirectory(prefix="plca-start-") as folder:
        shards = Path(folder)
        plca = [sys.executable, "-m", "plca_dist.cli", "shards", "toytown", "--count", "16"]
        subprocess.run([*plca, "--out", str(shards / "toytown")], check=True, stdout=subprocess.DEVNULL)
        runs = [one_run(shards, parsed.workers) for _ in range(parsed.repeats)]
    for name, what in STAGES.items():
        print(f"{statistics.median(run[name] for run in runs):6.2f} s  {what}")
    totals = [sum(run.values()) for run in runs]
    print(f"{statistics.median(totals):6.2f} s  command to first step ({', '.join(f'{t:.1f}' for t in totals)})")
    print(save("start", {"workers": parsed.workers, "stages": STAGES, "runs": runs, "totals": totals}))


if __name__ == "__main__":
    main()
