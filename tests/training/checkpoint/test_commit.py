"""Which checkpoints are kept, and that nothing half deleted looks whole. No engine: a commit and one file each."""

import math
from pathlib import Path

import pytest

from plca_dist.run_files import CHECKPOINTS, COMMIT
from plca_dist.storage import Store, resolve
from plca_dist.training.checkpoint.commit import Checkpoint, checkpoint_name, commit
from plca_dist.training.checkpoint.survey import committed, prune, survey, sweep


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return resolve(str(tmp_path))


def put(run: Store, step: int, *, miou: float | None = None, world_size: int = 1, generation: int = 1) -> Checkpoint:
    checkpoint = Checkpoint(
        checkpoint_name(step, world_size, generation), step, world_size, 0, "print", miou, {"file": (4, "hash")}
    )
    run.write(f"{checkpoint.place}/file", b"data")
    commit(run, checkpoint)
    return checkpoint


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
        prune(run, keep, put(run, step, miou=miou))
    assert [c.step for c in committed(run)] == steps[::-1]
    assert left(run) == [checkpoint_name(step, 1, 1) for step in steps]


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
    newest = put(run, 4)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete_tree", cut)
        with pytest.raises(Cut, match=checkpoint_name(2, 1, 1)):
            prune(run, 1, newest)
    assert (Path(run.root) / CHECKPOINTS / checkpoint_name(2, 1, 1) / "file").exists()
    assert [c.step for c in committed(run)] == [4]
    prune(run, 1, newest)
    assert left(run) == [checkpoint_name(4, 1, 1)], "leftovers go the next time"


def test_what_is_damaged_is_left_for_a_person_to_look_at(run: Store) -> None:
    newest = [put(run, step) for step in (2, 4, 6)][-1]
    run.write(f"{CHECKPOINTS}/{checkpoint_name(2, 1, 1)}/file", b"cut")
    prune(run, 1, newest)
    assert left(run) == [checkpoint_name(2, 1, 1), checkpoint_name(6, 1, 1)]
    assert run.exists(f"{CHECKPOINTS}/{checkpoint_name(2, 1, 1)}/{COMMIT}")


def test_a_sweep_takes_what_earlier_attempts_left_and_a_late_commit_finds_no_files(run: Store) -> None:
    """An attempt that was taken for dead wakes up between its look at the lease and its commit."""
    put(run, 2, generation=1)
    late = put(run, 4, generation=1)
    run.delete(f"{late.place}/{COMMIT}")
    run.write(f"{CHECKPOINTS}/{checkpoint_name(5, 1, 2)}/file", b"data")
    sweep(run, 2)
    assert left(run) == [checkpoint_name(2, 1, 1), checkpoint_name(5, 1, 2)], "its own it keeps"
    commit(run, late)
    found = survey(run)
    assert [c.step for c in found.counting] == [2]
    assert not found.damaged, "nobody has to look at it"


def test_an_attempt_prunes_nothing_that_may_be_newer(run: Store) -> None:
    """One that wakes up late goes by what it committed, and others have got further since."""
    late = put(run, 4, generation=1)
    for step in (5, 6):
        put(run, step, generation=2)
    run.write(f"{CHECKPOINTS}/{checkpoint_name(7, 1, 2)}/file", b"data")
    prune(run, 1, late)
    assert left(run) == [checkpoint_name(4, 1, 1), *(checkpoint_name(s, 1, 2) for s in (5, 6, 7))]


def test_a_checkpoint_that_is_deleted_while_one_looks_is_left_out(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (2, 4):
        put(run, step)
    read = Store.read

    def deleted_first(self: Store, name: str) -> bytes:
        if checkpoint_name(2, 1, 1) in name:
            self.delete_tree(name.rpartition("/")[0])
        return read(self, name)

    monkeypatch.setattr(Store, "read", deleted_first)
    found = survey(run)
    assert ([c.step for c in found.counting], found.damaged, found.unfinished) == ([4], {}, [])


@pytest.mark.parametrize("name", ["../../../escaped", "/escaped", "a/../../b", "", "a\nb", "\\a"])
def test_a_commit_leads_nowhere_else(run: Store, name: str) -> None:
    checkpoint = Checkpoint(checkpoint_name(2, 1, 1), 2, 1, 0, "print", None, {name: (4, "hash")})
    commit(run, checkpoint)
    assert "is no file of a checkpoint" in survey(run).damaged[checkpoint.name]
