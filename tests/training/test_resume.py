"""A run cut short anywhere and started again ends as one that never was: the same bits, the same records."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from plca_dist.config import Config
from plca_dist.models.weights import load_weights
from plca_dist.storage import resolve
from plca_dist.training import loop as worker
from plca_dist.training.checkpoint import save as saver
from plca_dist.training.checkpoint import survey as surveys
from plca_dist.training.checkpoint.full_state import weights_of
from plca_dist.training.checkpoint.save import Saver
from plca_dist.training.checkpoint.survey import committed
from plca_dist.training.context import Preempted

LAST = "step-00000006-of-1-g1"
#: What a record says of the clock, which no two runs share.
TIMES = ("pairs_per_second", "data_wait", "elapsed_s")


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Config]) -> Config:
    """Six steps of two passes each, a record at each, an evaluation at 3 and 6, checkpoints at 2, 4 and 6."""
    return make_config("batch.micro=2", "evaluation.uri=val", "evaluation.every=3", "checkpoint.keep=3")


@pytest.fixture(scope="module")
def whole(config: Config, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The run that nothing interrupted."""
    run = train(config, tmp_path_factory.mktemp("whole"))
    return SimpleNamespace(path=run.path, state=saved(run.path), records=records(run.path))


def saved(run: Path, step: int = 6) -> dict[str, Tensor]:
    """Weights, buffers and momentum in the newest checkpoint of a step."""
    place = max(run.glob(f"checkpoints/step-{step:08d}-of-1-g*"))
    file = torch.load(place / "mp_rank_00_model_states.pt", weights_only=True)
    momentum = {f"momentum of {k}": s["momentum_buffer"] for k, s in file["optimizer"]["state"].items()}
    assert len(momentum) > 20
    return {**file["module"], **momentum}


def records(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMES} for record in found]


def assert_same(run: Path, whole: SimpleNamespace) -> None:
    state = saved(run)
    assert state.keys() == whole.state.keys()
    for name, value in state.items():
        assert torch.equal(value, whole.state[name]), name
    assert records(run) == whole.records
    for file in ("evaluation.json", "model.safetensors"):
        assert (run / file).read_bytes() == (whole.path / file).read_bytes(), file


def test_the_whole_run_left_what_it_should(whole: SimpleNamespace, config: Config) -> None:
    assert [(r["step"], "miou" in r) for r in whole.records] == [
        (1, False), (2, False), (3, False), (3, True), (4, False), (5, False), (6, False), (6, True),
    ]  # fmt: skip
    assert {p.name for p in whole.path.iterdir()} == {
        "attempts", "checkpoints", "metrics.jsonl", "tensorboard", "evaluation.json", "model.safetensors",
    }  # fmt: skip
    evaluation = json.loads((whole.path / "evaluation.json").read_text())
    assert (evaluation["step"], evaluation["images"]) == (6, 6)
    assert evaluation["scores"][0]["miou"] == whole.records[-1]["miou"]
    assert evaluation["scores"][1]["miou"] == whole.records[-1]["miou_aggregated"]
    rates = [r["learning_rate"] for r in whole.records if "learning_rate" in r]
    assert rates == pytest.approx([0.05 * (1 - step / 6) ** 0.9 for step in range(6)])
    first, second, third = (saved(whole.path, step) for step in (2, 4, 6))
    for name in first:
        assert not torch.equal(first[name], second[name]), name
        assert not torch.equal(second[name], third[name]), name


@pytest.mark.parametrize("call", [1, 2, 3, 4, 6])
def test_cut_short_in_a_step(
    config: Config, train: Callable, whole: SimpleNamespace, interrupt: SimpleNamespace, tmp_path: Path, call: int
) -> None:
    interrupt.at(worker, "average_buffers", call)
    with pytest.raises(interrupt.error):
        train(config, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    interrupt.end()
    again = train(config, tmp_path)
    assert (call - 1) // 2 * 2 - reached(again) in (0, 2), "what was on its way to the store may be lost, and no more"
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(
    ("module", "name", "call", "resumes_at"),
    [
        (saver, "commit", 2, 2),  # every file of step 4 is there, but not the commit
        (saver, "prune", 2, 4),  # step 4 is committed
        (Saver, "_upload", 2, 2),
        (worker, "validate", 1, (0, 2)),  # a checkpoint was on its way
        (worker, "validate", 2, (2, 4)),  # the last
        (saver, "commit", 3, 4),
        (saver, "prune", 3, 6),
        (worker, "leave_result", 1, 6),  # only the result is missing
    ],
)
def test_cut_short_between_steps(
    config: Config,
    train: Callable,
    whole: SimpleNamespace,
    interrupt: SimpleNamespace,
    tmp_path: Path,
    module: Any,
    name: str,
    call: int,
    resumes_at: int | tuple[int, ...],
) -> None:
    interrupt.at(module, name, call)
    with pytest.raises(interrupt.error):
        train(config, tmp_path)
    interrupt.end()
    again = train(config, tmp_path)
    assert reached(again) in (resumes_at if isinstance(resumes_at, tuple) else (resumes_at,))
    assert_same(tmp_path, whole)


def reached(again: Any) -> int:
    """The step that a run continued from."""
    found = re.fullmatch(r"continuing from step (\d+) \(step-\d{8}-of-1-g\d+\)", again.messages[0])
    return int(found[1]) if found else 0


def test_in_a_bucket_too(
    config: Config, train: Callable, whole: SimpleNamespace, interrupt: SimpleNamespace, s3: Any, tmp_path: Path
) -> None:
    """A real S3 server holds the run; cut short with all files of step 6 up and an older checkpoint to drop."""
    uri = f"s3://{s3.bucket}/{tmp_path.name}"
    config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"keep": 1})})
    interrupt.at(saver, "commit", 3)
    with pytest.raises(interrupt.error):
        train(config, uri)
    interrupt.end()
    again = train(config, uri)
    assert again.messages[0] == "continuing from step 4 (step-00000004-of-1-g1)"
    for entry in again.store.list():
        again.store.download(entry.name, tmp_path / entry.name)
    assert_same(tmp_path, whole)
    best = max((r["miou"], r["step"]) for r in whole.records if "miou" in r)[1]
    assert [c.step for c in committed(again.store)] == ([6] if best == 6 else [6, 4])


