"""Two real processes with a teacher: every ZeRO stage, resuming in fresh ones, and on four."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from plca_dist.data.prepare import prepare_toytown
from plca_dist.models.weights import load_weights
from plca_dist.storage import resolve
from tests.distributed.test_ranks import LAST, SCENES, STAGES, after_4_steps, assert_equal, start

#: The first test waits for all processes.
pytestmark = pytest.mark.timeout(600)
MOVED = ((0, 3), (3, 0))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    place = tmp_path_factory.mktemp("taught")
    (place / "seen").mkdir()
    prepare_toytown(resolve(str(place / "data")), size=(32, 64), count=SCENES, progress=lambda *_: None)
    codes = start(place, "taught", 2)
    for old, new in MOVED:
        after_4_steps(place / f"taught-{old}", place / f"taught-{old}-to-{new}")
    codes += start(place, "taught-again", 2) + start(place, "taught-four", 4)
    assert set(codes) == {0}

    def seen(run: str, rank: int = 0) -> dict[str, Any]:
        return torch.load(place / "seen" / f"{run}.rank{rank}.pt", weights_only=False)  # messages are objects

    return SimpleNamespace(place=place, seen=seen)


def saved(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "checkpoints" / LAST / "companions.pt", weights_only=True)["teacher"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_rank_has_the_same_teacher(world: SimpleNamespace, stage: int) -> None:
    first, second = world.seen(f"taught-{stage}"), world.seen(f"taught-{stage}", 1)
    assert list(first["taught"]) == [2, 4, 6]
    for step in first["taught"]:
        assert_equal(first["taught"][step], second["taught"][step])
        assert_equal(first["states"][step], second["states"][step])
    assert_equal(saved(world.place / f"taught-{stage}"), first["taught"][6])
    left = load_weights((world.place / f"taught-{stage}" / "teacher.safetensors").read_bytes())
    assert_equal(dict(left.state_dict()), first["taught"][6])


@pytest.mark.parametrize("stage", STAGES[1:])
def test_every_stage_teaches_alike(world: SimpleNamespace, stage: int) -> None:
    plain, other = world.seen("taught-0"), world.seen(f"taught-{stage}")
    for name, value in other["taught"][6].items():
        torch.testing.assert_close(value, plain["taught"][6][name], rtol=1e-4, atol=1e-5, msg=name)
    for a, b in zip(other["records"], plain["records"], strict=True):
        if isinstance(a, dict) and "loss/class_mix" in a:
            assert a["loss/class_mix"] == pytest.approx(b["loss/class_mix"], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("stage", [0, 3])
def test_cut_short_it_ends_the_same(world: SimpleNamespace, stage: int) -> None:
    cut, whole = world.seen(f"taught-cut-{stage}"), world.seen(f"taught-{stage}")
    assert_equal(cut["taught"][6], whole["taught"][6])
    assert_equal(cut["states"][6], whole["states"][6])


@pytest.mark.parametrize(("old", "new"), MOVED)
def test_four_ranks_continue_with_the_teacher_of_two(world: SimpleNamespace, old: int, new: int) -> None:
    moved, whole = world.seen(f"taught-{old}-to-{new}", 3), world.seen(f"taught-{old}")
    moving = 0.0
    for name, value in moved["taught"][6].items():
        if "running" in name or "tracked" in name:  # four ranks see a step in one pass, two in two
            continue
        torch.testing.assert_close(value, whole["taught"][6][name], rtol=0, atol=1e-6, msg=name)
        moving = max(moving, float((value - whole["taught"][4][name]).abs().max()))
    assert moving > 5e-5, "the last two steps are seen"
    assert_equal(moved["taught"][6], world.seen(f"taught-{old}-to-{new}")["taught"][6])
    mixes = [
        [r["loss/class_mix"] for r in seen["records"] if isinstance(r, dict) and "loss/class_mix" in r]
        for seen in (world.seen(f"taught-{old}-to-{new}"), whole)
    ]
    assert len(mixes[0]) == 2
    assert mixes[0][0] == pytest.approx(mixes[1][4], rel=1e-5), "the next step has the same mixes"
