"""The unpartitioned state of a checkpoint, and the way of that state into an engine of any world size and ZeRO stage.

DeepSpeed loads its files only at the world size and the stage that they were written with. Its own converter, to a
layout that it calls universal, knows Adam's state and not SGD's momentum; and its reader of weights executes what a
file tells it to. Momentum is laid out as the weights are, so one function joins either.
"""

from pathlib import Path
from typing import Any, NamedTuple

import deepspeed
import torch
import torch.distributed as dist
import torch.nn.functional as F
from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state
from torch import Tensor, nn

from plca_dist.training.checkpoint import internals

_MOMENTUM = "momentum_buffer"  # the key of torch.optim.SGD


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
    return [state[_MOMENTUM] for state in states if state]


def install(engine: Any, state: FullState) -> None:
    """Give the engine this state, each rank its part. A collective call, before the first step."""
    stage = internals.zero_stage(engine)
    parameters = dict(engine.module.named_parameters())
    with deepspeed.zero.GatheredParameters(list(parameters.values()), modifier_rank=0, enabled=stage == 3):
        engine.module.load_state_dict(state.module)
    install_part = (_install_unpartitioned, _install_fragments, _install_fragments, _install_shards)[stage]
    install_part(engine, parameters, state)


def _install_unpartitioned(engine: Any, parameters: dict[str, nn.Parameter], state: FullState) -> None:
    for name, momentum in state.momentum.items():
        engine.optimizer.state[parameters[name]][_MOMENTUM] = momentum.to(parameters[name].device, copy=True)


def _install_fragments(engine: Any, parameters: dict[str, nn.Parameter], state: FullState) -> None:
    """ZeRO 1 and 2: a rank owns a stretch of every group, and with it fragments of some parameters."""
    _make_momentum(engine, state)
    flats, optimizer = internals.flat_weights(engine), internals.base_optimizer(engine)
    for name, parameter in parameters.items():
        fragment = internals.fragment(parameter)
        if fragment is None:
            continue
        flat = flats[fragment.group]
        pairs = [(state.module, flat.data)]
        if state.momentum:
            pairs.append((state.momentum, optimizer.state[flat][_MOMENTUM]))
        for whole, part in pairs:
            values = whole[name].flatten().narrow(0, fragment.offset, fragment.numel)
            part.narrow(0, fragment.start, fragment.numel).copy_(values)


def _install_shards(engine: Any, parameters: dict[str, nn.Parameter], state: FullState) -> None:
    """ZeRO 3: a rank owns its share of every parameter, the last one padded."""
    _make_momentum(engine, state)

    def shard(parameter: nn.Parameter, whole: Tensor) -> Tensor:
        size = internals.shard(parameter).numel()
        padded = F.pad(whole.flatten(), (0, size * dist.get_world_size() - whole.numel()))
        return padded.narrow(0, size * dist.get_rank(), size)

    for name, parameter in parameters.items():
        safe_set_local_fp32_param(parameter, shard(parameter, state.module[name]))
        if state.momentum:
            safe_set_local_optimizer_state(parameter, shard(parameter, state.momentum[name]), _MOMENTUM)


def _make_momentum(engine: Any, state: FullState) -> None:
    """Make SGD's momentum buffers, which it would make in its first step; here they are needed before."""
    if state.momentum:
        optimizer = internals.base_optimizer(engine)
        for flat in internals.flat_weights(engine):
            optimizer.state[flat][_MOMENTUM] = torch.zeros_like(flat).detach()
