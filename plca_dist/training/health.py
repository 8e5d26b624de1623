"""Checks that training is still sound, and the errors that say where it was not.

A loss that is not finite is found before it reaches a weight. Weights and gradients are checked wherever a record, an
evaluation or a checkpoint is due, because a run that resumes from weights that are not finite is lost.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from plca_dist.errors import TrainingFault, first_line
from plca_dist.storage import Store
from plca_dist.training.checkpoint.internals import skipped_steps
from plca_dist.training.checkpoint.survey import committed
from plca_dist.training.engine import finite_weights
from plca_dist.training.meter import Meter

_OUT_OF_MEMORY = re.compile(
    r"out of memory|(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_ALLOC_FAILED|can't allocate memory|failed to .?alloc", re.I
)
_REMEDY = "Lower optimizer.lr or set optimizer.gradient_clipping."


def loss_fault(meter: Meter, run: Store, finish_saving: Callable[[], None], *, finite: bool) -> TrainingFault:
    """The error for a loss that is not finite on some rank, the same on every rank. A collective call.

    Args:
        meter: holds the loss terms of the step that will not be done.
        finish_saving: waits for the checkpoint under way, so that the message can name it.
        finite: whether this rank's loss is finite.
    """
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, None if finite else meter.terms_of_step())
    rank, terms = next((rank, terms) for rank, terms in enumerate(gathered) if terms is not None)
    finish_saving()
    values = ", ".join(f"{name} {value:.4g}" for name, value in terms.items() if not name.startswith("consistent"))
    return TrainingFault(
        f"the loss is not finite at step {meter.done + 1} (rank {rank}: {values}); that step was not taken; "
        f"{_newest(run)}. {_REMEDY}"
    )


def check_finite(engine: Any, meter: Meter, run: Store, finish_saving: Callable[[], None]) -> None:
    """Raise TrainingFault on every rank if a gradient or weight of any rank is not finite. A collective call.

    `finish_saving` is called before, as in `loss_fault`.
    """
    finite = finite_weights(engine).to(torch.int32) * (skipped_steps(engine) == 0)
    finite_everywhere = finite.clone()
    dist.all_reduce(finite_everywhere, op=dist.ReduceOp.MIN)
    if finite_everywhere.item():
        return
    by_rank: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(by_rank, bool(finite.item()))
    finish_saving()
    raise TrainingFault(
        f"weights or gradients are not finite by step {meter.done} (rank {by_rank.index(False)}); "
        f"{_newest(run)}. {_REMEDY}"
    )


@contextmanager
def naming_out_of_memory(meter: Meter, run: Store) -> Iterator[None]:
    """Turn an out-of-memory error of the block into a TrainingFault that names step, rank and checkpoint."""
    try:
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        raise TrainingFault(
            f"out of memory at step {meter.done + 1}, rank {dist.get_rank()} ({first_line(error)}); "
            f"{_newest(run)}. Lower batch.micro, the crops, or take more workers."
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    """torch's own, and those of cuBLAS, cuDNN, NCCL, Triton and the CPU, which are plain RuntimeErrors."""
    return isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def _newest(run: Store) -> str:
    newest = next(iter(committed(run)), None)
    return f"newest good checkpoint: {newest.name if newest else 'none'}"
