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
    """Sums stay on the device; only `record` synchronizes with the host and with the other ranks."""

    def __init__(self, pairs_per_step: int, device: torch.device) -> None:
        self._pairs, self._device = pairs_per_step, device
        self._born = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._passes = self._steps = 0
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

    def record(self, step: int, lr: float) -> Record:
        """Averages since the last record, and start anew. A collective call: every rank, with the same terms."""
        names = sorted(self._sums)
        values = torch.stack([self._sums[name] for name in names]) / self._passes
        dist.all_reduce(values)
        means = dict(zip(names, (values / dist.get_world_size()).tolist(), strict=True))
        now = time.monotonic()
        busy = max(now - self._since - self._paused, 1e-9)
        record: Record = {metrics.STEP: step}
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
