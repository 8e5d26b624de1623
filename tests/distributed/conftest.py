"""One undisturbed run on a real Ray cluster with real S3 storage: the measure of every other."""

import json
from dataclasses import dataclass

import pytest

from plca_dist.config import Config
from plca_dist.data.prepare import prepare_toytown
from plca_dist.launch.run import Run
from plca_dist.launch.train import train
from plca_dist.recipe import load
from plca_dist.storage import Store, resolve

STEPS, EVERY = 240, 10
#: Long enough that a kill and a Ctrl-C meet it in its middle, though workers may outlive their driver by seconds;
#: deterministic, so that bytes can be compared.
SETTINGS = [
    "data=s3://bucket/cluster/shards", "source.uri=source", "target.uri=target", "evaluation.uri=val",
    "source.crop=[32, 64]", "target.crop=[32, 64]", f"schedule.steps={STEPS}", f"checkpoint.every={EVERY}",
    "checkpoint.keep=2", "log.every=1", "deterministic=true", "seed=3", "batch.pairs=4", "cluster.workers=2",
]  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """Runs of one recipe in one place. `steps`: of each; `every`: steps between checkpoints."""

    store: Store
    shards: Store
    steps: int = STEPS
    every: int = EVERY

    def config(self, *more: str) -> Config:
        return load("toytown", [*SETTINGS, f"storage.uri={self.store.uri}", *more])

    def command(self, name: str, *more: str) -> list[str]:
        """What a person types after `plca` for the same."""
        sets = [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
        return ["train", "toytown", "--name", name, "--storage", self.store.uri, *sets]

    def weights(self, name: str) -> bytes:
        return self.store.read(f"{name}/model.safetensors")

    def recorded(self, name: str) -> list[int]:
        """Steps in the run's metrics."""
        records = map(json.loads, self.store.read(f"{name}/metrics.jsonl").decode().splitlines())
        return [r["step"] for r in records if "loss/total" in r]

    def of_ray(self, name: str) -> list[str]:
        """What Ray left in the run."""
        return [e.name for e in self.store.list(name) if "/.ray/" in e.name]


@pytest.fixture(scope="session")
def runs(ray_session: object) -> Runs:
    shards = resolve("s3://bucket/cluster/shards")
    prepare_toytown(shards, size=(32, 64), count=24, progress=lambda what, done, total: None)
    return Runs(resolve("s3://bucket/cluster/runs"), shards)


@pytest.fixture(scope="session")
def undisturbed(runs: Runs) -> Run:
    """A run that nothing happened to."""
    return train(runs.config(), "undisturbed", lambda record: None)
