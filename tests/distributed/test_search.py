"""Searches on a real cluster: what they give back, and what kills of every kind cost them."""

import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private import state

from plca_dist.recipe import parse
from plca_dist.run.train import train
from plca_dist.search.directory import Search, open_search
from plca_dist.search.results import leave_results
from plca_dist.search.space import load_space, parse_space
from plca_dist.search.trials import Trial
from plca_dist.search.tune import tune
from plca_dist.storage import Location
from plca_dist.training.checkpoint.survey import committed
from plca_dist.training.trained import load_trained

pytestmark = pytest.mark.ci

#: One learns, one diverges, one stands still and is stopped; they share all else.
STOPPING = """
variants:
  learns: {optimizer.lr: 0.05}
  diverges: {optimizer.lr: 1.0e+30}
  stands_still: {optimizer.lr: 1.0e-12}
  learns_too: {optimizer.lr: 0.04}
metric: target_miou
algorithm: grid
scheduler: {asha: {grace: 0.25, reduction: 2}}
evaluations: 4
unlabelled: 4
concurrency: 2
resources: {workers: 1}
set: {schedule.steps: 60}
"""
#: No scheduler: what is tried and what comes of it is the same, whatever happens on the way.
KILLED = """
search: {objective.association: {loguniform: [0.03, 0.3]}}
metric: entropy
trials: 3
evaluations: 12
unlabelled: 2
concurrency: 2
resources: {workers: 1}
set: {schedule.steps: 120, evaluation.uri: null}
"""


class Quiet:
    """Nobody watches."""

    def show(self, trials: Sequence[Trial]) -> None:
        pass

    def say(self, message: str) -> None:
        pass


def free() -> tuple[float, float]:
    """CPU cores that are free, of how many."""
    return ray.available_resources().get("CPU", 0), ray.cluster_resources()["CPU"]


@pytest.fixture(scope="module")
def stopped(runs: Any) -> Search:
    """A search in which a trial failed and one was stopped."""
    return tune(parse_space(STOPPING), runs.config("schedule.steps=60"), "stopped", Quiet())


def test_early_stopping_and_failure_are_recorded_and_stop_nothing_else(stopped: Search) -> None:
    found = {t.values["variant"]: t for t in stopped.read()}
    assert {name: t.state for name, t in found.items() if name != "learns_too"} == {
        "learns": "finished", "diverges": "failed", "stands_still": "stopped"
    }  # fmt: skip
    assert "loss" in found["diverges"].note
    assert 15 <= found["stands_still"].step < 60
    assert [r["step"] for r in found["learns"].curve] == [15, 30, 45, 60]


def test_the_cluster_is_idle_after_a_search_with_early_stopping(stopped: Search) -> None:
    """The leak that Ray leaves: a stopped trial's placement group stays for as long as the driver lives."""
    deadline = time.monotonic() + 20
    while free()[0] < free()[1] and time.monotonic() < deadline:
        time.sleep(0.25)
    assert free()[0] == free()[1]
    groups = state.state.placement_group_table().values()
    assert {g["state"] for g in groups} <= {"REMOVED"}, groups


def test_a_trial_is_a_run_and_its_recipe_trains(stopped: Search, runs: Any) -> None:
    """A finished trial can be evaluated; a stopped one has a checkpoint; the best recipe gives the best trial again."""
    printed = leave_results(stopped)
    trials = {t.values["variant"]: t for t in stopped.read()}
    load_trained(Location(stopped.trials.child(trials["learns"].name).uri))
    assert committed(stopped.trials.child(trials["stands_still"].name))[0].step == trials["stands_still"].step
    best = max((t for t in trials.values() if t.state == "finished"), key=lambda t: t.curve[-1]["miou"])
    recipe = parse(stopped.store.read("best.yaml").decode())
    assert f"best    {best.name}:" in printed
    again = train(recipe.model_copy(update={"cluster": stopped.config(best.values).cluster}), "best", lambda r: None)
    assert again.store.read("model.safetensors") == stopped.trials.child(best.name).read("model.safetensors")
    rows = stopped.store.read("trials.csv").decode().splitlines()
    assert len(rows) == 5
    assert stopped.store.read("index.html").startswith(b"<!DOCTYPE html>")


@pytest.mark.slow
def test_a_search_survives_kills_of_a_trial_and_of_its_driver_and_a_preemption(
    runs: Any, driver: Callable[[list[str]], Any], tmp_path: Path
) -> None:
    """In turn: SIGKILL of a trial's process, SIGKILL of the driver, SIGTERM; the same command each time.

    What ended is not done again, and every trial ends as if nothing had been.
    """
    file = tmp_path / "space.yaml"
    file.write_text(KILLED)
    _, recipe, _, name, *rest = runs.command("killed", "cluster.workers=1", "checkpoint.every=10")
    command = ["tune", str(file), "--recipe", recipe, "--name", name, *rest]
    search = open_search(load_space(file), runs.config("cluster.workers=1", "checkpoint.every=10"), "killed")

    first = driver(command)
    first.read_until("trial-000 step")
    [process, *_] = actors(first.process.pid)
    process.kill()
    first.read_until("finished after")
    done = [line.split()[0] for line in first.lines if "finished after" in line]
    first.end(signal.SIGKILL)

    second = driver(command)
    second.read_until(" step ")
    below = psutil.Process(second.process.pid).children(recursive=True)
    assert second.end(signal.SIGTERM) == 85, second.lines
    assert "same command continues it" in second.lines[-1]
    assert not psutil.wait_procs(below, timeout=15)[1], "processes live on"

    third = driver(command)
    assert third.end() == 0, third.lines
    for name in done:
        assert not any(f"{name} started" in line for line in [*second.lines, *third.lines]), "done again"
    trials = search.read()
    assert [t.state for t in trials] == ["finished"] * 3
    for trial in trials:
        assert [r["step"] for r in trial.curve] == list(range(10, 121, 10)), "an evaluation lost or repeated"
        records = map(json.loads, search.trials.child(trial.name).read("metrics.jsonl").decode().splitlines())
        assert [r["step"] for r in records if "loss/total" in r] == list(range(1, 121)), "a step lost or repeated"
    interrupted = next(t for t in trials if t.name not in done)
    alone = train(search.config(interrupted.values), "alone", lambda record: None)
    assert alone.store.read("model.safetensors") == search.trials.child(interrupted.name).read("model.safetensors")


def actors(driver: int) -> list[psutil.Process]:
    """The processes of trials, of the cluster that this driver started."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if any("ResourceTrainable" in word or "ray::Trial" in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
