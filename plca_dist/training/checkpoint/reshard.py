"""The way of a checkpoint's unpartitioned state into an engine of any world size and ZeRO stage.

DeepSpeed loads its files only at the world size and the stage that they were written with.
"""

from typing import Any

import deepspeed
import torch
import torch.distributed as dist
import torch.nn.functional as F
from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state
from torch import Tensor, nn

from plca_dist.training.checkpoint import internals
from plca_dist.training.checkpoint.full_state import STEP, FullState


def install(engine: Any, state: FullState) -> None:
    """Give the engine this state, each rank its part. A collective call, before the first step."""
    stage = internals.zero_stage(engine)
    parameters = dict(engine.module.named_parameters())
    with deepspeed.zero.GatheredParameters(list(parameters.values()), modifier_rank=0, enabled=stage == 3):
        engine.module.load_state_dict(state.module)
    install_part = (_install_unpartitioned, _install_fragments, _install_fragments, _install_shards)[stage]
    install_part(engine, parameters, state)


def _install_unpartitioned(engine: Any, parameters: dict[str, nn.Parameter], state: FullState) -> None:
    for key, averages in state.averages.items():
        for name, average in averages.items():
            engine.optimizer.state[parameters[name]][key] = average.to(parameters[name].device, copy=True)
    _count_steps(engine.optimizer, state)


def _install_fragments(engine: Any, parameters: dict[str, nn.Parameter], state: FullState) -> None:
    """ZeRO 1 and 2: a rank owns a stretch of every group, and with it fragments of some parameters."""
    _make_averages(engine, state)
    flats, optimizer = internals.flat_weights(engine), internals.base_optimizer(engine)
    for name, parameter in parameters.items():
        fragment = internals.fragment(parameter) if parameter.requires_grad else None
        if fragment is None:
            continue
        flat = flats[fragment.group]
        pairs = [(state.module, flat.data)]
        pairs += [(averages, optimizer.state[flat][key]) for key, averages in state.averages.items()]
        for whole, part in pairs:
            values = whole[name].flatten().narrow(0, fragment.offset, fragment.numel)
            part.narrow(0, fragment.start, fragment.numel).copy_(values)


def _install_shards(engine: Any, parameters: dict[str, nn.Parameter], state: FullState) -> None:
    """ZeRO 3: a rank owns its share of every parameter, the last one padded. Those that do not train have theirs."""
    _make_averages(engine, state)

    def shard(parameter: nn.Parameter, whole: Tensor) -> Tensor:
        size = internals.shard(parameter).numel()
        padded = F.pad(whole.flatten(), (0, size * dist.get_world_size() - whole.numel()))
        return padded.narrow(0, size * dist.get_rank(), size)

    for name, parameter in parameters.items():
        if parameter.requires_grad:
            safe_set_local_fp32_param(parameter, shard(parameter, state.module[name]))
            for key, averages in state.averages.items():
                safe_set_local_optimizer_state(parameter, shard(parameter, averages[name]), key)


def _make_averages(engine: Any, state: FullState) -> None:
    """Make the optimizer's averages, which it would make in its first step; here they are needed before."""
    optimizer = internals.base_optimizer(engine)
    for key in state.averages:
        for flat in internals.flat_weights(engine):
            optimizer.state[flat][key] = torch.zeros_like(flat).detach()
    _count_steps(optimizer, state)


def _count_steps(optimizer: torch.optim.Optimizer, state: FullState) -> None:
    if state.step is not None:
        for kept in optimizer.state.values():
            kept[STEP] = state.step.clone()
