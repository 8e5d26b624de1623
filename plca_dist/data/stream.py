"""Order + storage + augmentation -> batches, prepared ahead of the step that needs them.

A `Stream` is a function of (recipe, rank, world size, step): opening it at step 500 gives what walking there gives,
so a resumed run sees the batches it would have seen. Fetching, decoding and resizing release the interpreter lock, so
threads in the worker keep all cores busy without worker processes, forks or shared memory.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plca_dist.data.codec import decode_image, decode_label
from plca_dist.data.domain import AugmentedSample, DomainStream, label_table, look_up
from plca_dist.data.fetch import RowGroups
from plca_dist.data.labels import LabelSet
from plca_dist.data.shards import Damaged, Manifest, ShardReader, read_manifest
from plca_dist.storage import OUTAGE_PATIENCE_S, Store, resolve

log = logging.getLogger(__name__)

#: Row groups of a slot that are fetched before the slot needs them: one would do for a store as fast as the training.
_GROUPS_AHEAD = 2
#: Micro-batches that the fetching looks ahead at most, where row groups are large.
_PASSES_AHEAD = 64


class Batch(NamedTuple):
    """Pairs for one forward pass: the k-th source image goes with the k-th target image.

    Attributes:
        source_image: (P, 3, H, W) uint8 RGB.
        source_label: (P, H, W) int64 train ids, 255 ignored.
        target_image: (P, 3, H', W') uint8 RGB, or None where the objective has no use for it.
    """

    source_image: Tensor
    source_label: Tensor
    target_image: Tensor | None

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(None if t is None else t.to(device, non_blocking=True) for t in self))  # type: ignore[arg-type]


class Stream:
    """Micro-batches of one rank from `start_step` on, without end. Close it to stop its threads.

    Row groups are fetched ahead of the samples that are decoded, and those ahead of the step. In memory at once are
    at most `window` row groups a slot, `2` a slot fetched ahead, and those of the micro-batches being prepared.

    Attributes:
        skipped: samples so far that took the place of a damaged one.
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
        self._ahead: deque[tuple[list[Future[AugmentedSample]], list[Future[AugmentedSample]]]] = deque()
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
        self._ahead.append((source, target))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        source, target = self._ahead.popleft()
        self._schedule()
        source_samples, target_samples = [f.result() for f in source], [f.result() for f in target]
        self.skipped += sum(s.replaced for s in source_samples + target_samples)
        labels = [s.label_HW for s in source_samples if s.label_HW is not None]
        return Batch(
            torch.stack([s.image_3HW for s in source_samples]),
            torch.stack(labels).long(),
            torch.stack([s.image_3HW for s in target_samples]) if target else None,
        )

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for domain in self._domains:
            domain.groups.close()
        self._pool.shutdown(wait=True)


class Labelled(NamedTuple):
    """A sample of a labelled set: its row there, its id, image (3, H, W) uint8 RGB and label (H, W) uint8 train ids."""

    row: int
    id: str
    image: Tensor
    label: Tensor


def labelled_samples(
    uri: str, labels: LabelSet, part: int, parts: int, endpoint: str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """(image (3, H, W) uint8, label (H, W) uint8) of the `part`-th of `parts` contiguous shares of a labelled set.

    The shares are disjoint and cover the set: nothing is padded, nothing counted twice.
    """
    store = resolve(uri, endpoint, patience_s=OUTAGE_PATIENCE_S)
    manifest = read_manifest(store)
    with closing(_labelled(store, manifest, labels, share(manifest.rows, part, parts))) as samples:
        for sample in samples:
            yield sample.image, sample.label


def labelled_rows(
    uri: str, labels: LabelSet, rows: range, endpoint: str | None = None
) -> Generator[Labelled, None, None]:
    """The samples at `rows` of a labelled set, with their ids; `rows` beyond its end are left out."""
    store = resolve(uri, endpoint, patience_s=OUTAGE_PATIENCE_S)
    manifest = read_manifest(store)
    yield from _labelled(store, manifest, labels, range(rows.start, min(rows.stop, manifest.rows)))


def share(rows: int, part: int, parts: int) -> range:
    """The `part`-th of `parts` contiguous shares of so many rows: disjoint, and together all of them."""
    return range(rows * part // parts, rows * (part + 1) // parts)


class Pair(NamedTuple):
    """A source image (3, H, W) uint8 with its label (H, W) uint8, and a target image (3, H', W') uint8; whole ones."""

    source_image: Tensor
    source_label: Tensor
    target_image: Tensor


def whole_pairs(
    source: str,
    target: str,
    labels: LabelSet,
    most: int,
    part: int,
    parts: int,
    endpoint: str | None = None,
    *,
    skip_damaged: bool = False,
) -> Iterator[Pair]:
    """The `part`-th of `parts` contiguous shares of the first `most` pairs, fewer where a domain has fewer images.

    The k-th source image goes with the k-th target image, in the order of the shards, which is shuffled when they are
    written. Of the target nothing but images is read. `skip_damaged` passes over a pair with a damaged row.
    """
    stores = [resolve(uri, endpoint, patience_s=OUTAGE_PATIENCE_S) for uri in (source, target)]
    of_source, of_target = (read_manifest(store) for store in stores)
    table = label_table(of_source, labels.classes, stores[0].uri)
    rows = share(min(most, of_source.rows, of_target.rows), part, parts)
    passed: set[str] = set()
    with (
        closing(_rows(stores[0], of_source, ["image", "label"], rows)) as source_rows,
        closing(_rows(stores[1], of_target, ["image"], rows)) as target_rows,
    ):
        for read_source, read_target in zip(source_rows, target_rows, strict=True):
            try:
                ours, theirs = read_source(), read_target()
            except Damaged as error:
                if not skip_damaged:
                    raise
                if str(error) not in passed:
                    passed.add(str(error))
                    log.warning("passing over damaged rows: %s", error)
                continue
            label = look_up(table, decode_label(ours["label"]))
            yield Pair(decode_image(ours["image"]), label, decode_image(theirs["image"]))


def _labelled(store: Store, manifest: Manifest, labels: LabelSet, wanted: range) -> Generator[Labelled, None, None]:
    table = label_table(manifest, labels.classes, store.uri)
    with closing(_rows(store, manifest, ["id", "image", "label"], wanted)) as rows:
        for index, read in zip(wanted, rows, strict=True):
            row = read()
            label = look_up(table, decode_label(row["label"]))
            yield Labelled(index, row["id"], decode_image(row["image"]), label)


def _rows(
    store: Store, manifest: Manifest, columns: list[str], wanted: range
) -> Generator[Callable[[], dict[str, Any]], None, None]:
    """A call for each of the rows, good until the next one is asked for, that gives its columns.

    Calls rather than rows: a generator that raised for a damaged row could not go on to the next.
    """
    with closing(RowGroups(ShardReader(store, manifest), columns)) as groups:
        for index in wanted:
            here = int(groups.group_of(index))
            if index == wanted.start:
                groups.hold(here)
            if index in (wanted.start, groups.first_rows[here]) and here + 1 <= groups.group_of(wanted.stop - 1):
                groups.hold(here + 1)  # is fetched while this one is used
            yield partial(groups.row, index)
            if index + 1 not in wanted or groups.group_of(index + 1) != here:
                groups.release(here)


def _count(start: int) -> Iterator[int]:
    while True:
        yield start
        start += 1
