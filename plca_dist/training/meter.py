"""Loss terms and rates between two log records, averaged over micro-batches and ranks."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from plca_dist.messages import Record
from plca_dist.training import metrics


class Meter:
    """Sums stay on the device. Only methods that return plain numbers wait for the device.

    Attributes:
        done: optimizer steps of the run that are done, including those before a resume.
    """

    def __init__(self, pairs_per_step: int, device: torch.device) -> None:
        self._pairs, self._device = pairs_per_step, device
        self.begin(0)

    def begin(self, done: int) -> None:
        """Training goes on from so many steps, now."""
        self.done = done
        self._skipped = 0
        self._created = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._of_step: dict[str, Tensor] = {}
        self._passes = self._passes_of_step = self._steps = 0
        self._waited = self._paused = 0.0
        self._since = time.monotonic()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block (evaluation, checkpoints) out of every rate."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add the loss terms of one micro-batch: scalars, without their graph. Best before its backward pass."""
        _accumulate(self._of_step, {name: value.detach().float() for name, value in terms.items()})
        self._passes_of_step += 1
        self._total = _Arriving(self._of_step["total"])

    def finite(self) -> bool:
        """Whether this rank's loss of the current step is finite. Waits for what came before the last `add` alone."""
        return math.isfinite(self._total.value())

    def terms_of_step(self) -> dict[str, float]:
        """This rank's means over the passes of the current step."""
        return {name: float(value) / self._passes_of_step for name, value in self._of_step.items()}

    def step(self) -> None:
        """Count an optimizer step as done."""
        _accumulate(self._sums, self._of_step)
        self._passes += self._passes_of_step
        self._of_step, self._passes_of_step = {}, 0
        self._steps += 1
        self.done += 1

    def record(self, lr: float, skipped: int = 0) -> Record:
        """Give the averages since the last record, and start anew. A collective call: all ranks have the same terms.

        Args:
            skipped: damaged samples that this rank has skipped so far.
        """
        names = sorted(self._sums)
        values = torch.stack([self._sums[name] for name in names]) / self._passes
        values = torch.cat([values, values.new_tensor([skipped - self._skipped])])
        self._skipped = skipped
        dist.all_reduce(values)
        *sums, skipped_since = values.tolist()
        means = {name: value / dist.get_world_size() for name, value in zip(names, sums, strict=True)}
        now = time.monotonic()
        busy = max(now - self._since - self._paused, 1e-9)
        record: Record = {metrics.STEP: self.done}
        record |= {_metric(name): mean for name, mean in means.items()}
        record |= {
            metrics.LEARNING_RATE: lr,
            metrics.PAIRS_PER_SECOND: self._pairs * self._steps / busy,
            metrics.DATA_WAIT: self._waited / busy,
            metrics.ELAPSED: now - self._created,
        }
        if skipped_since:
            record[metrics.DATA_SKIPPED] = int(skipped_since)
        if self._device.type == "cuda":
            record[metrics.GPU_MEMORY] = torch.cuda.max_memory_allocated(self._device) / 2**30
        self._clear()
        return record


class _Arriving:
    """A number on its way from the device. What the device is given later need not be done when it is read."""

    def __init__(self, number: Tensor) -> None:
        self._number, self._copied = number, None
        if number.is_cuda:
            self._number = torch.empty((), dtype=number.dtype, pin_memory=True).copy_(number, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def value(self) -> float:
        if self._copied is not None:
            self._copied.synchronize()
        return self._number.item()


def _accumulate(sums: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
    for name, value in terms.items():
        sums[name] = sums[name] + value if name in sums else value


#: What terms measure beside their losses -> names of metrics.
_MEASURED = {"confident": metrics.CONFIDENT, "labelled": metrics.LABELLED}


def _metric(term: str) -> str:
    if term in _MEASURED:
        return _MEASURED[term]
    name = term.removeprefix("consistent_")
    return (metrics.LOSS_PREFIX if name == term else metrics.CONSISTENT_PREFIX) + name
