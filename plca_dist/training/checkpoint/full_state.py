"""The unpartitioned state of a checkpoint, at any world size and ZeRO stage. It is read without DeepSpeed.

DeepSpeed's own converter, to a layout that it calls universal, knows Adam's state and not SGD's momentum; and its
reader of weights executes what a file tells it to. An optimizer's averages are laid out as the weights are, so one
function joins either.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from plca_dist import scratch
from plca_dist.errors import UserError
from plca_dist.run_files import CHECKPOINTS
from plca_dist.storage import Store
from plca_dist.training.checkpoint import internals
from plca_dist.training.checkpoint.commit import fetch
from plca_dist.training.checkpoint.survey import committed

#: Where AdamW counts its steps. All else that torch's optimizers keep here of a parameter has the parameter's shape.
STEP = "step"


class FullState(NamedTuple):
    """Unpartitioned tensors on the CPU, by the names that they have in `TrainingModule`.

    Attributes:
        module: weights and buffers.
        averages: what the optimizer keeps of every parameter that trains, by its own key: SGD's `momentum_buffer`,
            AdamW's `exp_avg` and `exp_avg_sq`. Empty where it keeps nothing.
        step: AdamW's count, the same for all parameters; None under SGD.
    """

    module: dict[str, Tensor]
    averages: dict[str, dict[str, Tensor]]
    step: Tensor | None


def read_module(folder: Path, zero_stage: int) -> dict[str, Tensor]:
    """Weights and buffers of the checkpoint in `folder`, which holds the files of every rank.

    Raises UserError for files that are not a checkpoint's; nothing in them is executed.
    """
    with internals.explained(folder, zero_stage):
        if zero_stage < 3:
            return dict(internals.load_model_states(folder)[0])
        files = internals.optimizer_files(folder, zero_stage)
        trained = internals.join(folder, zero_stage, files, [f.weights for f in files])
        return internals.buffers(folder) | internals.frozen_weights(folder, len(files)) | trained


def read_state(folder: Path, zero_stage: int, names: Sequence[str]) -> FullState:
    """All of the checkpoint in `folder`, which holds the files of every rank. Raises as `read_module` does.

    Args:
        names: of the parameters that train, in the order of the optimizer's groups.
    """
    module = read_module(folder, zero_stage)
    with internals.explained(folder, zero_stage):
        if zero_stage == 0:
            kept = _states(internals.load_model_states(folder)[1])
            averages = {key: dict(zip(names, (state[key] for state in kept), strict=True)) for key in _keys(kept)}
            return FullState(module, averages, _step(kept))
        files = internals.optimizer_files(folder, zero_stage)
        by_rank = [_states(file.state) for file in files]
        averages = {}
        for key in _keys(by_rank[0]):
            # DeepSpeed drops the padding at the end of the weights, but not at the end of the averages.
            parts = [[state[key][: w.numel()] for state, w in zip(kept, file.weights, strict=True)]
                     for kept, file in zip(by_rank, files, strict=True)]  # fmt: skip
            joined = internals.join(folder, zero_stage, files, parts)
            averages[key] = {name: joined[name] for name in names}
        return FullState(module, averages, _step(by_rank[0]))


def _states(optimizer: dict[str, Any]) -> list[dict[str, Tensor]]:
    """What the optimizer keeps of each parameter; empty where SGD runs without momentum."""
    states = [optimizer["state"][k] for k in sorted(optimizer["state"])]
    return [state for state in states if state]


def _keys(states: Sequence[dict[str, Tensor]]) -> list[str]:
    return [key for key in states[0] if key != STEP] if states else []


def _step(states: Sequence[dict[str, Tensor]]) -> Tensor | None:
    """AdamW's count. Raises ValueError where parameters differ in it: none is left out of a step."""
    counts = {float(state[STEP]) for state in states if STEP in state}
    if len(counts) > 1:
        raise ValueError("parameters of several steps")
    return states[0][STEP] if counts else None


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
