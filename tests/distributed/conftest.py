"""Fixtures of the tests on a real Ray cluster with real S3 storage.

Every other run is compared with one undisturbed run.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import pytest

from plca_dist.config import Config
from plca_dist.data.prepare import prepare_toytown
from plca_dist.recipe import load
from plca_dist.run.directory import Run
from plca_dist.run.train import train
from plca_dist.storage import Store, resolve
from plca_dist.training.metrics_log import read_records

STEPS, EVERY = 240, 10
#: A run is so long that a kill and a Ctrl-C arrive before its end, though workers may outlive their driver by seconds.
#: It is deterministic, so that bytes can be compared.
SETTINGS = [
    "data=s3://bucket/cluster/shards", "source.uri=source", "target.uri=target", "evaluation.uri=val",
    "source.crop=[32, 64]", "target.crop=[32, 64]", f"schedule.steps={STEPS}", f"checkpoint.every={EVERY}",
    "checkpoint.keep=2", "log.every=1", "deterministic=true", "seed=3", "batch.pairs=4", "cluster.workers=2",
]  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """Runs of one recipe in one store. Each has `steps` steps and a checkpoint every `every` steps."""

    store: Store
    shards: Store
    steps: int = STEPS
    every: int = EVERY

    def config(self, *more: str) -> Config:
        return load("toytown", [*SETTINGS, f"storage.uri={self.store.uri}", *more])

    def command(self, name: str, *more: str) -> list[str]:
        """The arguments of `plca` that start the same run."""
        sets = [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
        return ["train", "toytown", "--name", name, "--storage", self.store.uri, *sets]

    def weights(self, name: str) -> bytes:
        return self.store.read(f"{name}/model.safetensors")

    def recorded(self, name: str) -> list[int]:
        """The steps in the run's metrics."""
        return [r["step"] for r in read_records(self.store.child(name)) if "loss/total" in r]

    def of_ray(self, name: str) -> list[str]:
        """Names of files that Ray left in the run."""
        return [e.name for e in self.store.list(name) if "/.ray/" in e.name]


@pytest.fixture(scope="session")
def runs(ray_session: object) -> Runs:
    shards = resolve("s3://bucket/cluster/shards")
    prepare_toytown(shards, size=(32, 64), count=24, progress=lambda what, done, total: None)
    return Runs(resolve("s3://bucket/cluster/runs"), shards)


@pytest.fixture(scope="session")
def undisturbed(runs: Runs) -> Run:
    """A run without any fault."""
    return train(runs.config(), "undisturbed", lambda record: None)


@pytest.fixture
def training_workers() -> Callable[[int], list[psutil.Process]]:
    return _training_workers


def _training_workers(driver: int) -> list[psutil.Process]:
    """The ranks' processes in the cluster that this driver started, and no other's."""
    below = psutil.Process(driver).children(recursive=True)
    return [p for p in below if any("RayTrainWorker" in word for word in _words(p))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


class Driver:
    """`plca train` in a process and a cluster of its own."""

    def __init__(self, arguments: list[str], **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "plca_dist.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self.lines: list[str] = []

    def read_until(self, part: str) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if part in line:
                return
        pytest.fail(f"it ended without {part!r}: {self.lines}")

    def end(self, sign: signal.Signals | None = None) -> int:
        """Send the signal (SIGINT to the whole process group, as a terminal does), read to the end, return the code."""
        if sign == signal.SIGINT:
            os.killpg(self.process.pid, sign)
        elif sign:
            self.process.send_signal(sign)
        assert self.process.stdout
        self.lines += [line.rstrip() for line in self.process.stdout]
        return self.process.wait(60)


@pytest.fixture
def driver() -> Iterator[Callable[..., Driver]]:
    started: list[Driver] = []

    def start(arguments: list[str], **environment: str) -> Driver:
        started.append(Driver(arguments, **environment))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
