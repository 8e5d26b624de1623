"""Loss terms and rates between two log records, averaged over micro-batches and ranks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from plca_dist.messages import Record
from plca_dist.training import metrics


class Meter:
    """Sums stay on the device; only what returns plain numbers synchronizes with the host.

    Attributes:
        done: optimizer steps of the run that are done, those before a resume included.
    """

    def __init__(self, pairs_per_step: int, device: torch.device, done: int = 0) -> None:
        self._pairs, self._device = pairs_per_step, device
        self.done = done
        self._skipped = 0
        self._born = time.monotonic()
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
        """Time inside counts as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside (evaluation, checkpoints) counts for no rate."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def add(self, terms: dict[str, Tensor]) -> None:
        """The loss terms of one micro-batch: scalars, without their graph."""
        _accumulate(self._of_step, {name: value.detach().float() for name, value in terms.items()})
        self._passes_of_step += 1

    def finite(self) -> bool:
        """Whether this rank's loss of the step that is not yet done is a finite number. Waits for the device."""
        return bool(torch.isfinite(self._of_step["total"]))

    def terms_of_step(self) -> dict[str, float]:
        """This rank's means over the passes of the step that is not yet done."""
        return {name: float(value) / self._passes_of_step for name, value in self._of_step.items()}

    def step(self) -> None:
        """One optimizer step is done."""
        _accumulate(self._sums, self._of_step)
        self._passes += self._passes_of_step
        self._of_step, self._passes_of_step = {}, 0
        self._steps += 1
        self.done += 1

    def record(self, lr: float, skipped: int = 0) -> Record:
        """Averages since the last record, and start anew. A collective call: every rank, with the same terms.

        Args:
            skipped: damaged samples that this rank has passed over so far.
        """
        names = sorted(self._sums)
        values = torch.stack([self._sums[name] for name in names]) / self._passes
        values = torch.cat([values, values.new_tensor([skipped - self._skipped])])
        self._skipped = skipped
        dist.all_reduce(values)
        *sums, passed_over = values.tolist()
        means = {name: value / dist.get_world_size() for name, value in zip(names, sums, strict=True)}
        now = time.monotonic()
        busy = max(now - self._since - self._paused, 1e-9)
        record: Record = {metrics.STEP: self.done}
        record |= {_metric(name): mean for name, mean in means.items()}
        record |= {
            metrics.LEARNING_RATE: lr,
            metrics.PAIRS_PER_SECOND: self._pairs * self._steps / busy,
            metrics.DATA_WAIT: self._waited / busy,
            metrics.ELAPSED: now - self._born,
        }
        if passed_over:
            record[metrics.DATA_SKIPPED] = int(passed_over)
        if self._device.type == "cuda":
            record[metrics.GPU_MEMORY] = torch.cuda.max_memory_allocated(self._device) / 2**30
        self._clear()
        return record


def _accumulate(sums: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
    for name, value in terms.items():
        sums[name] = sums[name] + value if name in sums else value


def _metric(term: str) -> str:
    name = term.removeprefix("consistent_")
    return (metrics.LOSS_PREFIX if name == term else metrics.CONSISTENT_PREFIX) + name
