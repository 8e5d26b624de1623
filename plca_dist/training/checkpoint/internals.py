"""What we use of DeepSpeed beyond its documentation. No other file of this package touches any of it.

A new DeepSpeed may change all of this without notice. `tests/training/checkpoint/test_deepspeed_contract.py` holds
every name, key and behaviour against the installed version, and says which workaround is no longer needed. Nothing here
has a default: a name that is gone raises an error.

Neither torch nor DeepSpeed is imported at the top. The command line and the drivers ask for names of files alone and do
without both; and the filter of `quieten` has to be there before DeepSpeed is imported.
"""

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LOGGER = "DeepSpeed"
#: Warnings about choices that we make on purpose: to train on a CPU where there is no GPU, and torch's SGD under ZeRO.
EXPECTED_WARNINGS = ("Setting accelerator to CPU", "using ZeRO with an untested optimizer")

#: Weights, buffers, and without ZeRO the optimizer too. At ZeRO 3 there is one such file a rank, under longer names.
MODEL_STATES = "mp_rank_00_model_states.pt"
_EVERY_MODEL_STATES = "*_model_states.pt"
#: One file a rank at ZeRO 1-3.
_EVERY_OPTIM_STATES = "*_optim_states.pt"
#: The rank in the name of a file that this rank alone reads.
_RANK = re.compile(r"_pp_rank_(\d+)_")
#: Keys of the ranks' float32 weights, and of the wrapped optimizer's state dict, in an optimizer file by ZeRO stage.
_WEIGHTS = {1: "single_partition_of_fp32_groups", 2: "single_partition_of_fp32_groups", 3: "fp32_flat_groups"}
_OPTIMIZER = {1: "base_optimizer_state", 2: "base_optimizer_state", 3: "optimizer_state_dict"}


def quieten() -> None:
    """Leave the expected warnings out of DeepSpeed's log, and nothing else. The first comes while it is imported."""
    logging.getLogger(LOGGER).addFilter(_unexpected)


def _unexpected(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(part in message for part in EXPECTED_WARNINGS)


def use_no_compiled_operators() -> None:
    """Have DeepSpeed compile nothing in this process; for the CPU, and before `deepspeed.init_distributed`.

    There DeepSpeed would compile a collective over shared memory on first use, which takes half a minute; gloo does as
    well. Even the question which operators would work here runs a compiler for each, so the answer is put in its place.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}


def zero_stage(engine: Any) -> int:
    """The engine's ZeRO stage, 0 to 3."""
    return engine.zero_optimization_stage()


def device(engine: Any) -> "torch.device":
    """Where this rank computes."""
    return engine.device


def held_parameters(engine: Any) -> "list[Tensor]":
    """What this rank holds of every parameter between steps: all of it, or its shard at ZeRO 3."""
    parameters = engine.module.parameters()
    return [shard(p) for p in parameters] if zero_stage(engine) == 3 else list(parameters)


def skipped_steps(engine: Any) -> int:
    """Steps that DeepSpeed has left out, without a word, because a gradient was not finite under ZeRO."""
    return engine.skipped_steps


def base_optimizer(engine: Any) -> Any:
    """Our own optimizer, which DeepSpeed wraps at ZeRO 1-3."""
    return engine.optimizer.optimizer


def flat_weights(engine: Any) -> "list[Tensor]":
    """This rank's float32 weights at ZeRO 1-3, one flat tensor a group; the base optimizer's parameters."""
    zero = engine.optimizer
    return zero.fp32_partitioned_groups_flat if zero_stage(engine) == 3 else zero.single_partition_of_fp32_groups


class Fragment(NamedTuple):
    """Where the elements of a parameter lie that this rank owns at ZeRO 1 or 2.

    Attributes:
        group: which of `flat_weights` holds them.
        start: of the first of them in that flat tensor.
        offset: of the first of them in the flattened parameter.
        numel: how many there are.
    """

    group: int
    start: int
    offset: int
    numel: int


def fragment(parameter: "nn.Parameter") -> Fragment | None:
    """This rank's fragment of the parameter at ZeRO 1 or 2; None where other ranks own all of it."""
    mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    in_flat, in_parameter = mapping.hp_fragment_address, mapping.lp_fragment_address
    return Fragment(mapping.param_group_index, in_flat.start, in_parameter.start, in_parameter.numel)


def shard(parameter: "nn.Parameter") -> "Tensor":
    """This rank's equal share of the flattened parameter at ZeRO 3, the last one padded."""
    return parameter.ds_tensor  # type: ignore[attr-defined]


def rank_of(file: str) -> int | None:
    """The one rank that reads this file of a checkpoint; None for a file that all ranks read."""
    found = _RANK.search(file)
    return int(found[1]) if found else None


def load_model_states(folder: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Weights with buffers, and the optimizer's state dict, of a checkpoint without ZeRO.

    At ZeRO 1 and 2 the first of the two is the same; the optimizer's state is in the optimizer files.
    """
    import torch

    states = torch.load(folder / MODEL_STATES, map_location="cpu", weights_only=True)
    return states["module"], states["optimizer"]


class OptimizerFile:
    """One rank's file of optimizer state, at ZeRO 1-3.

    Attributes:
        state: the base optimizer's state dict; its parameters are the flat tensors of `weights`.
        weights: the rank's float32 weights, one flat tensor a group.
    """

    def __init__(self, path: Path, stage: int) -> None:
        import torch

        # Enums of DeepSpeed's are in it, hence not weights_only. Its hash was checked.
        self._states = torch.load(path, map_location="cpu", weights_only=False)
        self._name, self._zero, self._key = path.name, self._states["optimizer_state_dict"], _WEIGHTS[stage]
        self.state: dict[str, Any] = self._zero[_OPTIMIZER[stage]]
        self.weights: list[Tensor] = self._zero[self._key]

    def save_with(self, weights: "list[Tensor]", folder: Path) -> None:
        """Write a copy to `folder` that has these tensors in place of the weights."""
        import torch

        self._zero[self._key] = weights
        torch.save(self._states, folder / self._name)


def optimizer_files(folder: Path, stage: int) -> Iterator[OptimizerFile]:
    """Every rank's, of a checkpoint at ZeRO 1-3; one is in memory at a time."""
    for path in folder.glob(_EVERY_OPTIM_STATES):
        yield OptimizerFile(path, stage)


def link_model_states(folder: Path, copy: Path) -> None:
    """Put links to the model files of a checkpoint into another folder."""
    for file in folder.glob(_EVERY_MODEL_STATES):
        (copy / file.name).symlink_to(file)


def joined_weights(folder: Path) -> "dict[str, Tensor]":
    """Whole weights and buffers of a checkpoint at ZeRO 1-3, by DeepSpeed's own reader of its files."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    output = io.StringIO()  # it prints what it does, and draws a progress bar
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        return get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name)
