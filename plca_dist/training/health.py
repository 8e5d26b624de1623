"""Whether training is still sound, and the error that says where it was not.

A loss, gradient or weight that is no number spoils every later step, and a checkpoint of it would spoil a resume. So
all of them are looked at wherever a record, an evaluation or a checkpoint is due: one host synchronization each.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from plca_dist.storage import Store
from plca_dist.training.commits import committed
from plca_dist.training.engine import finite_weights
from plca_dist.training.meter import Meter


class TrainingFault(RuntimeError):
    """Training cannot go on: the message names the step, the rank and the newest good checkpoint."""


def check(engine: Any, meter: Meter, run: Store) -> None:
    """Raise TrainingFault on every rank if a loss, gradient or weight of any rank is not finite. A collective call."""
    sound = meter.sound() & finite_weights(engine)
    # Under ZeRO DeepSpeed leaves a step out, without a word, where a gradient is not finite.
    verdict = sound.to(torch.int32) * (engine.skipped_steps == 0)
    dist.all_reduce(verdict, op=dist.ReduceOp.MIN)
    if verdict.item():
        return
    seen: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(seen, (meter.first_unsound_step(), dist.get_rank(), meter.local_means()))
    step, rank, terms = min(seen, key=lambda s: (s[0] or math.inf, s[1]))
    by = f"weights or gradients are not finite by step {meter.done}"
    what = f"the loss is not finite at step {step}" if step else by
    said = ", ".join(f"{name} {value:.4g}" for name, value in terms.items() if not name.startswith("consistent"))
    raise TrainingFault(
        f"{what} (rank {rank}, mean since the last record: {said}); {_newest(run)}. "
        "Lower optimizer.lr or set optimizer.gradient_clipping."
    )


@contextmanager
def naming_faults(meter: Meter, run: Store) -> Iterator[None]:
    """Memory that runs out inside the block becomes a TrainingFault."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingFault(
            f"out of memory at step {meter.done + 1}, rank {dist.get_rank()} ({str(error).splitlines()[0]}); "
            f"{_newest(run)}. Lower batch.micro, the crops, or take more workers."
        ) from error


def _newest(run: Store) -> str:
    newest = next(iter(committed(run)), None)
    return f"newest good checkpoint: {newest.name if newest else 'none'}"
