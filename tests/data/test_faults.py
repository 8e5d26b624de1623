"""Faults of the store cost time, not samples; damage is named, and passed over only when told to."""

import itertools
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.servers.proxy import FaultyProxy
from plca_dist.data.codec import encode_label
from plca_dist.data.datasets.dataset import Sample
from plca_dist.data.domain import DomainStream
from plca_dist.data.labels import LABEL_SETS, LabelSet
from plca_dist.data.order import slots_of_rank
from plca_dist.data.shards import Damaged, read_manifest, write_shards
from plca_dist.data.stream import Batch, Stream
from plca_dist.errors import UserError
from plca_dist.storage import OUTAGE_PATIENCE_S, Location, Store, StoreAway, resolve, store

TOYTOWN = LABEL_SETS["toytown"]


@pytest.fixture
def remote(shards: Store, s3: Any) -> str:
    """The same in the bucket."""
    uri = "s3://bucket/faults"
    there = resolve(uri)
    for entry in shards.list():
        there.write(entry.name, shards.read(entry.name))
    return uri


def copied(shards: Store, place: Path) -> Store:
    copy = resolve(str(place))
    for entry in shards.list():
        copy.write(entry.name, shards.read(entry.name))
    return copy


def domain(place: Store, name: str = "source", *, batch: int = 4, **changed: Any) -> DomainStream:
    options: dict[str, Any] = {
        "labels": TOYTOWN if name == "source" else None, "batch": batch, "seed": 3, "window": 2,
        "shorter_edge": None, "crop": (32, 64), "flip": True,
    }  # fmt: skip
    return DomainStream(place.child(name), name, **options | changed)


def opened(place: Store, slots: range = range(4), micro: int = 4, batch: int = 4, **changed: Any) -> Stream:
    return Stream(
        domain(place, batch=batch, **changed),
        domain(place, "target", batch=batch, **changed),
        slots=slots, micro=micro, start_step=0, threads=2, prefetch=2,
    )  # fmt: skip


def taken(stream: Stream, count: int) -> list[Batch]:
    try:
        return list(itertools.islice(stream, count))
    finally:
        stream.close()


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True) if a is not None)


def test_a_store_that_refuses_drops_and_cuts_costs_no_sample(shards: Store, remote: str, s3: Any) -> None:
    expected = taken(opened(shards), 12)
    with FaultyProxy(s3.endpoint) as proxy:
        proxy.refuse, proxy.drop, proxy.cut = 0.3, 0.1, 0.1
        assert same(taken(opened(resolve(Location(remote, proxy.endpoint), patience_s=60)), 12), expected)
        assert min(proxy.faults[kind] for kind in ("refuse", "drop", "cut")) > 0


