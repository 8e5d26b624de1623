"""Whole images of shards, neither cropped nor resized, in the order of their rows: for evaluation and for pictures."""

from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from plca_dist.data.decoded import decoded
from plca_dist.data.label_table import label_table, look_up
from plca_dist.data.labels import LabelSet
from plca_dist.data.read_ahead import read_ahead
from plca_dist.data.shards import Damaged, Manifest, ShardReader, pass_over, read_manifest
from plca_dist.data.shards.fetch import RowGroups
from plca_dist.storage import Store


class Labelled(NamedTuple):
    """A sample of a labelled set: its row there, its id, image (3, H, W) uint8 RGB and label (H, W) uint8 train ids."""

    row: int
    id: str
    image: Tensor
    label: Tensor


def labelled_samples(
    shards: Store, labels: LabelSet, part: int, parts: int
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """(image (3, H, W) uint8, label (H, W) uint8) of the `part`-th of `parts` contiguous shares of a labelled set.

    The shares are disjoint and cover the set: nothing is padded, nothing counted twice.
    """
    manifest = read_manifest(shards)
    rows = share(manifest.rows, part, parts)
    with closing(read_ahead(_labelled(shards, manifest, labels, rows))) as samples:
        for sample in samples:
            yield sample.image, sample.label


def labelled_rows(shards: Store, labels: LabelSet, rows: range) -> Generator[Labelled, None, None]:
    """The samples at `rows` of a labelled set, with their ids; `rows` beyond its end are left out."""
    manifest = read_manifest(shards)
    yield from _labelled(shards, manifest, labels, range(rows.start, min(rows.stop, manifest.rows)))


def share(rows: int, part: int, parts: int) -> range:
    """The `part`-th of `parts` contiguous shares of so many rows: disjoint, and together all of them."""
    return range(rows * part // parts, rows * (part + 1) // parts)


class Pair(NamedTuple):
    """A source image (3, H, W) uint8 with its label (H, W) uint8, and a target image (3, H', W') uint8, all whole."""

    source_image: Tensor
    source_label: Tensor
    target_image: Tensor


def whole_pairs(
    source: Store, target: Store, labels: LabelSet, most: int, part: int, parts: int, *, skip_damaged: bool = False
) -> Generator[Pair, None, None]:
    """The `part`-th of `parts` contiguous shares of the first `most` pairs, fewer where a domain has fewer images.

    The k-th source image goes with the k-th target image, in the order of the shards, which is shuffled when they are
    written. Of the target only images are read. `skip_damaged` passes over a pair with a damaged row.
    """
    pairs = _whole_pairs(source, target, labels, most, part, parts, skip_damaged)
    with closing(read_ahead(pairs)) as ahead:
        yield from ahead


def _whole_pairs(
    source: Store, target: Store, labels: LabelSet, most: int, part: int, parts: int, skip_damaged: bool
) -> Generator[Pair, None, None]:
    source_manifest, target_manifest = read_manifest(source), read_manifest(target)
    table = label_table(source_manifest, labels, source.uri)
    rows = share(min(most, source_manifest.rows, target_manifest.rows), part, parts)
    reported: set[str] = set()
    with (
        closing(_rows(source, source_manifest, ["image", "label"], rows)) as source_rows,
        closing(_rows(target, target_manifest, ["image"], rows)) as target_rows,
    ):
        for index, read_source, read_target in zip(rows, source_rows, target_rows, strict=True):
            try:
                source_row, target_row = read_source(), read_target()
            except Damaged as error:
                pass_over(error, skip_damaged, reported)
                continue
            image, label = decoded(source_row, f"{source.uri}: row {index}")
            assert label is not None
            yield Pair(image, look_up(table, label), decoded(target_row, f"{target.uri}: row {index}")[0])


def target_images(shards: Store, part: int, parts: int, *, skip_damaged: bool = False) -> Generator[Tensor, None, None]:
    """Images (3, H, W) uint8 of the `part`-th of `parts` contiguous shares of a set; labels are not read.

    `skip_damaged` passes over damaged rows.
    """
    with closing(read_ahead(_images(shards, part, parts, skip_damaged))) as ahead:
        yield from ahead


def _images(shards: Store, part: int, parts: int, skip_damaged: bool) -> Generator[Tensor, None, None]:
    manifest = read_manifest(shards)
    wanted = share(manifest.rows, part, parts)
    reported: set[str] = set()
    with closing(_rows(shards, manifest, ["image"], wanted)) as rows:
        for index, read in zip(wanted, rows, strict=True):
            try:
                row = read()
            except Damaged as error:
                pass_over(error, skip_damaged, reported)
                continue
            yield decoded(row, f"{shards.uri}: row {index}")[0]


def _labelled(store: Store, manifest: Manifest, labels: LabelSet, wanted: range) -> Generator[Labelled, None, None]:
    table = label_table(manifest, labels, store.uri)
    with closing(_rows(store, manifest, ["id", "image", "label"], wanted)) as rows:
        for index, read in zip(wanted, rows, strict=True):
            row = read()
            image, label = decoded(row, f"{store.uri}: row {index} ({row['id']})")
            assert label is not None
            yield Labelled(index, row["id"], image, look_up(table, label))


def _rows(
    store: Store, manifest: Manifest, columns: list[str], wanted: range
) -> Generator[Callable[[], dict[str, Any]], None, None]:
    """For each of the rows a function that gives its columns. It is good until the next one is asked for.

    A generator of the rows themselves would end at the first damaged row, because an exception ends a generator.
    """
    with closing(RowGroups(ShardReader(store, manifest), columns)) as groups:
        for index in wanted:
            group = int(groups.group_of(index))
            if index == wanted.start:
                groups.hold(group)
            if index in (wanted.start, groups.first_rows[group]) and group + 1 <= groups.group_of(wanted.stop - 1):
                groups.hold(group + 1)  # it is fetched while this one is used
            yield partial(groups.row, index)
            if index + 1 not in wanted or groups.group_of(index + 1) != group:
                groups.release(group)
