"""Loss terms and rates between two log records, averaged over micro-batches and ranks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from plca_dist.training import metrics
from plca_dist.training.session import Record


class Meter:
    """Sums stay on the device; only what returns plain numbers synchronizes with the host.

    Attributes:
        done: optimizer steps of the run that are done, those before a resume included.
    """

    def __init__(self, pairs_per_step: int, device: torch.device, done: int = 0) -> None:
        self._pairs, self._device = pairs_per_step, device
        self.done = done
        self._born = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._passes = self._steps = 0
        self._sound = torch.zeros((), dtype=torch.int64, device=self._device)
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
        for name, value in terms.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._passes += 1

    def step(self) -> None:
        """One optimizer step is done."""
        self._steps += 1
        self.done += 1
        # A sum that has met a NaN or an infinity stays so: this counts the steps before it.
        self._sound = self._sound + torch.isfinite(self._sums["total"])

    def sound(self) -> Tensor:
        """Whether every loss of this rank since the last record is finite: a bool scalar, still on the device."""
        return self._sound == self._steps

    def first_unsound_step(self) -> int | None:
        """The first step since the last record whose loss on this rank was not finite."""
        sound = int(self._sound)
        return self.done - self._steps + sound + 1 if sound < self._steps else None

    def local_means(self) -> dict[str, float]:
        """This rank's means since the last record."""
        return {name: float(value) / self._passes for name, value in self._sums.items()}

    def record(self, lr: float) -> Record:
        """Averages since the last record, and start anew. A collective call: every rank, with the same terms."""
        names = sorted(self._sums)
        values = torch.stack([self._sums[name] for name in names]) / self._passes
        dist.all_reduce(values)
        means = dict(zip(names, (values / dist.get_world_size()).tolist(), strict=True))
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
        if self._device.type == "cuda":
            record[metrics.GPU_MEMORY] = torch.cuda.max_memory_allocated(self._device) / 2**30
        self._clear()
        return record


def _metric(term: str) -> str:
    name = term.removeprefix("consistent_")
    return (metrics.LOSS_PREFIX if name == term else metrics.CONSISTENT_PREFIX) + name
