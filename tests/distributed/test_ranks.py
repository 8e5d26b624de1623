"""Two real processes: every ZeRO stage, resuming in fresh ones, other world sizes, faults on one rank alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor

from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.prepare import prepare_toytown
from plca_dist.data.whole_images import labelled_samples, whole_pairs
from plca_dist.messages import Message
from plca_dist.models.weights import load_weights
from plca_dist.storage import resolve
from plca_dist.training.checkpoint.full_state import read_module, weights_of
from plca_dist.training.checkpoint.internals import join, optimizer_files
from plca_dist.training.checkpoint.survey import committed
from plca_dist.training.criteria import measure
from plca_dist.training.evaluation import evaluate
from plca_dist.training.watchdog import EXIT_CODE

#: The first test waits for all processes, which share two cores with the tests that run beside it.
pytestmark = pytest.mark.timeout(600)

SCENES = 28
IMAGES = SCENES // 4  # to evaluate on: 7, which two ranks cannot share evenly
LAST = "step-00000006-of-2-g1"
STAGES = (0, 1, 2, 3)
TURNS = ((0, 2), (2, 0), (1, 3), (3, 1))
#: A ViT under AdamW: ZeRO stages on two ranks, and after a checkpoint on one or four.
ADAMW = ((1, 0), (3, 2), (0, 3))
TIMES = ("pairs_per_second", "data_wait", "elapsed_s")


def start(place: Path, scene: str, world_size: int) -> list[int]:
    """Play a scene of `rank.py` in as many processes; returns their exit codes."""
    shared = {**os.environ, "WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    command = [sys.executable, str(Path(__file__).with_name("rank.py")), str(place), scene]
    processes, logs = [], []
    for rank in range(world_size):
        log = (place / f"{scene}.rank{rank}.log").open("w+")
        variables = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT))
        logs.append(log)
    try:
        return [process.wait(200) for process in processes]
    finally:
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            process.wait()
            log.seek(0)
            print(f"{Path(log.name).name}:\n{log.read()[-4000:]}")
            log.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """All scenes, played once."""
    place = tmp_path_factory.mktemp("world")
    (place / "seen").mkdir()
    prepare_toytown(resolve(str(place / "data")), size=(32, 64), count=SCENES, progress=lambda *_: None)
    codes = {"first": start(place, "first", 2)}
    assert codes["first"][1] == -signal.SIGKILL, "rank 1 is killed in the scene's last run, and not before"
    for stage in STAGES:
        for copy in (f"moved-{stage}", f"back-{stage}", f"wide-{stage}"):
            after_4_steps(place / f"whole-{stage}", place / copy)
    for old, new in TURNS:
        after_4_steps(place / f"whole-{old}", place / f"turned-{old}-{new}")
    for old, new in ADAMW:
        after_4_steps(place / f"adamw-{old}", place / f"adamw-{old}-to-{new}")
    codes["alone"] = start(place, "alone", 1)
    codes["again"] = start(place, "again", 2)
    codes["four"] = start(place, "four", 4)
    codes["stuck"] = start(place, "stuck", 2)

    def seen(run: str, rank: int = 0) -> dict[str, Any]:
        return torch.load(place / "seen" / f"{run}.rank{rank}.pt", weights_only=False)  # messages are objects

    def state(run: str, rank: int = 0, step: int = 6) -> dict[str, Tensor]:
        return seen(run, rank)["states"][step]

    return SimpleNamespace(place=place, codes=codes, seen=seen, state=state)


def after_4_steps(run: Path, copy: Path) -> None:
    """A copy of a whole run as it was after its checkpoint at step 4."""
    shutil.copytree(run, copy)
    (copy / "model.safetensors").unlink()
    shutil.rmtree(copy / "checkpoints" / LAST)


def test_processes_end_as_they_should(world: SimpleNamespace) -> None:
    assert world.codes["again"] == [0, 0]
    assert world.codes["alone"] == [0]
    assert world.codes["four"] == [0, 0, 0, 0]
    assert world.codes["first"][0] not in (0, None), "a rank that lost its peer must not look as if it had succeeded"


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("run", [*(f"whole-{s}" for s in STAGES), "cut-0", "cut-3", "bfloat16-0", "bfloat16-2"])
def test_all_ranks_hold_the_same_weights_and_statistics(world: SimpleNamespace, run: str) -> None:
    for step in world.seen(run)["states"]:
        assert_equal(world.state(run, 0, step), world.state(run, 1, step))


@pytest.mark.parametrize("stage", STAGES[1:])
def test_every_zero_stage_trains_the_same(world: SimpleNamespace, stage: int) -> None:
    """Sums in another order differ in the last bit; a term, a pass or the clipping left out would differ in the first.

    The bound is a thousandth of how far the weights have moved.
    """
    before, after, other = (world.state(f"whole-{s}", 0, step) for s, step in ((0, 2), (0, 6), (stage, 6)))
    assert other.keys() == after.keys()
    for name, value in after.items():
        moved = float((value - before[name]).abs().max())
        assert float((other[name] - value).abs().max()) <= 1e-3 * moved + 1e-6, name


def test_the_gradients_were_clipped(world: SimpleNamespace) -> None:
    """Momentum 0.9 and six steps: no weight can have moved further than the sum of six clipped steps."""
    rate, clip = 0.05, 0.05  # of the recipe in rank.py
    for stage in STAGES:
        states = world.seen(f"whole-{stage}")["states"]
        names = [n for n in states[2] if n.endswith("weight") and "bn" not in n]
        moved = torch.cat([(states[6][n] - states[2][n]).flatten() for n in names])
        decay = 5e-4 * torch.cat([states[2][n].flatten() for n in names]).norm()
        assert 0 < float(moved.norm()) < 4 * rate * (clip + float(decay)) / (1 - 0.9)


def records(world: SimpleNamespace, run: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (world.place / run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in TIMES and "miou" not in r} for r in found if "miou" not in r]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_interrupted_and_continued_in_fresh_processes_it_ends_bit_identical(world: SimpleNamespace, stage: int) -> None:
    """Stage 2 lost rank 1 to a SIGKILL, the others an exception on both ranks, all in step 5.

    The checkpoint of step 4 was still on its way.
    """
    cut, whole = f"cut-{stage}", f"whole-{stage}"
    assert world.seen(cut)["error"] is None
    assert list(world.seen(cut)["states"]) == [4, 6], "continued from step 2"
    assert Message("continuing", "continuing from step 2 (step-00000002-of-2-g1)") in world.seen(cut)["records"]
    for rank in (0, 1):
        assert_equal(world.state(cut, rank), world.state(whole, rank))
    assert records(world, cut) == records(world, whole)
    assert [r["step"] for r in records(world, cut)] == [1, 2, 3, 4, 5, 6]
    result = "model.safetensors"
    assert (world.place / cut / result).read_bytes() == (world.place / whole / result).read_bytes()


@pytest.mark.parametrize("stage", [1, 2])
def test_a_notice_to_one_rank_stops_both_at_the_same_step(world: SimpleNamespace, stage: int) -> None:
    for rank in (0, 1):
        error = world.seen(f"preempted-{stage}", rank)["error"]
        assert error == "Preempted: preempted (SIGTERM): checkpoint at step 3 committed"
        assert [k for k in world.seen(f"preempted-{stage}", rank)["states"] if k != "error"] == [2, 3]
    again = world.seen(f"preempted-{stage}-again")
    assert Message("continuing", "continuing from step 3 (step-00000003-of-2-g1)") in again["records"]
    assert_equal(again["states"][6], world.state(f"whole-{stage}"))
    assert records(world, f"preempted-{stage}") == records(world, f"whole-{stage}")


@pytest.mark.parametrize("stage", STAGES)
def test_weights_without_an_engine_are_the_live_ones(world: SimpleNamespace, stage: int) -> None:
    store = resolve(str(world.place / f"whole-{stage}"))
    for step in (2, 6):
        weights = weights_of(store, f"step-{step:08d}-of-2-g1")
        live = world.state(f"whole-{stage}", step=step)
        assert_equal(weights, live)
        assert all(weights[name].dtype == live[name].dtype for name in live)
    result = load_weights(store.read("model.safetensors")).state_dict()
    assert_equal(dict(result), world.state(f"whole-{stage}"))


@pytest.mark.parametrize("run", [*(f"{way}-{s}" for way in ("whole", "wide", "moved") for s in STAGES[1:])])
def test_weights_are_joined_as_deepspeed_joins_them(world: SimpleNamespace, run: str) -> None:
    """Of two ranks, four and one, from the optimizer files alone and with the buffers."""
    stage = int(run[-1])
    for folder in (world.place / run / "checkpoints").iterdir():
        theirs = get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name)
        files = optimizer_files(folder, stage)
        assert_equal(read_module(folder, stage), dict(theirs))
        parameters = join(folder, stage, files, [file.weights for file in files])
        assert_equal(parameters, {name: theirs[name] for name in parameters})
        assert len(parameters) > 30


@pytest.mark.parametrize(
    ("run", "source", "step"),
    [
        *((f"moved-{s}", f"whole-{s}", 4) for s in STAGES),  # 2 -> 1
        *((f"back-{s}-alone", f"whole-{s}", 4) for s in STAGES[1:]),  # 2 -> 1, asked to leave after step 5
        *((f"back-{s}", f"back-{s}-alone", 5) for s in STAGES[1:]),  # 1 -> 2
        *((f"wide-{s}", f"whole-{s}", 4) for s in STAGES[1:]),  # 2 -> 4
        *((f"turned-{old}-{new}", f"whole-{old}", 4) for old, new in TURNS),
        *((f"adamw-{old}-to-{new}", f"adamw-{old}", 4) for old, new in ADAMW),  # 2 -> 1 and 2 -> 4
    ],
)
def test_at_another_world_size_or_stage_everything_comes_across_exactly(
    world: SimpleNamespace, run: str, source: str, step: int
) -> None:
    seen = world.seen(run)
    weights, momenta = seen["restored"]
    assert_equal(weights, world.state(source, step=step))
    assert_equal(momenta, world.seen(source)["momenta"][step])
    assert min(float(m.abs().max()) for m in momenta.values()) > 0
    assert seen["error"] == (
        "Preempted: preempted (SIGTERM): checkpoint at step 5 committed" if "alone" in run else None
    )


@pytest.mark.parametrize(
    "run",
    ["moved-0", *(f"{way}-{s}" for way in ("moved", "back", "wide") for s in STAGES[1:]),
     *(f"turned-{old}-{new}" for old, new in TURNS)],
)  # fmt: skip
def test_and_the_run_ends_where_it_would_have(world: SimpleNamespace, run: str) -> None:
    """The same pairs in other passes on other ranks: the same but for rounding and batch norm's batches of one."""
    assert [r["step"] for r in records(world, run)] == [1, 2, 3, 4, 5, 6]
    stage = run.split("-")[1]
    before, after, expected = world.state("whole-0", step=4), world.state(run), world.state(f"whole-{stage}")
    moved, apart = distance(before, expected), distance(after, expected)
    assert apart < 1e-4 * moved, (apart, moved)


