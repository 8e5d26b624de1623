"""Rare class sampling (DAFormer, Hoyer et al. 2022, arXiv 2111.14887): rare classes are drawn first, then their images.

P(c) ∝ exp((1 − f_c) / T), where f_c is the share of class c among all labelled pixels. A slot draws a class at every
step, and then one of the images with more than so many pixels of it, with replacement.

Images are drawn from a window of row groups (`Order`, cut 1), not from the whole set. So a slot holds no more groups in
memory than without, and reads each of its windows' groups at most once an epoch. But slots share windows, and cannot
have row groups of their own as under cut 2: at hundreds of ranks a short epoch is read several times. A window of few
images knows few classes: a class without images in it is not drawn there. A larger `order.window` comes nearer to
drawing from the whole set, and one of all row groups does it. At its start each rank reads the pixel counts of all
rows: one small request for each row group.

Legend: N samples, K classes, T steps an epoch, B slots, W row groups a window.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from torch import Tensor

from plca_dist.data.labels import IGNORE
from plca_dist.data.order import Order, keyed_rng, permutation, uniforms
from plca_dist.data.shards import Damaged, ShardReader
from plca_dist.errors import UserError

#: Requests for pixel counts at once; each is of a few hundred bytes.
_REQUESTS = 16


@dataclass(frozen=True)
class RareClasses:
    """Settings.

    Attributes:
        temperature: T; smaller means rare classes more often.
        pixels: an image is drawn for a class of which it has more pixels than this.
        crops: how many crops are tried until one has more than half as many pixels of the class.
    """

    temperature: float
    pixels: int
    crops: int


class _Drawn(NamedTuple):
    """What a slot reads in an epoch: (T,) global rows, and (T,) classes that they were drawn for, -1 where none was."""

    rows: np.ndarray
    classes: np.ndarray


class RareClassOrder(Order):
    """An `Order` whose slots read images of drawn classes; a pure function of (seed, step, slot).

    Args:
        counts_NK: pixels of every class in every sample.
        rare: its temperature and pixels.

    Raises UserError where no image has enough pixels of any class.
    """

    def __init__(
        self,
        row_groups: Sequence[int],
        batch: int,
        seed: int,
        domain: str,
        window: int,
        *,
        counts_NK: np.ndarray,
        rare: RareClasses,
    ) -> None:
        super().__init__(row_groups, batch, seed, domain, window, cut=1)
        self._has_NK = counts_NK > rare.pixels
        if not counts_NK.any():
            raise UserError(
                f"rare class sampling: no image of the {domain} has a labelled pixel of the recipe's classes."
            )
        if not self._has_NK.any():
            raise UserError(
                f"rare_class_sampling.pixels = {rare.pixels}: no image of the {domain} has more pixels than that of "
                f"any class, at most {counts_NK.max(initial=0)}; lower it."
            )
        share_K = counts_NK.sum(0) / counts_NK.sum()
        exponent_K = (1 - share_K) / rare.temperature
        self._likelihood_K = np.exp(exponent_K - exponent_K.max())
        # Three epochs of every slot, of which a rank asks for its own alone.
        self._drawn = lru_cache(maxsize=3 * batch)(self._draw)

    def stretch(self, epoch: int, slot: int) -> np.ndarray:
        return self._drawn(epoch, slot).rows

    def wanted(self, step: int, slot: int) -> int | None:
        epoch, within = divmod(step, self.steps_per_epoch)
        found = int(self._drawn(epoch, slot).classes[within])
        return None if found < 0 else found

    def rng(self, step: int, slot: int, sample: int) -> np.random.Generator:
        """Of the step: a sample that is drawn twice is cropped in two ways."""
        return keyed_rng("augment drawn", self.seed, self.domain, step, slot)

    def window_bounds(self, epoch: int) -> np.ndarray:
        """Where each window of `epoch_order` begins, and last where it ends."""
        groups = permutation(len(self.rows), *self.key("groups", epoch))
        sizes = np.add.reduceat(self.rows[groups], np.arange(0, len(groups), self.window))
        return np.concatenate([[0], np.cumsum(sizes)])

    def _draw(self, epoch: int, slot: int) -> _Drawn:
        steps = self.steps_per_epoch
        order, bounds = self.epoch_order(epoch), self.window_bounds(epoch)
        first = slot * steps
        rows, classes = super().stretch(epoch, slot).copy(), np.full(steps, -1)
        class_T, image_T = uniforms(2 * steps, "rare classes", self.seed, self.domain, epoch, slot).reshape(2, steps)
        for start, end in pairwise(bounds):
            visits = range(max(start - first, 0), min(end - first, steps))
            if not visits:
                continue
            candidates = order[start:end]
            has_RK = self._has_NK[candidates]
            there = np.flatnonzero(has_RK.any(0))
            if not len(there):
                continue  # this window's images are read as they come
            sums = np.cumsum(self._likelihood_K[there])
            for t in visits:
                k = there[min(np.searchsorted(sums, class_T[t] * sums[-1], side="right"), len(there) - 1)]
                images = candidates[has_RK[:, k]]
                rows[t], classes[t] = images[int(image_T[t] * len(images))], k
        rows.flags.writeable = False
        return _Drawn(rows, classes)


def pixel_counts(reader: ShardReader, table: Tensor, classes: int, *, skip_damaged: bool) -> np.ndarray:
    """(N, K) int64 pixels of every wanted class in every sample, from the column that the shards have.

    Args:
        table: (256,) from the shards' train ids to those wanted (`label_table`).
        skip_damaged: a damaged row group has no pixels, else it raises Damaged.
    """
    groups = reader.manifest.row_groups

    def read(number: int) -> np.ndarray:
        group = groups[number]
        try:
            column = reader.read_row_group(group.shard, group.group, ["pixel_counts"])["pixel_counts"]
        except Damaged:
            if not skip_damaged:
                raise
            return np.zeros((group.rows, len(reader.manifest.classes)), np.int64)
        return np.array(column.to_pylist(), np.int64).reshape(group.rows, -1)

    with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="plca-counts") as pool:
        there = np.concatenate(
            [np.zeros((0, len(reader.manifest.classes)), np.int64), *pool.map(read, range(len(groups)))]
        )
    found = np.zeros((len(there), classes), np.int64)
    for k, wanted in enumerate(table[: there.shape[1]].tolist()):
        if wanted != IGNORE:
            found[:, wanted] += there[:, k]
    return found
