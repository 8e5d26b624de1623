"""Order + storage + augmentation -> batches, prepared ahead of the step that needs them.

A `Stream` is a function of (recipe, rank, world size, step): opening it at step 500 gives what walking there gives,
so a resumed run sees the batches it would have seen. Fetching, decoding and resizing release the interpreter lock, so
threads in the worker keep all cores busy without worker processes, forks or shared memory.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plca_dist.data.augment import augment
from plca_dist.data.codec import decode_image, decode_label
from plca_dist.data.labels import LabelSet, remap
from plca_dist.data.order import Order, sample_rng
from plca_dist.data.shards import Manifest, ShardReader, read_manifest
from plca_dist.errors import UserError
from plca_dist.storage import Store, resolve


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


class Sample(NamedTuple):
    image_3HW: Tensor
    label_HW: Tensor | None


class RowCache:
    """Row groups by number, fetched once however many threads ask, the least recently used dropped."""

    def __init__(self, reader: ShardReader, columns: list[str], capacity: int) -> None:
        self._reader, self._columns, self._capacity = reader, columns, capacity
        self._groups: OrderedDict[int, Future[Any]] = OrderedDict()
        self._lock = Lock()
        self._first_rows = np.array([g.first_row for g in reader.manifest.row_groups])

    def row(self, index: int) -> dict[str, Any]:
        """The columns of global row `index`."""
        number = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        table = self._group(number)
        at = index - int(self._first_rows[number])
        return {name: table[name][at].as_py() for name in self._columns}

    def _group(self, number: int) -> Any:
        with self._lock:
            future = self._groups.get(number)
            mine = future is None
            if future is None:
                future = self._groups[number] = Future()
            self._groups.move_to_end(number)
            while len(self._groups) > self._capacity:
                self._groups.popitem(last=False)
        if mine:
            group = self._reader.manifest.row_groups[number]
            try:
                future.set_result(self._reader.read_row_group(group.shard, group.group, self._columns))
            except BaseException as error:
                with self._lock:
                    self._groups.pop(number, None)
                future.set_exception(error)
        return future.result()


class DomainStream:
    """One domain's samples by (step, slot).

    Args:
        shards: where the domain's shards are.
        name: "source" or "target"; the order and the augmentation of the two are independent.
        classes: names of the classes to learn, whose labels come with the images; None: images alone.
        batch, seed, window: of the order (see `Order`).
        slots: how many of the batch's slots this rank reads.
    """

    def __init__(
        self,
        shards: Store,
        name: str,
        *,
        classes: Sequence[str] | None,
        batch: int,
        seed: int,
        window: int,
        slots: int,
        shorter_edge: tuple[int, int] | None,
        crop: tuple[int, int],
        flip: bool,
    ) -> None:
        manifest = read_manifest(shards)
        self.order = Order([g.rows for g in manifest.row_groups], batch, seed, name, window)
        self._table = None if classes is None else label_table(manifest, classes, shards.uri)
        self._name, self._seed = name, seed
        self._shorter_edge, self._crop, self._flip = shorter_edge, crop, flip
        columns = ["image"] if classes is None else ["image", "label"]
        # Every slot of the rank walks through one window of row groups at a time.
        self._rows = RowCache(ShardReader(shards, manifest), columns, slots * window + 1)

    def load(self, step: int, slot: int) -> Sample:
        """Fetch, decode and augment; a pure function of its arguments and the recipe."""
        index = self.order.sample(step, slot)
        row = self._rows.row(index)
        label = None if self._table is None else self._table[decode_label(row["label"]).long()]
        rng = sample_rng(self._seed, self._name, step // self.order.steps_per_epoch, index)
        image = decode_image(row["image"])
        return Sample(*augment(image, label, rng, shorter_edge=self._shorter_edge, crop=self._crop, flip=self._flip))


class Stream:
    """Micro-batches of one rank from `start_step` on, without end. Close it to stop its threads."""

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
        self._source, self._target = source, target
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="plca-stream")
        self._plan = (
            (step, range(first, first + micro))
            for step in _count(start_step)
            for first in range(slots.start, slots.stop, micro)
        )
        self._ahead: deque[tuple[list[Future[Sample]], list[Future[Sample]]]] = deque()
        for _ in range(prefetch):
            self._schedule()

    def _schedule(self) -> None:
        step, slots = next(self._plan)
        source = [self._pool.submit(self._source.load, step, slot) for slot in slots]
        target = [self._pool.submit(self._target.load, step, slot) for slot in slots] if self._target else []
        self._ahead.append((source, target))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        source, target = self._ahead.popleft()
        self._schedule()
        source_samples = [f.result() for f in source]
        labels = [s.label_HW for s in source_samples if s.label_HW is not None]
        return Batch(
            torch.stack([s.image_3HW for s in source_samples]),
            torch.stack(labels).long(),
            torch.stack([f.result().image_3HW for f in target]) if target else None,
        )

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def labelled_samples(
    uri: str, labels: LabelSet, part: int, parts: int, endpoint: str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """(image (3, H, W) uint8, label (H, W) uint8) of the `part`-th of `parts` contiguous shares of a labelled set.

    The shares are disjoint and cover the set: nothing is padded, nothing counted twice.
    """
    store = resolve(uri, endpoint)
    manifest = read_manifest(store)
    table = label_table(manifest, labels.classes, store.uri)
    rows = RowCache(ShardReader(store, manifest), ["image", "label"], capacity=1)
    for index in range(manifest.rows * part // parts, manifest.rows * (part + 1) // parts):
        row = rows.row(index)
        yield decode_image(row["image"]), table[decode_label(row["label"]).long()]


def label_table(manifest: Manifest, classes: Sequence[str], where: str) -> Tensor:
    """Lookup (256,) uint8 from the shards' train ids to those of `classes`.

    Raises UserError where the shards hold no labels, or none of the classes.
    """
    if not manifest.with_labels:
        raise UserError(f"{where} holds no labels; write these shards from a labelled set, without --no-labels.")
    if not set(manifest.classes) & set(classes):
        raise UserError(
            f"{where} (label set {manifest.label_set!r}) knows none of the classes wanted: {', '.join(classes)}."
        )
    return torch.from_numpy(remap(manifest.classes, classes))


def _count(start: int) -> Iterator[int]:
    while True:
        yield start
        start += 1
