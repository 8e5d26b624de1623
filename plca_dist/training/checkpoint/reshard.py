"""The state of a checkpoint as a whole, and into an engine of any world size and ZeRO stage.

DeepSpeed loads its files only where they were written: at the same world size and stage. Its own converter to a
"universal" layout knows Adam's state and not SGD's. What it does have is a reader that joins the ranks' partitions of
the weights (`zero_to_fp32`); given momentum in their place it joins that.
"""

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed
import torch
import torch.distributed as dist
import torch.nn.functional as F
from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor, nn

_MODEL_STATES = "mp_rank_00_model_states.pt"  # DeepSpeed's name, at ZeRO 0-2
_MOMENTUM = "momentum_buffer"  # torch.optim.SGD's


class WholeState(NamedTuple):
    """Tensors by the name that `TrainingModule` gives them, on the CPU, unpartitioned.

    Attributes:
        module: weights and buffers.
        momentum: of every parameter; empty where the optimizer has none.
    """

    module: dict[str, Tensor]
    momentum: dict[str, Tensor]


def read_module(folder: Path, zero_stage: int) -> dict[str, Tensor]:
    """Weights and buffers of DeepSpeed's checkpoint in `folder`, which holds every rank's files."""
    return _joined(folder) if zero_stage == 3 else _load(folder / _MODEL_STATES)["module"]


def read_state(folder: Path, zero_stage: int, network: nn.Module) -> WholeState:
    """All of DeepSpeed's checkpoint in `folder`, which holds every rank's files.

    Args:
        network: of the same architecture; only its names are used.
    """
    module = read_module(folder, zero_stage)
    if zero_stage == 0:
        momenta = _momenta(_load(folder / _MODEL_STATES)["optimizer"])
        # In the order of `build_engine`'s parameter groups.
        names = [f"network.{part}.{n}" for part in ("backbone", "classifier")
                 for n, _ in network.get_submodule(part).named_parameters()]  # fmt: skip
        return WholeState(module, dict(zip(names, momenta, strict=True)) if momenta else {})
    beside = folder.with_name(f"{folder.name}-momentum")
    beside.mkdir()
    for file in folder.glob("*_optim_states.pt"):
        states = torch.load(file, map_location="cpu", weights_only=False)  # enums of DeepSpeed's; its hash was checked
        zero = states["optimizer_state_dict"]
        momenta = _momenta(zero["optimizer_state_dict"] if zero_stage == 3 else zero["base_optimizer_state"])
        if not momenta:
            return WholeState(module, {})
        key = "fp32_flat_groups" if zero_stage == 3 else "single_partition_of_fp32_groups"
        # DeepSpeed drops the padding at the end of weights, but not of momentum.
        zero[key] = [momentum[: weights.numel()] for momentum, weights in zip(momenta, zero[key], strict=True)]
        torch.save(states, beside / file.name)
    for file in folder.glob("*_model_states.pt"):
        (beside / file.name).symlink_to(file)
    momentum = _joined(beside)
    return WholeState(module, {f"network.{n}": momentum[f"network.{n}"] for n, _ in network.named_parameters()})


def _load(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", weights_only=True)


def _momenta(optimizer: dict[str, Any]) -> list[Tensor]:
    """What SGD's state dict holds, parameter by parameter; nothing where it has made no momentum."""
    found = [optimizer["state"][k].get(_MOMENTUM) for k in sorted(optimizer["state"])]
    return [] if None in found else found


def _joined(folder: Path) -> dict[str, Tensor]:
    said = io.StringIO()  # it prints what it does, and draws a bar
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        return get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name)


def install(engine: Any, state: WholeState) -> None:
    """Make the state the engine's, each rank its part. A collective call, before the first step."""
    stage = engine.zero_optimization_stage()
    named = dict(engine.module.named_parameters())
    with deepspeed.zero.GatheredParameters(list(named.values()), modifier_rank=0, enabled=stage == 3):
        engine.module.load_state_dict(state.module)
    put = (_put_whole, _put_fragments, _put_fragments, _put_shards)[stage]
    put(engine.optimizer, named, state)


def _put_whole(optimizer: Any, named: dict[str, nn.Parameter], state: WholeState) -> None:
    for name, momentum in state.momentum.items():
        optimizer.state[named[name]][_MOMENTUM] = momentum.to(named[name].device, copy=True)


def _put_fragments(zero: Any, named: dict[str, nn.Parameter], state: WholeState) -> None:
    """ZeRO 1 and 2: a rank owns a stretch of every group, and with it fragments of some parameters."""
    flats = zero.single_partition_of_fp32_groups
    _make_room(zero, flats, state)
    for name, parameter in named.items():
        mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:  # others own all of it
            continue
        here, within = mapping.hp_fragment_address, mapping.lp_fragment_address
        flat = flats[mapping.param_group_index]
        for whole, part in ((state.module, flat.data), (state.momentum, zero.optimizer.state[flat].get(_MOMENTUM))):
            if part is not None:
                fragment = whole[name].flatten().narrow(0, within.start, within.numel)
                part.narrow(0, here.start, here.numel).copy_(fragment)


def _put_shards(zero: Any, named: dict[str, nn.Parameter], state: WholeState) -> None:
    """ZeRO 3: a rank owns its share of every parameter, the last one padded."""
    _make_room(zero, zero.fp32_partitioned_groups_flat, state)

    def shard(parameter: Any, whole: Tensor) -> Tensor:
        size = parameter.ds_tensor.numel()
        padded = F.pad(whole.flatten(), (0, size * dist.get_world_size() - whole.numel()))
        return padded.narrow(0, size * dist.get_rank(), size)

    for name, parameter in named.items():
        safe_set_local_fp32_param(parameter, shard(parameter, state.module[name]))
        if state.momentum:
            safe_set_local_optimizer_state(parameter, shard(parameter, state.momentum[name]), _MOMENTUM)


def _make_room(zero: Any, flats: list[Tensor], state: WholeState) -> None:
    """SGD makes its momentum in the first step; here it is needed before."""
    for flat in flats if state.momentum else ():
        zero.optimizer.state[flat][_MOMENTUM] = torch.zeros_like(flat).detach()