def test_cut_short_again_and_again(
    config: Config, train: Callable, whole: SimpleNamespace, interrupt: SimpleNamespace, tmp_path: Path
) -> None:
    for module, name, call in ((worker, "average_buffers", 3), (worker, "validate", 1), (surveys.log, "warning", 1)):
        interrupt.at(module, name, call)
        with pytest.raises(interrupt.error):
            train(config, tmp_path)
        interrupt.end()
        (tmp_path / "checkpoints" / "step-00000004-of-1-g1").mkdir(exist_ok=True)  # a start that got no further
        (tmp_path / "checkpoints" / "step-00000004-of-1-g1" / "rank-00000.pt").write_bytes(b"half")
    train(config, tmp_path)
    assert_same(tmp_path, whole)


def test_a_damaged_newest_checkpoint_costs_its_steps_and_nothing_else(
    config: Config, train: Callable, whole: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole.path, run)
    (run / "model.safetensors").unlink()
    for name in (LAST, "step-00000004-of-1-g1"):
        flip_a_bit(run / "checkpoints" / name / "mp_rank_00_model_states.pt")
    again = train(config, run)
    assert again.messages[0] == "continuing from step 2 (step-00000002-of-1-g1)"
    assert [r.message.split(":")[0] for r in caplog.records if r.message.startswith("passing")] == [
        f"passing over checkpoint {LAST}",
        "passing over checkpoint step-00000004-of-1-g1",
    ]
    assert_same(run, whole)
    assert {c.name for c in committed(again.store)} >= {"step-00000004-of-1-g2", "step-00000006-of-1-g2"}


def stopped_at(call: int) -> Callable[[], str | None]:
    """A `TrainContext.stop_reason` that gives one from its call-th call on."""
    calls = iter(range(1, 10**9))
    return lambda: "SIGTERM" if next(calls) >= call else None


@pytest.mark.parametrize(
    ("call", "step"),
    [
        (1, 1),
        (3, 3),  # its evaluation is put off
        (5, 3),  # in the evaluation of step 3, which asks for every image
        (4 + 6 + 1 + 3, 6),  # the last
        (4 + 6 + 1 + 3 + 2, 6),  # in the last evaluation
    ],
)
def test_asked_to_leave_it_saves_and_later_continues(
    config: Config, train: Callable, whole: SimpleNamespace, tmp_path: Path, call: int, step: int
) -> None:
    with pytest.raises(Preempted) as left:
        train(config, tmp_path, stop_reason=stopped_at(call))
    assert (left.value.step, left.value.reason) == (step, "SIGTERM")
    assert committed(resolve(str(tmp_path)))[0].step == step
    assert not (tmp_path / "model.safetensors").exists()
    again = train(config, tmp_path)
    assert again.messages[0] == f"continuing from step {step} (step-{step:08d}-of-1-g1)"
    assert_same(tmp_path, whole)
    assert committed(again.store)[0].miou == whole.records[-1]["miou"]


def test_asked_to_leave_again_and_again_it_gets_there(
    config: Config, train: Callable, whole: SimpleNamespace, tmp_path: Path
) -> None:
    """A notice before every start still lets a step be done; one during an evaluation put off loses nothing."""
    for step in (1, 2, 3):
        with pytest.raises(Preempted, match=f"checkpoint at step {step} committed"):
            train(config, tmp_path, stop_reason=stopped_at(1))
    with pytest.raises(Preempted, match="checkpoint at step 3 committed"):
        train(config, tmp_path, stop_reason=stopped_at(2))
    train(config, tmp_path)
    assert_same(tmp_path, whole)


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(bytes(data))


def test_the_result_is_the_last_checkpoints_weights(config: Config, whole: SimpleNamespace) -> None:
    result = load_weights((whole.path / "model.safetensors").read_bytes()).state_dict()
    weights = weights_of(resolve(str(whole.path)), LAST)
    assert result.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(result[name], value), name


def test_a_finished_run_continued_trains_no_further(
    config: Config, train: Callable, whole: SimpleNamespace, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole.path, run)
    train(config, run)
    assert_same(run, whole)
    (run / "model.safetensors").unlink()  # as the error of a damaged one says
    train(config, run)
    assert_same(run, whole)
