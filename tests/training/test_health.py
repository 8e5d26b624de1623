"""What cannot go on stops at once, says where, and leaves only good checkpoints behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plca_dist.config import Config
from plca_dist.errors import TrainingFault
from plca_dist.storage import resolve
from plca_dist.training import loop as worker
from plca_dist.training.checkpoint.full_state import weights_of
from plca_dist.training.checkpoint.survey import committed
from plca_dist.training.due import due_after
from plca_dist.training.engine import TrainingModule

MakeConfig = Callable[..., Config]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Any], Any]], None]:
    """Put the loss terms of one forward pass (from 1) through a function."""

    def at(call: int, change: Callable[[Any], Any]) -> None:
        forward, calls = TrainingModule.forward, iter(range(1, 10**9))

        def spoiled(self: TrainingModule, batch: Any) -> Any:
            terms = forward(self, batch)
            return change(terms) if next(calls) == call else terms

        monkeypatch.setattr(TrainingModule, "forward", spoiled)

    return at


def fault(train: Callable, config: Config, place: Path) -> str:
    with pytest.raises(TrainingFault) as error:
        train(config, place)
    for found in committed(resolve(str(place))):
        for name, value in weights_of(resolve(str(place)), found.name).items():
            assert torch.isfinite(value).all(), f"{found.name} holds {name} that is not finite"
    assert not (place / "model.safetensors").exists()
    return str(error.value)


def nan_loss(terms: Any) -> Any:
    return terms._replace(total=terms.total * torch.nan, lovasz=terms.lovasz * torch.nan)


def test_a_nan_between_two_records_is_not_saved(
    make_config: MakeConfig, train: Callable, spoil: Callable, tmp_path: Path
) -> None:
    spoil(5, nan_loss)  # the first pass of step 3
    message = fault(train, make_config("log.every=6", "batch.micro=2"), tmp_path)
    assert [c.step for c in committed(resolve(str(tmp_path)))] == [2]
    assert "the loss is not finite at step 3 " in message
    assert "rank 0" in message
    assert "total nan" in message
    assert "lovasz nan" in message
    assert "cross_entropy nan" not in message, "the weights are those of step 2"
    assert "newest good checkpoint: step-00000002-of-1-g1" in message
    assert "optimizer.lr" in message
    assert "\n" not in message


def test_a_nan_in_the_very_last_step_leaves_no_result(
    make_config: MakeConfig, train: Callable, spoil: Callable, tmp_path: Path
) -> None:
    spoil(6, nan_loss)
    message = fault(train, make_config("checkpoint.every=100", "evaluation.uri=val"), tmp_path)
    assert "at step 6 " in message
    assert "newest good checkpoint: none" in message
    assert not (tmp_path / "evaluation.json").exists()


def test_an_infinite_loss_whose_gradient_is_finite_stops_too(
    make_config: MakeConfig, train: Callable, spoil: Callable, tmp_path: Path
) -> None:
    spoil(4, lambda terms: terms._replace(total=terms.total + torch.inf))
    message = fault(train, make_config("log.every=10"), tmp_path)
    assert "at step 4 " in message
    assert "total inf" in message
    assert "cross_entropy nan" not in message


def test_weights_that_ran_away_under_a_finite_loss_are_not_saved(
    make_config: MakeConfig, train: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    average, calls = worker.average_buffers, iter(range(1, 100))

    def spoil(module: Any) -> None:
        average(module)
        if next(calls) == 4:
            with torch.no_grad():
                module.network.backbone.conv1.weight[0, 0, 0, 0] = torch.inf

    monkeypatch.setattr(worker, "average_buffers", spoil)
    message = fault(train, make_config("log.every=10"), tmp_path)
    assert "weights or gradients are not finite by step 4 " in message
    assert "newest good checkpoint: step-00000002-of-1-g1" in message


def test_a_step_that_deepspeed_leaves_out_is_a_fault(
    make_config: MakeConfig, train: Callable, spoil: Callable, tmp_path: Path
) -> None:
    """Under ZeRO it skips a step whose gradient is not finite: a run that goes on has lost a batch."""

    def nan_gradient(terms: Any) -> Any:
        total = terms.total.clone()
        total.register_hook(lambda gradient: gradient * torch.nan)
        return terms._replace(total=total)

    spoil(3, nan_gradient)
    message = fault(train, make_config("log.every=10", "deepspeed.zero_optimization.stage=1"), tmp_path)
    assert "weights or gradients are not finite by step 4 " in message
    assert [c.step for c in committed(resolve(str(tmp_path)))] == [2]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("NCCL error in: x.cpp:1, unhandled cuda error. Cuda failure 2 'out of memory'"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["torch", "cuBLAS", "cuDNN", "NCCL", "Triton", "CPU"],
)
def test_memory_that_runs_out_names_step_rank_and_checkpoint(
    error: RuntimeError, make_config: MakeConfig, train: Callable, spoil: Callable, tmp_path: Path
) -> None:
    def no_memory(terms: Any) -> Any:
        raise error

    spoil(5, no_memory)  # the save of step 4 has waited for the commit of step 2, and is not committed itself
    message = fault(train, make_config(), tmp_path)
    assert f"out of memory at step 5, rank 0 ({str(error).splitlines()[0]})" in message
    assert "newest good checkpoint: step-00000002-of-1-g1" in message
    assert "batch.micro" in message
    assert "\n" not in message


def test_memory_can_run_out_before_the_first_step_too(
    make_config: MakeConfig, train: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_memory(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("plca_dist.training.loop.build_engine", no_memory)
    message = fault(train, make_config(), tmp_path)
    assert message.startswith("out of memory at step 1, rank 0 (CUDA out of memory.); newest good checkpoint: none")


@pytest.mark.parametrize(
    ("step", "settings", "expected"),
    [
        (4, [], (False, False, True)),
        (5, [], (True, False, False)),
        (6, [], (False, False, True)),
        (12, [], (False, False, True)),
        (13, [], (True, False, True)),  # the last
        (13, ["evaluation.uri=val"], (True, True, True)),
        (4, ["evaluation.uri=val", "evaluation.every=4"], (False, True, True)),
        (4, ["evaluation.every=4"], (False, False, True)),
    ],
)
def test_what_is_due_when(make_config: MakeConfig, step: int, settings: list[str], expected: tuple[bool, ...]) -> None:
    config = make_config("schedule.steps=13", "log.every=5", "checkpoint.every=2", *settings)
    assert due_after(config, step) == expected
