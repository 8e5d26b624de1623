"""Which checkpoints are kept, and that nothing half deleted looks whole. No engine: a commit and one file each."""

import math
from pathlib import Path

import pytest

from plca_dist.run_files import CHECKPOINTS, COMMIT
from plca_dist.storage import Store, resolve
from plca_dist.training.checkpoint.commit import Checkpoint, checkpoint_name, commit, committed, prune


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return resolve(str(tmp_path))


def put(run: Store, step: int, *, miou: float | None = None, world_size: int = 1) -> None:
    checkpoint = Checkpoint(
        checkpoint_name(step, world_size), step, world_size, 0, "print", miou, {"file": (4, "hash")}
    )
    run.write(f"{checkpoint.place}/file", b"data")
    commit(run, checkpoint)


def left(run: Store) -> list[str]:
    return sorted(p.name for p in (Path(run.root) / CHECKPOINTS).iterdir())


@pytest.mark.parametrize(
    ("keep", "scores", "steps"),
    [
        (2, [None, None, None, None, None], [4, 5]),
        (1, [None, None, None, None, None], [5]),
        (2, [10.0, 50.0, 20.0, 30.0, 20.0], [2, 4, 5]),
        (2, [10.0, 20.0, 20.0, 30.0, 50.0], [4, 5]),
        (1, [40.0, 40.0, 40.0, 10.0, None], [3, 5]),  # of equals the newest
        (1, [math.nan, 0.0, math.nan, None, None], [2, 5]),  # nothing to score is no score; 0 is one
        (9, [None, 1.0, None, None, None], [1, 2, 3, 4, 5]),
    ],
)
def test_the_newest_and_the_best_are_kept(run: Store, keep: int, scores: list[float | None], steps: list[int]) -> None:
    for step, miou in enumerate(scores, 1):
        put(run, step, miou=miou)
        prune(run, keep)
    assert [c.step for c in committed(run)] == steps[::-1]
    assert left(run) == [checkpoint_name(step, 1) for step in steps]


def test_newest_first_whatever_wrote_them(run: Store) -> None:
    for step, world_size in ((5, 2), (12, 1), (5, 16), (100_000_000, 1)):
        put(run, step, world_size=world_size)
    assert [c.step for c in committed(run)] == [100_000_000, 12, 5, 5]


def test_a_deletion_cut_short_leaves_nothing_that_looks_whole(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(Exception):
        pass

    def cut(self: Store, name: str) -> None:
        raise Cut(name)

    put(run, 2)
    put(run, 4)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete_tree", cut)
        with pytest.raises(Cut, match=checkpoint_name(2, 1)):
            prune(run, keep=1)
    assert (Path(run.root) / CHECKPOINTS / checkpoint_name(2, 1) / "file").exists()
    assert [c.step for c in committed(run)] == [4]
    prune(run, keep=1)
    assert left(run) == [checkpoint_name(4, 1)], "leftovers go the next time"


def test_what_is_damaged_is_left_for_a_person_to_look_at(run: Store) -> None:
    for step in (2, 4, 6):
        put(run, step)
    run.write(f"{CHECKPOINTS}/{checkpoint_name(2, 1)}/file", b"cut")
    prune(run, keep=1)
    assert left(run) == [checkpoint_name(2, 1), checkpoint_name(6, 1)]
    assert run.exists(f"{CHECKPOINTS}/{checkpoint_name(2, 1)}/{COMMIT}")
