"""The unpartitioned state of a checkpoint, at any world size and ZeRO stage. It is read without DeepSpeed.

DeepSpeed's own converter, to a layout that it calls universal, knows Adam's state and not SGD's momentum; and its
reader of weights executes what a file tells it to. Momentum is laid out as the weights are, so one function joins
either.
"""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from plca_dist import scratch
from plca_dist.errors import UserError
from plca_dist.run_files import CHECKPOINTS
from plca_dist.storage import Store
from plca_dist.training.checkpoint import internals
from plca_dist.training.checkpoint.commit import fetch
from plca_dist.training.checkpoint.survey import committed

#: The key of torch.optim.SGD.
MOMENTUM = "momentum_buffer"


class FullState(NamedTuple):
    """Unpartitioned tensors on the CPU, by the names that they have in `TrainingModule`.

    Attributes:
        module: weights and buffers.
        momentum: of every parameter; empty where the optimizer has none.
    """

    module: dict[str, Tensor]
    momentum: dict[str, Tensor]


def read_module(folder: Path, zero_stage: int) -> dict[str, Tensor]:
    """Weights and buffers of the checkpoint in `folder`, which holds the files of every rank.

    Raises UserError for files that are not a checkpoint's; nothing in them is executed.
    """
    with internals.explained(folder, zero_stage):
        if zero_stage < 3:
            return dict(internals.load_model_states(folder)[0])
        files = internals.optimizer_files(folder, zero_stage)
        return internals.buffers(folder) | internals.join(folder, zero_stage, files, [f.weights for f in files])


def read_state(folder: Path, zero_stage: int, network: nn.Module) -> FullState:
    """All of the checkpoint in `folder`, which holds the files of every rank. Raises as `read_module` does.

    Args:
        network: of the same architecture; only its names are used.
    """
    module = read_module(folder, zero_stage)
    with internals.explained(folder, zero_stage):
        if zero_stage == 0:
            buffers = _momentum_buffers(internals.load_model_states(folder)[1])
            # In the order of `build_engine`'s parameter groups.
            names = [f"network.{part}.{n}" for part in ("backbone", "classifier")
                     for n, _ in network.get_submodule(part).named_parameters()]  # fmt: skip
            return FullState(module, dict(zip(names, buffers, strict=True)) if buffers else {})
        files = internals.optimizer_files(folder, zero_stage)
        momenta = [_momentum_buffers(file.state) for file in files]
        if not all(momenta):
            return FullState(module, {})
        # DeepSpeed drops the padding at the end of the weights, but not at the end of the momentum.
        parts = [[m[: w.numel()] for m, w in zip(buffers, file.weights, strict=True)]
                 for buffers, file in zip(momenta, files, strict=True)]  # fmt: skip
        momentum = internals.join(folder, zero_stage, files, parts)
        return FullState(module, {f"network.{n}": momentum[f"network.{n}"] for n, _ in network.named_parameters()})


def _momentum_buffers(optimizer: dict[str, Any]) -> list[Tensor]:
    """The momentum of each parameter in SGD's state dict; empty where SGD runs without momentum."""
    states = [optimizer["state"][k] for k in sorted(optimizer["state"])]
    return [state[MOMENTUM] for state in states if state]


def weights_of(run: Store, name: str) -> dict[str, Tensor]:
    """The network's unpartitioned weights in the checkpoint called `name`, at any ZeRO stage. It needs no engine.

    Raises:
        UserError: there is no such checkpoint, it does not count, or a file holds anything else than a run writes.
    """
    found = {c.name: c for c in committed(run)}
    if name not in found:
        raise UserError(
            f"{run.uri}/{CHECKPOINTS}/{name} is no committed checkpoint; committed: {', '.join(found) or 'none'}."
        )
    with scratch.folder() as place:
        folder = place / name
        if problem := fetch(run, found[name], folder):
            raise UserError(f"{run.uri}/{CHECKPOINTS}/{name} is damaged: {problem}; committed: {', '.join(found)}.")
        state = read_module(folder, found[name].zero_stage)
    return {key.removeprefix("network."): value for key, value in state.items()}
