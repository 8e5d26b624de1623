"""What a search costs: the start and stop of a trial, the cores it keeps busy, and what early stopping saves.

    python -m benchmarks.search [--out DIR] [--steps 300]

Runs two searches with `plca tune` on toytown: tune_spaces/loss_weights_grid.yaml to the end of every trial, and
tune_spaces/loss_weights.yaml with early stopping. Both go by the same criterion, and each one's choice is scored by
target mIoU. A trial's overhead is its time less that of its training steps and evaluations, as its records tell it.
Given a directory, the same command continues, or only reports.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.common import save
from plca_dist.recipe import load
from plca_dist.search.directory import open_search
from plca_dist.search.space import load_space
from plca_dist.search.trials import Trial, best, correlations, score
from plca_dist.training.metrics import ELAPSED, STEP
from plca_dist.training.metrics_log import read_records

SPACES = {"grid": "tune_spaces/loss_weights_grid.yaml", "asha": "tune_spaces/loss_weights.yaml"}


def search(out: Path, name: str, steps: int) -> dict[str, Any]:
    """Run one of `SPACES`, and say what it cost and found."""
    settings = [f"data={out}/data", f"schedule.steps={steps}", f"storage.uri={out}/searches"]
    sets = [part for s in settings for part in ("--set", s)]
    before = psutil.cpu_times()
    subprocess.run(
        [sys.executable, "-m", "plca_dist.cli", "tune", SPACES[name], "--recipe", "toytown", "--name", name, *sets],
        check=True,
    )
    after = psutil.cpu_times()
    idle = (after.idle - before.idle) + (after.iowait - before.iowait)
    found = open_search(load_space(SPACES[name]), load("toytown", settings), name)
    trials = found.read()
    assert all(t.state in ("finished", "stopped") for t in trials), [t for t in trials if t.state == "failed"]
    chosen, criterion = best(trials, found.space.metric), found.space.metric
    assert chosen
    overheads = [t.seconds - _busy(read_records(found.trials.child(t.name))) for t in trials if t.seconds]
    return {
        "criterion": criterion,
        "trials": len(trials),
        "stopped": sum(t.state == "stopped" for t in trials),
        "steps": sum(t.step for t in trials),
        "cores_busy_share": 1 - idle / (sum(after) - sum(before)),
        "overhead_s_median": median(overheads),
        "overhead_s": overheads,
        "chosen": {"trial": chosen.name, "values": dict(chosen.values), "miou": score(chosen, "target_miou")},
        "best_miou": max(score(t, "target_miou") or 0 for t in trials if t.state == "finished"),
        "correlations": {name: c._asdict() for name, c in correlations(trials).items()},
        "all": [_summary(t) for t in trials],
    }


def _busy(records: list[dict[str, Any]]) -> float:
    """Seconds of training and evaluations, the last one too: it takes as long as those between two records did."""
    times = [(r[STEP], r[ELAPSED]) for r in records if ELAPSED in r]
    evaluated = {r[STEP] for r in records if ELAPSED not in r}
    gaps = [(t1 - t0, s0 in evaluated) for (s0, t0), (_, t1) in itertools.pairwise(times)]
    plain, with_evaluation = ([g for g, e in gaps if e is kind] for kind in (False, True))
    return times[-1][1] + (median(with_evaluation) - median(plain) if with_evaluation else 0)


def _summary(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.name, "values": dict(trial.values), "state": trial.state, "step": trial.step,
        "seconds": trial.seconds, "curve": [dict(r) for r in trial.curve],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="default: a temporary directory")
    parser.add_argument("--steps", type=int, default=300, help="of a trial in full")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = (options.out or Path(scratch)).absolute()
        shards = [sys.executable, "-m", "plca_dist.cli", "shards", "toytown", "--out", f"{out}/data/toytown"]
        subprocess.run(shards, check=True)
        result = {name: search(out, name, options.steps) for name in SPACES}
    grid, asha = result["grid"], result["asha"]
    result["summary"] = {
        "steps_over_grid": asha["steps"] / grid["steps"],
        "miou_below_grids_choice": grid["chosen"]["miou"] - asha["chosen"]["miou"],
        "miou_below_grids_best": grid["best_miou"] - asha["chosen"]["miou"],
    }
    print(json.dumps(result["summary"], indent=1))
    for name in SPACES:
        row = {k: v for k, v in result[name].items() if k not in ("all", "overhead_s")}
        print(name, json.dumps(row, indent=1))
    print(save("search", result))


if __name__ == "__main__":
    main()
