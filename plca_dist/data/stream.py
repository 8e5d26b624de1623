"""The batches of one rank, prepared ahead of the step that needs them.

A `Stream` is a function of (recipe, rank, world size, step). A stream opened at step 500 gives the batches that a
stream from step 0 gives there, so a resumed run sees the batches that it would have seen. Fetching, decoding and
resizing release the interpreter lock: threads keep all cores busy, without worker processes, forks or shared memory.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from plca_dist.data.domain import AugmentedSample, DomainStream

#: Row groups of a slot that are fetched before the slot needs them. One is enough for a store as fast as the training.
_GROUPS_AHEAD = 2
#: The most micro-batches that fetching looks ahead, where row groups are large.
_PASSES_AHEAD = 64


class Batch(NamedTuple):
    """Pairs for one forward pass: the k-th source image goes with the k-th target image.

    Attributes:
        source_image: (P, 3, H, W) uint8 RGB.
        source_label: (P, H, W) uint8 train ids, 255 ignored.
        target_image: (P, 3, H', W') uint8 RGB, or None where the objective has no use for it.
        keys: (P, 3) int64: seed, step and slot of each pair, on the CPU wherever the rest is. All that is drawn for a
            pair in its step is a function of them (`pair_draws`).
    """

    source_image: Tensor
    source_label: Tensor
    target_image: Tensor | None
    keys: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The same in memory that a GPU copies from without the host."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        target = None if self.target_image is None else change(self.target_image)
        return Batch(change(self.source_image), change(self.source_label), target, self.keys)


class Stream:
    """Micro-batches of one rank from `start_step` on, without end. Close it to stop its threads.

    Row groups are fetched ahead of the samples to be decoded, and samples are decoded ahead of the step. At most
    `window` row groups a slot are in memory at once, 2 a slot fetched ahead, and those of the micro-batches being
    prepared.

    Attributes:
        skipped: number of samples so far that took the place of a damaged one.
    """

    def __init__(
        self,
        source: DomainStream,
        target: DomainStream | None,
        *,
        slots: range,
        micro: int,
        start_step: int,
        threads: int,
        prefetch: int,
    ) -> None:
        self.skipped = 0
        self._source, self._target = source, target
        self._domains = [source, target] if target else [source]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="plca-stream")
        self._plan = (
            (step, range(first, first + micro))
            for step in _count(start_step)
            for first in range(slots.start, slots.stop, micro)
        )
        self._groups_ahead = _GROUPS_AHEAD * len(slots) * len(self._domains)
        self._announced: deque[tuple[int, range, int]] = deque()  # step, slots, row groups they are the first to need
        self._unused = 0
        self._ahead: deque[tuple[Tensor, list[Future[AugmentedSample]], list[Future[AugmentedSample]]]] = deque()
        for _ in range(prefetch):
            self._schedule()

    def _announce(self) -> None:
        while not self._announced or (self._unused < self._groups_ahead and len(self._announced) < _PASSES_AHEAD):
            step, slots = next(self._plan)
            fresh = sum(domain.announce(step, slot) for slot in slots for domain in self._domains)
            self._announced.append((step, slots, fresh))
            self._unused += fresh

    def _schedule(self) -> None:
        self._announce()
        step, slots, fresh = self._announced.popleft()
        self._unused -= fresh
        source = [self._pool.submit(self._source.load, step, slot) for slot in slots]
        target = [self._pool.submit(self._target.load, step, slot) for slot in slots] if self._target else []
        keys = torch.tensor([[self._source.seed, step, slot] for slot in slots])
        self._ahead.append((keys, source, target))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        keys, source, target = self._ahead.popleft()
        self._schedule()
        source_samples, target_samples = [f.result() for f in source], [f.result() for f in target]
        self.skipped += sum(s.replaced for s in source_samples + target_samples)
        labels = [s.label_HW for s in source_samples if s.label_HW is not None]
        return Batch(
            torch.stack([s.image_3HW for s in source_samples]),
            torch.stack(labels),
            torch.stack([s.image_3HW for s in target_samples]) if target else None,
            keys,
        )

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for domain in self._domains:
            domain.groups.close()
        self._pool.shutdown(wait=True)


def _count(start: int) -> Iterator[int]:
    while True:
        yield start
        start += 1