def test_adamw_resumes_bit_identical_and_elsewhere_but_for_rounding(world: SimpleNamespace) -> None:
    """Small gradients weigh as much as large ones under AdamW, hence the bound."""
    assert_equal(world.state("adamw-cut-3"), world.state("adamw-3"))
    assert records(world, "adamw-cut-3") == records(world, "adamw-3")
    rates = [r["learning_rate"] for r in records(world, "adamw-3")]
    assert rates == pytest.approx([0.001 * min((k + 1) / 3, 1) * (1 - k / 6) ** 0.9 for k in range(6)])
    for old, new in ADAMW:
        run = f"adamw-{old}-to-{new}"
        before, expected = world.state(f"adamw-{old}", step=4), world.state(f"adamw-{old}")
        moved, apart = distance(before, expected), distance(world.state(run), expected)
        assert apart < 1e-2 * moved, (run, apart, moved)
        assert records(world, run)[-1]["step"] == 6
        frozen = [n for n in expected if n.startswith(("backbone.pos_embed", "backbone.blocks.0."))]
        assert len(frozen) > 10
        assert all(torch.equal(world.state(run)[n], world.state("adamw-0", step=2)[n]) for n in frozen)
        steps = (world.seen(run)["restored"][1]["steps"], world.seen(run)["momenta"][6]["steps"])
        assert [s.tolist() for s in steps] == [[4.0], [6.0]]


