"""What we use of DeepSpeed beyond its documentation. No other file of this package touches any of it.

A new DeepSpeed may change all of this without notice. `tests/training/checkpoint/test_deepspeed_contract.py` holds
every name, key and behaviour against the installed version, and says which workaround is no longer needed. Nothing here
has a default: a name that is gone raises an error.

Neither torch nor DeepSpeed is imported at the top. The command line and the drivers ask for names of files alone and do
without both; and the filter of `quieten` has to be there before DeepSpeed is imported.
"""

import contextlib
import logging
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from plca_dist.errors import UserError
from plca_dist.run_files import CHECKPOINTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LOGGER = "DeepSpeed"
#: Warnings about choices that we make on purpose: to train on a CPU where there is no GPU, and torch's SGD under ZeRO.
EXPECTED_WARNINGS = ("Setting accelerator to CPU", "using ZeRO with an untested optimizer")

#: Weights, buffers, and without ZeRO the optimizer too. At ZeRO 3 there is one such file a rank, under longer names.
MODEL_STATES = "mp_rank_00_model_states.pt"
_FIRST_OF_ZERO_3 = "zero_pp_rank_0_"
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


def load(path: Path, *, mapped: bool = False) -> Any:
    """The tensors, on the CPU, and plain values in a file of a checkpoint. Nothing in the file is executed.

    Args:
        mapped: leave the tensors in the file, which is read where they are.

    Raises:
        UserError: the file holds anything else than a run writes.
    """
    import torch
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    # Three small classes of numbers, which DeepSpeed puts into optimizer files.
    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
        except Exception as error:  # foreign bytes make the unpickler raise nearly anything
            named = re.search(r"GLOBAL ([A-Za-z0-9_.]+)", str(error))
            what = f"it refers to {named[1]}" if named else type(error).__name__
    raise UserError(
        f"{CHECKPOINTS}/{path.parent.name}/{path.name} is not a file that a run writes ({what}), and nothing in it was "
        "executed: find out who put it there, and restore the checkpoint from a copy or delete its directory."
    )


def write_checkpoint(engine: Any, scratch: Path, name: str) -> list[Exception]:
    """Write this rank's part of DeepSpeed's checkpoint to the folder `name` in `scratch`. A collective call.

    The ranks meet on the way, and one that left with an error would keep the others waiting. So it comes to its end.

    Returns:
        Why files could not be written.
    """
    writer = engine.checkpoint_engine
    errors: list[Exception] = []

    def kept(write: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **more: Any) -> None:
            try:
                write(*args, **more)
            except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError for a disk that is full
                errors.append(error)

        return attempt

    writer.save, writer.makedirs = kept(writer.save), kept(writer.makedirs)
    try:
        engine.save_checkpoint(str(scratch), tag=name, save_latest=False)
    finally:
        del writer.save, writer.makedirs
    return errors


@contextlib.contextmanager
def explained(folder: Path, stage: int) -> Iterator[None]:
    """Files of the checkpoint in `folder` that do not make one, in a UserError."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{CHECKPOINTS}/{folder.name}: its files do not make a checkpoint of ZeRO stage {stage} "
            f"({type(error).__name__}): restore it from a copy, or delete its directory."
        ) from error


def load_model_states(folder: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Weights with buffers, and the optimizer's state dict, of a checkpoint without ZeRO.

    At ZeRO 1 and 2 the first of the two is the same; the optimizer's state is in the optimizer files.
    """
    states = load(folder / MODEL_STATES)
    return states["module"], states["optimizer"]


class OptimizerFile:
    """One rank's file of optimizer state, at ZeRO 1-3.

    Attributes:
        state: the base optimizer's state dict; its parameters are the flat tensors of `weights`.
        weights: the rank's float32 weights, one flat tensor a group.
        ranks: how many such files there must be.
        paddings: at ZeRO 1 and 2, by group, the elements between each parameter and the next.
    """

    def __init__(self, path: Path, stage: int) -> None:
        zero = load(path, mapped=True)["optimizer_state_dict"]
        self.state: dict[str, Any] = zero[_OPTIMIZER[stage]]
        self.weights: list[Tensor] = zero[_WEIGHTS[stage]]
        count = zero["partition_count"]
        self.ranks: int = max(count) if isinstance(count, list) else count
        self.paddings: list[list[int]] | None = zero["param_alignment_paddings"] if stage < 3 else None


def optimizer_files(folder: Path, stage: int) -> list[OptimizerFile]:
    """Every rank's, by rank, of a checkpoint at ZeRO 1-3. Raises ValueError where one is missing."""
    paths = sorted(folder.glob(_EVERY_OPTIM_STATES), key=lambda path: rank_of(path.name) or 0)
    files = [OptimizerFile(path, stage) for path in paths]
    if not files or len(files) != files[0].ranks:
        raise ValueError(f"{len(files)} optimizer files")
    return files


def buffers(folder: Path) -> "dict[str, Tensor]":
    """The buffers of a checkpoint at ZeRO 3, in float32 where they are no integers."""
    states = load(folder / f"{_FIRST_OF_ZERO_3}{MODEL_STATES}")
    module = {name: value for name, value in states["module"].items() if name in states["buffer_names"]}
    return {name: value.float() if value.is_floating_point() else value for name, value in module.items()}


def frozen_weights(folder: Path, ranks: int) -> "dict[str, Tensor]":
    """The parameters that do not train, of a checkpoint at ZeRO 3: no optimizer file has them."""
    import torch

    files = [load(folder / f"zero_pp_rank_{rank}_{MODEL_STATES}", mapped=True) for rank in range(ranks)]
    shapes = files[0]["frozen_param_shapes"] or {}
    shares = {name: [file["frozen_param_fragments"][name].flatten() for file in files] for name in shapes}
    return {name: torch.cat(shares[name])[: shape.numel()].view(shape) for name, shape in shapes.items()}


def join(folder: Path, stage: int, files: list[OptimizerFile], parts: "list[list[Tensor]]") -> "dict[str, Tensor]":
    """Whole tensors, by the names of the parameters, of which each rank has a part. ZeRO 1-3.

    Args:
        files: of the checkpoint in `folder`, by rank.
        parts: by rank and group, flat tensors laid out as `OptimizerFile.weights`: these, or momentum.

    Raises ValueError, or what torch raises, for parts that are too short or too long.
    """
    import torch

    shapes = load(folder / (MODEL_STATES if stage < 3 else f"{_FIRST_OF_ZERO_3}{MODEL_STATES}"))["param_shapes"]
    whole: dict[str, Tensor] = {}
    if stage == 3:  # every rank has an equal share of each parameter, the last one padded
        flats, start = [torch.cat(list(groups)) for groups in parts], 0
        for name, shape in (item for group in shapes for item in group.items()):
            end = start + math.ceil(shape.numel() / len(flats))
            whole[name] = torch.cat([flat[start:end] for flat in flats])[: shape.numel()].view(shape)
            start = end
        if any(len(flat) != start for flat in flats):
            raise ValueError("shares of another length")
        return whole
    assert files[0].paddings is not None
    for number, (group, paddings) in enumerate(zip(shapes, files[0].paddings, strict=True)):
        flat, start = torch.cat([groups[number] for groups in parts]), 0  # the ranks have stretches of it
        for (name, shape), padding in zip(group.items(), paddings, strict=True):
            whole[name] = flat.narrow(0, start, shape.numel()).view(shape)
            start += shape.numel() + padding
        alignment = 2 * len(parts)
        if math.ceil(start / alignment) != math.ceil(len(flat) / alignment):
            raise ValueError("stretches of another length")
    return whole
