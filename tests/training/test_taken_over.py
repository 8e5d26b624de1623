"""An attempt that was taken for dead wakes up after another has finished the run: nothing that counts is changed.

The guard of the store asks whether the attempt may make a change, and then the change is made. An attempt may fall
asleep between the two, so a change of each kind is held back there, and made when the heir has finished.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plca_dist.config import Config
from plca_dist.errors import LeaseLost
from plca_dist.run.lease import guarded
from plca_dist.storage import resolve
from plca_dist.storage.local_files import LocalFiles
from plca_dist.training.checkpoint.survey import sweep
from plca_dist.training.context import TrainContext
from plca_dist.training.loop import run_worker
from tests.training.conftest import CPU

#: Names that carry the number of the first attempt.
DEAD = re.compile(r"attempts/00000001/|tensorboard/.*\.00000001$|checkpoints/.*-g1/|lease/00000001")


class Asleep(Exception):
    """Stands for a process that is stopped."""


class SleepyFiles(LocalFiles):
    """Local files that note every change, and make none from the first change for which `falls_asleep` is true."""

    def __init__(self, root: Path, falls_asleep: Callable[[str], bool] = lambda change: False) -> None:
        self.changes: list[str] = []
        self.late: Callable[[], object] | None = None
        self._root, self._falls_asleep = root, falls_asleep

    def _change(self, kind: str, path: str, make: Callable[[], Any]) -> Any:
        change = f"{kind} {Path(path).relative_to(self._root)}"
        self.changes.append(change)
        if self.late is None and self._falls_asleep(change):
            self.late = make
        if self.late is not None:
            raise Asleep(change)
        return make()

    def write(self, path: str, data: bytes) -> None:
        self._change("write", path, lambda: LocalFiles.write(self, path, data))

    def create(self, path: str, data: bytes) -> bool:
        return bool(self._change("create", path, lambda: LocalFiles.create(self, path, data)))

    def upload(self, source: Path, path: str) -> None:
        data = source.read_bytes()
        self._change("upload", path, lambda: LocalFiles.write(self, path, data))

    def delete(self, path: str) -> None:
        self._change("delete", path, lambda: LocalFiles.delete(self, path))

    def delete_tree(self, path: str) -> None:
        self._change("delete_tree", path, lambda: LocalFiles.delete_tree(self, path))


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Config]) -> Config:
    """The checkpoints of steps 1 and 3 have no mIoU: whichever is the best, they are deleted."""
    return make_config(
        "schedule.steps=4", "evaluation.uri=val", "evaluation.every=2", "checkpoint.every=1", "checkpoint.keep=1"
    )


def train(config: Config, run: Path, generation: int, files: LocalFiles) -> None:
    store = replace(resolve(str(run)), files=files)
    store.write(f"lease/{generation:08d}.json", b"{}")
    sweep(store, generation)
    run_worker(config, TrainContext(guarded(store, generation), CPU, lambda event: None, generation))


def contents(run: Path) -> dict[str, bytes]:
    """What counts: every file but those of the dead attempt."""
    files = {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.is_file()}
    return {name: data for name, data in files.items() if not DEAD.match(name)}


def kinds(changes: list[str]) -> Iterator[tuple[str, int]]:
    """The last change of each kind, with its place; changes are of a kind where their names differ in numbers alone."""
    last = {re.sub(r"[\d.]+", "N", change): at for at, change in enumerate(changes)}
    yield from last.items()


@pytest.mark.usefixtures("group")
def test_a_late_change_hits_nothing_that_counts(config: Config, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    awake = SleepyFiles(whole)
    train(config, whole, 1, awake)
    found = dict(kinds(awake.changes[1:]))  # without the lease itself
    assert len(found) >= 9, found
    assert {k.split()[0] for k in found} == {"write", "create", "upload", "delete", "delete_tree"}
    for kind, at in found.items():
        run = tmp_path / f"run-{at}"
        count = iter(range(10**6))
        asleep = SleepyFiles(run, lambda _, count=count, at=at: next(count) == at + 1)  # type: ignore[misc]
        with pytest.raises((Asleep, RuntimeError)):
            train(config, run, 1, asleep)
        assert asleep.late is not None
        train(config, run, 2, LocalFiles())
        before = contents(run)
        assert before["model.safetensors"] == (whole / "model.safetensors").read_bytes(), kind
        assert before["evaluation.json"] == (whole / "evaluation.json").read_bytes(), kind
        asleep.late()
        assert contents(run) == before, f"{kind} came late, and changed what counts"
        with pytest.raises(LeaseLost):
            guarded(resolve(str(run)), 1).write("model.safetensors", b"")