@pytest.mark.parametrize("seconds", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_a_store_that_is_away_stalls_the_stream_which_then_goes_on(
    shards: Store, remote: str, s3: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    monkeypatch.setattr(store, "_QUIET_S", 3.0)
    with FaultyProxy(s3.endpoint) as proxy, caplog.at_level(logging.WARNING, logger="plca_dist"):
        stream = opened(resolve(Location(remote, proxy.endpoint), patience_s=OUTAGE_PATIENCE_S))
        found = [next(stream)]
        proxy.away(seconds)
        began = time.monotonic()
        found += taken(stream, 47)  # many epochs: far more than could have been read ahead
        assert seconds - 3 < time.monotonic() - began < seconds + 30
        assert proxy.faults["away"] > 3
    assert same(found, taken(opened(shards), 48))
    # One a domain at most for each of its requests in flight, not one a try.
    lines = [r.message for r in caplog.records if "the store is away; waiting for it" in r.message]
    assert 1 <= len(lines) <= 8
    assert "faults/" in lines[0]


def test_patience_ends_and_closing_does_not_wait_for_it(remote: str, s3: Any) -> None:
    with FaultyProxy(s3.endpoint) as proxy:
        stream = opened(resolve(Location(remote, proxy.endpoint), patience_s=2))
        proxy.away(600)
        with pytest.raises(StoreAway, match=r"faults/.*the endpoint does not answer"):
            taken(stream, 12)
        proxy.away(0)
        stream = opened(resolve(Location(remote, proxy.endpoint), patience_s=600))
        proxy.away(600)
        time.sleep(0.5)
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < 15


def test_what_asking_again_cannot_mend_is_not_asked_again(
    remote: str, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = resolve(remote, patience_s=600)
    stream = opened(place, range(1), micro=1, window=1)
    next(stream)
    for shard in ("shard-00000", "shard-00001"):
        place.delete(f"target/{shard}.parquet")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"target/shard-0000\d\.parquet: no such object"):
        taken(stream, 60)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match=r"secret key is wrong|access is denied"):
        opened(resolve(remote, patience_s=600))
    assert time.monotonic() - began < 15


class Noise:
    """Images that do not compress: bytes enough for a footer to be little beside them."""

    dataset, labelled = "noise", True
    label_set: LabelSet = TOYTOWN
    ids = tuple(f"{i:03}" for i in range(64))

    def __len__(self) -> int:
        return len(self.ids)

    def stamp(self, i: int) -> str:
        return self.ids[i]

    def load(self, i: int) -> Sample:
        pixels = np.random.default_rng(i).integers(0, 256, (256, 512), np.uint8)
        return Sample(self.ids[i], encode_label(pixels), np.zeros((256, 512), np.uint8), 256, 512)


def test_each_byte_is_read_once_an_epoch(s3: Any) -> None:
    """One slot: where slots meet inside a window, both read it."""
    place = resolve("s3://bucket/noise")
    manifest = write_shards(Noise(), place.child("source"), with_labels=True, shard_rows=32, row_group_rows=4)
    whole, largest = sum(s.bytes for s in manifest.shards), max(s.bytes for s in manifest.shards) / 8
    epochs, footer = 3, 64 << 10
    with FaultyProxy(s3.endpoint) as proxy:
        source = domain(resolve(Location("s3://bucket/noise", proxy.endpoint)), batch=1, window=4, crop=(64, 64))
        taken(Stream(source, None, slots=range(1), micro=1, start_step=0, threads=2, prefetch=2), 64 * epochs)
        read = sum(count for path, count in proxy.read.items() if path.endswith(".parquet"))
    ahead = 4 + 1  # two fetched ahead, as many as `prefetch` may have begun to use, and one that is begun
    # Of an epoch's last window a row group may still be here when the next epoch begins with it: it is not read again.
    visits = [source.groups.group_of(source.order.stretch(epoch, 0)).tolist() for epoch in range(epochs)]
    shared = [
        {*before[-4 * 4 :]} & {*list(dict.fromkeys(after))[:ahead]} for before, after in itertools.pairwise(visits)
    ]
    least = whole * epochs - sum(map(len, shared)) * largest
    assert least * 0.98 < read < whole * epochs + ahead * largest + len(manifest.shards) * footer
    assert source.groups.most_held <= 4 + ahead


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_rank_fetches_what_its_slots_need_once_a_visit_and_keeps_no_more_than_windows(
    shards: Store, data: st.DataObject
) -> None:
    batch = data.draw(st.integers(1, 8), "batch")
    world = data.draw(st.sampled_from([w for w in range(1, batch + 1) if batch % w == 0]), "world")
    slots = slots_of_rank(batch, world, data.draw(st.integers(0, world - 1), "rank"))
    window, lag = data.draw(st.integers(1, 7), "window"), data.draw(st.integers(0, 6), "lag")
    source = domain(shards, batch=batch, window=window, seed=data.draw(st.integers(0, 99), "seed"))
    fetched: Counter[int] = Counter()
    fetch = source.groups._fetch

    def counted(number: int) -> Any:
        fetched[number] += 1
        return fetch(number)

    source.groups._fetch = counted  # type: ignore[method-assign]
    steps, start = source.order.steps_per_epoch, data.draw(st.integers(0, 2), "epoch") * source.order.steps_per_epoch
    try:
        for step in range(start, start + steps + lag):
            if step < start + steps:
                for slot in slots:
                    source.announce(step, slot)
            if step >= start + lag:
                for slot in slots:
                    source.load(step - lag, slot)
        visits = Counter(
            int(g)
            for slot in slots
            for g in set(source.groups.group_of(source.order.stretch(start // steps, slot)).tolist())
        )
        assert set(fetched) == set(visits)
        assert all(fetched[g] <= visits[g] for g in visits)
        assert source.groups.most_held <= len(slots) * (window + lag + 1)
        assert not source.groups._tables
    finally:
        source.groups.close()


def flip_a_bit(place: Store, name: str, group: int) -> None:
    """In the middle of the first image of a row group."""
    import pyarrow.parquet as pq

    data = bytearray(place.read(name))
    column = pq.read_metadata(Path(place.root) / name).row_group(group).column(1)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    place.write(name, bytes(data))


def test_a_flipped_bit_stops_the_run_with_object_and_rows(shards: Store, tmp_path: Path) -> None:
    place = copied(shards, tmp_path)
    flip_a_bit(place, "target/shard-00001.parquet", 1)
    with pytest.raises(Damaged, match=r"target/shard-00001\.parquet: row group 1 \(rows 4 to 7 of the shard\).*skip"):
        taken(opened(place), 12)


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_damage_is_passed_over_and_counted_the_same_at_any_world_size(
    shards: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    place = copied(shards, tmp_path)
    shard = "source/shard-00001.parquet"
    if how == "flipped":
        flip_a_bit(place, shard, 0)
        lost = range(12, 16)
    else:
        place.write(shard, place.read(shard)[:-100])
        lost = range(12, 22)
    steps = 10  # two epochs of five
    with caplog.at_level(logging.WARNING, logger="plca_dist"):
        whole = opened(place, damaged="skip")
        expected = taken(whole, steps)
    assert sum("passing over damaged rows" in r.message for r in caplog.records) <= (1 if how == "flipped" else 3) * 2
    assert shard in caplog.text
    order = domain(place).order
    assert whole.skipped == sum(order.sample(step, slot) in lost for step in range(steps) for slot in range(4))
    for world in (2, 4):
        ranks = [opened(place, slots_of_rank(4, world, r), micro=4 // world, damaged="skip") for r in range(world)]
        parts = [taken(rank, steps) for rank in ranks]
        joined = [
            Batch(*(torch.cat(tensors) for tensors in zip(*of_step, strict=True)))
            for of_step in zip(*parts, strict=True)
        ]
        assert same(joined, expected)
        assert sum(rank.skipped for rank in ranks) == whole.skipped
    # What was sound is where it was; what stands for the lost is sound and of the slot's own epoch.
    sound = taken(opened(shards), steps)
    for step, (found, without) in enumerate(zip(expected, sound, strict=True)):
        for slot in range(4):
            if order.sample(step, slot) not in lost:
                assert torch.equal(found.source_image[slot], without.source_image[slot])
        assert torch.equal(found.target_image, without.target_image)  # type: ignore[arg-type]


def test_a_dataset_without_a_sound_row_ends_even_when_told_to_skip(
    shards: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = copied(shards, tmp_path)
    for shard in read_manifest(place.child("source")).shards:
        place.write(f"source/{shard.name}", b"")
    with pytest.raises(Damaged, match=r"source: all rows are damaged; copy the shards again"):
        taken(opened(place, damaged="skip"), 1)
    assert "is cut short: 0 bytes" in caplog.text
