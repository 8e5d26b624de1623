"""The stream: the same batches at any world size and from any start, fetched once, and errors that arrive."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.domain import DomainStream
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.shards import write_shards
from plca_dist.data.stream import Batch, Stream
from plca_dist.errors import UserError
from plca_dist.storage import Store, resolve

BATCH = 4
TOYTOWN = LABEL_SETS["toytown"]


def stream(shards: Store, slots: range, start: int, micro: int = 1, prefetch: int = 2, **changed: Any) -> Stream:
    common: dict[str, Any] = {
        "batch": BATCH, "seed": 3, "window": 2, "shorter_edge": (32, 48), "crop": (32, 40),
        "flip": True,
    }  # fmt: skip
    common |= changed
    return Stream(
        DomainStream(shards.child("source"), "source", labels=TOYTOWN, **common),
        DomainStream(shards.child("target"), "target", labels=None, **common),
        slots=slots,
        micro=micro,
        start_step=start,
        threads=2,
        prefetch=prefetch,
    )


def taken(opened: Stream, count: int) -> list[Batch]:
    try:
        return list(itertools.islice(opened, count))
    finally:
        opened.close()


def same(ours: Batch, theirs: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None)


def test_a_batch_has_the_promised_shapes(shards: Store) -> None:
    (batch,) = taken(stream(shards, range(BATCH), 0, micro=BATCH), 1)
    assert batch.source_image.shape == (BATCH, 3, 32, 40)
    assert batch.source_image.dtype == torch.uint8
    assert batch.source_label.shape == (BATCH, 32, 40)
    assert batch.source_label.dtype == torch.uint8
    assert batch.target_image is not None
    assert batch.target_image.shape == (BATCH, 3, 32, 40)
    assert set(batch.source_label.unique().tolist()) <= {*range(len(TOYTOWN)), 255}


def test_opening_at_a_step_is_walking_there(shards: Store) -> None:
    walked = taken(stream(shards, range(BATCH), 0, micro=BATCH), 12)  # over two epochs of 5 steps
    for start in (1, 5, 11):
        (opened,) = taken(stream(shards, range(BATCH), start, micro=BATCH), 1)
        assert same(opened, walked[start])
    assert not same(walked[0], walked[5])


@pytest.mark.parametrize("prefetch", [1, 5])
def test_ranks_together_see_the_batch_of_one(shards: Store, prefetch: int) -> None:
    steps = 6
    whole = taken(stream(shards, range(BATCH), 2, micro=BATCH), steps)
    halves = [
        taken(stream(shards, slots, 2, micro=1, prefetch=prefetch), 2 * steps) for slots in (range(2), range(2, 4))
    ]
    for step in range(steps):
        parts = [batch for rank in halves for batch in rank[2 * step : 2 * step + 2]]
        joined = Batch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        assert same(joined, whole[step])


def test_seeds_and_domains_have_orders_of_their_own(shards: Store) -> None:
    (one,) = taken(stream(shards, range(BATCH), 0, micro=BATCH), 1)
    (other,) = taken(stream(shards, range(BATCH), 0, micro=BATCH, seed=4), 1)
    assert not same(one, other)


def test_a_damaged_shard_stops_the_stream_with_its_name(shards: Store, tmp_path: Path) -> None:
    copy = resolve(str(tmp_path))
    for entry in shards.list():
        copy.write(entry.name, shards.read(entry.name))
    name = next(e.name for e in copy.list("target") if e.name.endswith(".parquet"))
    data = bytearray(copy.read(name))
    for at in range(1000, 1200):
        data[at] ^= 0xFF
    copy.write(name, bytes(data))
    with pytest.raises(UserError, match=r"target/shard-00000\.parquet"):
        taken(stream(copy, range(BATCH), 0, micro=BATCH), 8)


@pytest.fixture
def torn(tmp_path: Path) -> Store:
    """Source and target of 24 scenes each, in shards of one row group of 4, of which two of the source are damaged."""
    place = resolve(str(tmp_path / "torn"))
    for name, labelled in (("source", True), ("target", False)):
        reader = open_dataset("toytown", None, name, with_labels=labelled, count=24, size=(32, 64))
        write_shards(reader, place.child(name), with_labels=labelled, shard_rows=4)
    for shard in ("source/shard-00002.parquet", "source/shard-00003.parquet"):
        data = bytearray(place.read(shard))
        data[len(data) // 4] ^= 1
        place.write(shard, bytes(data))
    return place


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("batch", [4, 8, 12, 24])
def test_damaged_rows_are_passed_over_however_short_a_slot_s_epoch_is(torn: Store, batch: int, cut: int) -> None:
    """24 samples are 6, 3, 2 steps an epoch, or 1: less than a row group has rows."""
    steps = 24 // batch
    asked: dict[str, Any] = {"batch": batch, "damaged": "skip", "cut": cut}
    opened = stream(torn, range(batch), 0, micro=batch, **asked)
    whole = taken(opened, 2 * steps)
    assert opened.skipped == 2 * 8, "an epoch reads all rows, of which 8 are damaged"
    for slots in (range(batch // 2), range(batch // 2, batch)):
        for start in (0, steps):
            for step, part in enumerate(taken(stream(torn, slots, start, micro=len(slots), **asked), steps), start):
                assert same(part, Batch(*(t if t is None else t[slots.start : slots.stop] for t in whole[step])))
