"""Whether training is still sound, and the error that says where it was not.

A loss that is no number is met before it reaches a weight; weights and gradients are looked at wherever a record, an
evaluation or a checkpoint is due, for a checkpoint of spoilt ones would spoil a resume.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from plca_dist.errors import TrainingFault, first_line
from plca_dist.storage import Store
from plca_dist.training.checkpoint.commit import committed
from plca_dist.training.checkpoint.internals import skipped_steps
from plca_dist.training.engine import finite_weights
from plca_dist.training.meter import Meter

_REMEDY = "Lower optimizer.lr or set optimizer.gradient_clipping."


def loss_fault(meter: Meter, run: Store, settle: Callable[[], None], *, finite: bool) -> TrainingFault:
    """The error for a loss that is not finite on some rank, the same on every rank. A collective call.

    Args:
        meter: with the terms of the step that is not to be done.
        settle: lets a checkpoint that is under way come to its end, so that it can be named.
        finite: whether this rank's loss is.
    """
    seen: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(seen, None if finite else meter.terms_of_step())
    rank, terms = next((rank, terms) for rank, terms in enumerate(seen) if terms is not None)
    settle()
    said = ", ".join(f"{name} {value:.4g}" for name, value in terms.items() if not name.startswith("consistent"))
    return TrainingFault(
        f"the loss is not finite at step {meter.done + 1} (rank {rank}: {said}); that step was not taken; "
        f"{_newest(run)}. {_REMEDY}"
    )


def check(engine: Any, meter: Meter, run: Store, settle: Callable[[], None]) -> None:
    """Raise TrainingFault on every rank if a gradient or weight of any rank is not finite. A collective call.

    `settle` is called before, as in `loss_fault`.
    """
    mine = finite_weights(engine).to(torch.int32) * (skipped_steps(engine) == 0)
    verdict = mine.clone()
    dist.all_reduce(verdict, op=dist.ReduceOp.MIN)
    if verdict.item():
        return
    seen: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(seen, bool(mine.item()))
    settle()
    raise TrainingFault(
        f"weights or gradients are not finite by step {meter.done} (rank {seen.index(False)}); "
        f"{_newest(run)}. {_REMEDY}"
    )


@contextmanager
def naming_faults(meter: Meter, run: Store) -> Iterator[None]:
    """Memory that runs out inside the block becomes a TrainingFault."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingFault(
            f"out of memory at step {meter.done + 1}, rank {dist.get_rank()} ({first_line(error)}); "
            f"{_newest(run)}. Lower batch.micro, the crops, or take more workers."
        ) from error


def _newest(run: Store) -> str:
    newest = next(iter(committed(run)), None)
    return f"newest good checkpoint: {newest.name if newest else 'none'}"
