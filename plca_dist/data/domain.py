"""One domain of the training data: samples in its order, decoded from its row groups and augmented."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from plca_dist.data.augment import augment
from plca_dist.data.decoded import decoded
from plca_dist.data.label_table import label_table, look_up
from plca_dist.data.labels import LabelSet
from plca_dist.data.order import NEWEST_CUT, Order
from plca_dist.data.rare_classes import RareClasses, RareClassOrder, pixel_counts
from plca_dist.data.shards import Damaged, ShardReader, pass_over, read_manifest
from plca_dist.data.shards.fetch import RowGroups
from plca_dist.storage import Store


class AugmentedSample(NamedTuple):
    """A sample after augmentation. `replaced`: it stands for a damaged one."""

    image_3HW: Tensor
    label_HW: Tensor | None
    replaced: bool


class _Walk(NamedTuple):
    """One slot's steps through an epoch.

    Attributes:
        groups: (T,) row group of each step.
        last: (T,) whether it is the slot's last visit to that row group.
        kept: row groups that the slot keeps in memory now.
    """

    epoch: int
    groups: np.ndarray
    last: np.ndarray
    kept: set[int]

    @classmethod
    def of(cls, epoch: int, groups: np.ndarray) -> "_Walk":
        last = np.zeros(len(groups), bool)
        last[len(groups) - 1 - np.unique(groups[::-1], return_index=True)[1]] = True
        return cls(epoch, groups, last, set())


class DomainStream:
    """One domain's samples by (step, slot).

    Args:
        shards: the domain's shard directory.
        name: "source" or "target"; the order and the augmentation of the two are independent.
        labels: the classes to learn, for images with labels; None: images alone.
        batch, seed, window, cut: of the order (see `Order`).
        damaged: "stop" at a damaged row group, or "skip" it. With "skip", each damaged row is replaced by the next
            sound one of the slot's epoch, which goes on at the beginning after its end; where there is none, by one of
            the following slots'. The same at any world size.
        rare: draw images by their classes; of a domain with labels.

    Attributes:
        groups: the row groups in memory.
        seed: of the order.
    """

    def __init__(
        self,
        shards: Store,
        name: str,
        *,
        labels: LabelSet | None,
        batch: int,
        seed: int,
        window: int,
        shorter_edge: tuple[int, int] | None,
        crop: tuple[int, int],
        flip: bool,
        cut: int = NEWEST_CUT,
        damaged: str = "stop",
        rare: RareClasses | None = None,
    ) -> None:
        manifest = read_manifest(shards)
        self._table = None if labels is None else label_table(manifest, labels, shards.uri)
        self._where, self._rare = shards.uri, rare
        self.seed, self._skip = seed, damaged == "skip"
        self._shorter_edge, self._crop, self._flip = shorter_edge, crop, flip
        reader = ShardReader(shards, manifest)
        rows = [g.rows for g in manifest.row_groups]
        if rare is None:
            self.order = Order(rows, batch, seed, name, window, cut)
        else:
            assert labels is not None
            assert self._table is not None
            counts_NK = pixel_counts(reader, self._table, len(labels), skip_damaged=self._skip)
            self.order = RareClassOrder(rows, batch, seed, name, window, counts_NK=counts_NK, rare=rare)
        self.groups = RowGroups(reader, ["image"] if labels is None else ["image", "label"])
        self._walks: dict[int, _Walk] = {}
        self._passed: set[str] = set()

    def announce(self, step: int, slot: int) -> int:
        """Start fetching the row group for `load`. Call it once before each `load`, a slot's steps in order.

        A row group stays in memory from the slot's first visit to its last in the epoch.

        Returns:
            The number of row groups that this visit is the first to: 1 or 0.
        """
        epoch, within = divmod(step, self.order.steps_per_epoch)
        walk = self._walks.get(slot)
        if walk is None or walk.epoch != epoch:
            walk = self._walks[slot] = _Walk.of(epoch, self.groups.group_of(self.order.stretch(epoch, slot)))
        group = int(walk.groups[within])
        first = group not in walk.kept
        self.groups.hold(group)  # for this visit; `load` releases it
        if first:
            walk.kept.add(group)
            self.groups.hold(group)
        if walk.last[within]:
            walk.kept.remove(group)
            self.groups.release(group)
        return int(first)

    def load(self, step: int, slot: int) -> AugmentedSample:
        """Decode and augment the sample that was announced; a pure function of the arguments and the recipe.

        Raises:
            Damaged: at a damaged row, or where the whole epoch is damaged.
        """
        wanted = self.order.sample(step, slot)
        try:
            index, row = self._sound(step, slot)
        finally:
            self.groups.release(int(self.groups.group_of(wanted)))
        image, label = augment(
            *decoded(row, f"{self._where}: row {index}"),
            self.order.rng(step, slot, index),
            shorter_edge=self._shorter_edge,
            crop=self._crop,
            flip=self._flip,
            enough=self._enough(self.order.wanted(step, slot)),
            crops=self._rare.crops if self._rare else 1,
        )
        if self._table is not None and label is not None:
            label = look_up(self._table, label)  # after the crop: fewer pixels, and the same ones
        return AugmentedSample(image, label, replaced=index != wanted)

    def _sound(self, step: int, slot: int) -> tuple[int, dict[str, Any]]:
        """The global row that `slot` reads at `step`, or the one in its place, and its columns."""
        for index in self._candidates(step, slot):
            try:
                return index, self.groups.row(index)
            except Damaged as error:
                pass_over(error, self._skip, self._passed)
        raise Damaged(f"{self._where}: all rows are damaged; copy the shards again, or write them with --overwrite.")

    def _candidates(self, step: int, slot: int) -> Iterator[int]:
        """The slot's row at that step, those behind it in its stretch and before, and then those of the next slots."""
        epoch, within = divmod(step, self.order.steps_per_epoch)
        for behind in range(self.order.batch):
            stretch = self.order.stretch(epoch, (slot + behind) % self.order.batch)
            start = 0 if behind else within
            yield from (int(stretch[(start + past) % len(stretch)]) for past in range(len(stretch)))

    def _enough(self, wanted: int | None) -> Callable[[Tensor], bool] | None:
        """Whether a crop of a label has enough of the class that its image was drawn for."""
        if wanted is None or self._rare is None or self._table is None:
            return None
        is_wanted, least = (self._table == wanted).to(self._table.dtype), self._rare.pixels / 2
        return lambda label_HW: int(look_up(is_wanted, label_HW).sum()) > least
