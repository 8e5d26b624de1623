"""What kills, Ctrl-C and damage do to a run on a real cluster. The weights in the end are equal in every bit."""

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from plca_dist.cli import main
from plca_dist.data.labels import LABEL_SETS
from plca_dist.messages import Message, RunEvent
from plca_dist.run.directory import Run
from plca_dist.run.history import read_history
from plca_dist.run.train import train
from plca_dist.training.checkpoint.survey import committed


def test_a_killed_worker_costs_only_the_way_back_to_the_checkpoint(
    undisturbed: Run, runs: Any, training_workers: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a budget for errors: a lost process must not need one."""
    said: list[str] = []
    killed: list[int] = []

    def show(event: RunEvent) -> None:
        if isinstance(event, Message):
            said.append(event.text)
            if not killed and event.kind == "checkpoint":
                victim = training_workers(os.getpid())[-1]
                killed.append(victim.pid)
                victim.kill()

    train(runs.config("cluster.max_failures=0"), "worker-killed", show)
    assert capfd.readouterr() == ("", ""), "Ray chats"
    assert killed, "it ended before anything was killed"
    assert any("worker failed" in line and "restarting from step" in line for line in said)
    assert any("continuing from step" in line for line in said)
    assert runs.recorded("worker-killed") == list(range(1, runs.steps + 1))
    assert runs.weights("worker-killed") == runs.weights("undisturbed")
    assert not runs.of_ray("worker-killed")
    assert [a.end for a in read_history(runs.store.child("worker-killed"))] == ["restarted", "finished"]


def test_a_shard_damaged_after_its_manifest_ends_the_run_in_one_line(
    runs: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    for entry in runs.shards.list("source"):
        data = bytearray(runs.shards.read(entry.name))
        if entry.name.endswith(".parquet"):
            data[len(data) // 8 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 8)
        runs.shards.write(entry.name.replace("source", "damaged"), bytes(data))
    assert main(runs.command("damaged", "source.uri=damaged", "checkpoint.every=1000")) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if not line.startswith(("starting ", *"0123456789"))]
    assert line.startswith(f"plca: {runs.shards.uri}/damaged/shard-00000.parquet: ")
    assert "write the shards again" in line
    assert not runs.store.exists("damaged/model.safetensors")
    assert not runs.of_ray("damaged")


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


@pytest.mark.ci
@pytest.mark.timeout(600)
def test_a_killed_driver_and_a_ctrl_c_cost_nothing_either(
    undisturbed: Run, runs: Any, driver: Callable[[list[str]], Any], training_workers: Any
) -> None:
    """SIGKILL, then the same command and Ctrl-C, then the same command again."""
    arguments = runs.command("driver-killed")
    first = driver(arguments)
    first.read_until("checkpoint step")
    ranks = training_workers(first.process.pid)
    assert len(ranks) == 2
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert gone(ranks, 30), "the dead driver's workers live on"
    reached = committed(runs.store.child("driver-killed"))[0].step

    second = driver(arguments)
    second.read_until("continuing from step ")  # before it, a warning may name a checkpoint that the kill cut short
    second.read_until("checkpoint step")
    below = psutil.Process(second.process.pid).children(recursive=True)
    assert second.end(signal.SIGINT) == 130
    assert gone(below, 10)
    assert any(line.startswith(f"continuing from step {reached} ") for line in second.lines)
    (last,) = [line for line in second.lines if line.startswith("plca: ")]
    assert "interrupted" in last
    assert "the same command continues it" in last
    assert last == second.lines[-1]
    assert not any("Traceback" in line for line in second.lines)
    assert not runs.of_ray("driver-killed")

    third = driver(arguments)
    assert third.end() == 0
    assert third.lines[-1] == f"run: {runs.store.uri}/driver-killed"
    told = (
        "run: ",
        "starting ",
        "checkpoint ",
        "continuing ",
        "warning: passing over checkpoint ",  # the kill may have met an upload half-way
        "step ",
        "class ",
        "─",
        "mIoU",
        "–",
        *LABEL_SETS["toytown"].classes,
    )
    chatter = [line for line in third.lines if not line.startswith(told) and f"/{runs.steps} " not in line]
    assert not chatter
    assert runs.recorded("driver-killed") == list(range(1, runs.steps + 1))
    assert runs.weights("driver-killed") == runs.weights("undisturbed")
    ends = [(a.launch, a.end) for a in read_history(runs.store.child("driver-killed"))]
    assert ends == [(1, ""), (2, "interrupted"), (3, "finished")]