def test_checkpoints_of_both_world_sizes_stand_side_by_side(world: SimpleNamespace) -> None:
    found = [c.name for c in committed(resolve(str(world.place / "moved-2")))]
    assert found == ["step-00000006-of-1-g2", "step-00000004-of-2-g1", "step-00000002-of-2-g1"]


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    trained = [name for name in one if name.endswith("weight")]
    return float(torch.cat([(one[name] - other[name]).flatten() for name in trained]).norm())


def test_one_rank_with_four_pairs_learns_what_two_ranks_with_two_do(world: SimpleNamespace) -> None:
    """Losses are means over pairs, whether four come in four passes on one rank or two at once on each of two.

    Batch norm apart: it is frozen here.
    """
    apart = distance(world.state("even-1"), world.state("even-2"))
    moved = distance(world.state("even-1", step=2), world.state("even-1"))
    assert apart < 1e-3 * moved, (apart, moved)
    for one, two in zip(records(world, "even-1"), records(world, "even-2"), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-3)


def test_an_error_of_one_rank_is_raised_on_both(world: SimpleNamespace) -> None:
    """Rank 1's download and rank 1's NaN: rank 0 says the same and waits for nobody."""
    for rank in (0, 1):
        error = world.seen("unreadable", rank)["error"]
        assert error.startswith("UserError: ")
        assert error.endswith("access is denied.")
    errors = [world.seen("nan", rank)["error"] for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert errors[0].startswith("TrainingFault: the loss is not finite at step 3 (rank 1")
    assert "lovasz nan" in errors[0]
    assert "newest good checkpoint: step-00000002-of-2-g1" in errors[0]
    assert [c.step for c in committed(resolve(str(world.place / "nan")))] == [2]
    good, found = (world.seen("nan")["states"][k] for k in (2, "error"))
    trained = [name for name in good if name.endswith(("weight", "bias"))]
    assert all(torch.equal(good[name], found[name]) for name in trained), "a step was taken on a NaN"


def test_uploads_that_fail_on_one_rank_are_known_to_both(world: SimpleNamespace) -> None:
    assert world.seen("refused-once")["error"] is None
    assert [c.step for c in committed(resolve(str(world.place / "refused-once")))] == [6, 4]
    messages = [e for e in world.seen("refused-once")["records"] if isinstance(e, Message)]
    (failed,) = [m for m in messages if m.kind == "checkpoint failed"]
    assert failed.text.startswith("checkpoint step-00000002-of-2-g1 failed, 1 in a row (at most 2): ")
    assert_equal(world.state("refused-once"), world.state("whole-1"))
    errors = [world.seen("refused", rank)["error"] for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert errors[0].startswith("TrainingFault: 2 checkpoints in a row could not be saved")
    assert not committed(resolve(str(world.place / "refused")))


def test_a_full_disk_of_one_rank_is_a_failed_save_of_both(world: SimpleNamespace) -> None:
    assert world.seen("full-once")["error"] is None
    assert [c.step for c in committed(resolve(str(world.place / "full-once")))] == [6, 4]
    (failed,) = [m for m in world.seen("full-once")["records"] if getattr(m, "kind", "") == "checkpoint failed"]
    assert "does not take it, where" in failed.text
    assert "No space left on device" in failed.text
    assert_equal(world.state("full-once"), world.state("whole-1"))


def test_a_launch_that_lost_the_run_stops_on_every_rank_and_commits_nothing(world: SimpleNamespace) -> None:
    for rank in (0, 1):
        assert "another launch has taken" in world.seen("lease-lost", rank)["error"]
    assert not committed(resolve(str(world.place / "lease-lost")))
    assert not (world.place / "lease-lost" / "model.safetensors").exists()


def test_a_rank_that_hangs_ends_both_with_stacks(world: SimpleNamespace) -> None:
    assert world.codes["stuck"] == [EXIT_CODE, EXIT_CODE]
    for rank, where in ((0, "backward"), (1, "in <lambda>")):
        text = (world.place / "stuck" / "attempts/00000001" / f"stacks-rank-{rank}.txt").read_text()
        assert text.startswith(f"step 3 did not end within 4 s on rank {rank} ")
        assert where in text
        assert text in (world.place / f"stuck.rank{rank}.log").read_text()


@pytest.mark.parametrize("stage", [0, 2])
def test_bfloat16_keeps_weights_and_statistics_in_float32(world: SimpleNamespace, stage: int) -> None:
    state, exact = world.state(f"bfloat16-{stage}"), world.state(f"whole-{stage}")
    for name, value in state.items():
        assert value.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float32), name
        assert torch.isfinite(value.float()).all(), name
    start = world.state(f"bfloat16-{stage}", step=2)
    moved, apart = distance(start, state), distance(state, exact)
    assert 0 < apart < moved, "other numbers than in float32, but the same way"
    assert len({r["loss/total"] for r in records(world, f"bfloat16-{stage}")}) == 6


def test_two_ranks_count_an_odd_number_of_images_once_each(world: SimpleNamespace) -> None:
    labels, uri = LABEL_SETS["toytown"], str(world.place / "data" / "val")
    outcome = json.loads((world.place / "whole-0" / "evaluation.json").read_text())
    assert outcome["images"] == IMAGES
    network = load_weights((world.place / "whole-0" / "model.safetensors").read_bytes())
    images = labelled_samples(resolve(uri), labels, 0, 1)
    alone = evaluate(network, images, num_classes=len(labels), size=None, ratios=(0.0, 0.5))
    assert [s["confusion"] for s in outcome["scores"]] == [m.tolist() for m in alone.matrices.values()]
    assert committed(resolve(str(world.place / "whole-0")))[0].miou == outcome["scores"][0]["miou"]


def test_two_ranks_measure_the_criteria_of_one(world: SimpleNamespace) -> None:
    labels, data = LABEL_SETS["toytown"], world.place / "data"
    network = load_weights((world.place / "whole-0" / "model.safetensors").read_bytes())
    pairs = whole_pairs(resolve(str(data / "source")), resolve(str(data / "target")), labels, 5, 0, 1)
    alone = measure(network, pairs, size=None).result()
    outcome = json.loads((world.place / "whole-0" / "evaluation.json").read_text())
    assert outcome["unlabelled"] == 5
    assert outcome["criteria"] == pytest.approx(alone, rel=1e-9)
    assert len(set(outcome["criteria"].values())) == 4


def test_ranks_say_nothing_but_what_went_wrong(world: SimpleNamespace) -> None:
    """DeepSpeed's remarks on what we chose are turned down; the warning of checkpoints cut short is ours."""
    cut_short = "passing over checkpoint step-00000004-of-2-g1: it was never committed"
    for scene, world_size in (("again", 2), ("alone", 1), ("four", 4)):
        for rank in range(world_size):
            lines = set((world.place / f"{scene}.rank{rank}.log").read_text().splitlines())
            assert lines <= {cut_short}, (scene, rank)
