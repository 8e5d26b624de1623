"""Bytes of shards that are not those of their manifest are noticed: where they are read, and all by `verify`."""

import dataclasses
import json
import random
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from plca_dist.data.datasets.dataset import Sample
from plca_dist.data.labels import LABEL_SETS, LabelSet
from plca_dist.data.shards import Damaged, Manifest, ShardReader, read_manifest, write_shards
from plca_dist.data.shards.file import shard_schema
from plca_dist.data.shards.verify import verify
from plca_dist.errors import RunFailed, UserError
from plca_dist.storage import Store, resolve


@dataclass(frozen=True)
class Equal:
    """Samples that take the same bytes whatever is in them: shards of one size and one footer."""

    content: bytes
    dataset = "equal"
    labelled = True
    label_set: LabelSet = LABEL_SETS["toytown"]
    ids = tuple(f"{i:02}" for i in range(12))

    def __len__(self) -> int:
        return len(self.ids)

    def stamp(self, i: int) -> str:
        return f"{self.content.hex()} {i}"

    def load(self, i: int) -> Sample:
        return Sample(self.ids[i], self.content * 500, np.zeros((4, 4), np.uint8), 4, 4)


SMALL: dict[str, Any] = {"with_labels": True, "shard_rows": 6, "row_group_rows": 2, "workers": 1}
COLUMNS = shard_schema(with_labels=True).names


@pytest.fixture
def store(tmp_path: Any) -> Store:
    place = resolve(str(tmp_path / "shards"))
    write_shards(Equal(b"ab"), place, **SMALL)
    return place


def of_an_older_version(store: Store) -> Manifest:
    """The same shards under a manifest without checksums."""
    raw = json.loads(store.read("manifest.json"))
    for shard in raw["shards"]:
        assert len(shard.pop("checksums")) == 4
    store.write("manifest.json", json.dumps(raw).encode())
    return read_manifest(store)


def rows(store: Store, manifest: Manifest) -> list[Any]:
    reader = ShardReader(store, manifest)
    return [reader.read_row_group(g.shard, g.group, COLUMNS) for g in manifest.row_groups]


def checked(store: Store) -> Manifest:
    return verify(store, workers=2, progress=lambda *_: None)


def test_a_shard_of_another_writing_is_noticed(store: Store) -> None:
    """Its size, its footer and the checksums of its pages are as they should be."""
    manifest = read_manifest(store)
    assert checked(store) == manifest
    other = store.child("other")
    write_shards(Equal(b"xy"), other, **SMALL)
    store.write("shard-00001.parquet", other.read("shard-00001.parquet"))
    reader = ShardReader(store, manifest)
    assert reader.read_row_group(0, 0, ["image"]).num_rows == 2
    for columns in (["image"], ["image", "label"], COLUMNS):
        with pytest.raises(Damaged, match=r"shard-00001\.parquet: row group 2 .* not those of its checksum"):
            reader.read_row_group(1, 2, columns)
    with pytest.raises(UserError, match=r"shards: shard-00001\.parquet of 2 shards: absent, or other bytes"):
        checked(store)
    store.delete("shard-00000.parquet")
    with pytest.raises(UserError, match=r"shards: shard-00000\.parquet, shard-00001\.parquet of 2 shards"):
        checked(store)


def test_data_sets_of_older_versions_are_read_and_verified(store: Store) -> None:
    expected, before = rows(store, read_manifest(store)), read_manifest(store).fingerprint()
    manifest = of_an_older_version(store)
    assert manifest.fingerprint() == before
    assert all(a.equals(b) for a, b in zip(rows(store, manifest), expected, strict=True))
    assert checked(store) == manifest
    assert write_shards(Equal(b"ab"), store, **SMALL) == manifest, "it is up to date"


def test_no_flipped_bit_reaches_a_parser(store: Store) -> None:
    """Arrow ends the process at some damaged footers, so it must not see them."""
    data, manifest, rng = store.read("shard-00000.parquet"), read_manifest(store), random.Random(0)
    footer = len(data) - int.from_bytes(data[-8:-4], "little") - 8
    for k in range(200):
        damaged = bytearray(data)
        damaged[rng.randrange(footer if k % 2 else 4, len(data))] ^= 1 << rng.randrange(8)
        store.write("shard-00000.parquet", bytes(damaged))
        with pytest.raises(Damaged):
            rows(store, manifest)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff" * 40, b"[]", b"{}", b"[" * 100_000, b'{"inputs": NaN}'])
def test_a_damaged_record_of_a_finished_shard_is_none(store: Store, damage: bytes) -> None:
    place = store.child("unfinished")
    with pytest.raises(KeyboardInterrupt):
        write_shards(Equal(b"ab"), place, **SMALL, progress=interrupting(7))
    assert place.exists("_unfinished/shard-00000.json")
    place.write("_unfinished/shard-00000.json", damage)
    assert write_shards(Equal(b"ab"), place, **SMALL) == read_manifest(store)


def interrupting(at: int) -> Callable[[int, int], None]:
    def progress(done: int, _: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": "12"}, "rows: Input should be a valid integer"),
        ({"with_labels": 1}, "with_labels: Input should be a valid boolean"),
        ({"classes": [str(i) for i in range(256)]}, "classes: Tuple should have at most 255 items"),
        ({"classes": [3]}, r"classes\.0: Input should be a valid string"),
        ({"shards": {"name": 1}}, "shards: Input should be a valid "),
        ({"shards": [{"name": "../shard-00000.parquet"}]}, r"shards\.0\.name: String should match pattern"),
        ({"rows": 1e400}, "rows: Input should be a valid integer"),
    ],
)
def test_a_manifest_with_other_values_is_explained(store: Store, change: dict[str, Any], said: str) -> None:
    raw = json.loads(store.read("manifest.json"))
    if isinstance(change.get("shards"), list):
        change = {"shards": [raw["shards"][0] | change["shards"][0]]}
    store.write("manifest.json", json.dumps(raw | change).encode())
    with pytest.raises(UserError, match=rf"manifest\.json is damaged \(.*{said}"):
        read_manifest(store)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_full_disk_is_one_line_with_the_file(tmp_path: Any, s3: Any, kind: str) -> None:
    place = resolve(str(tmp_path / "full") if kind == "local" else "s3://bucket/full")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # the largest file, as a full disk would have it
    try:
        with pytest.raises(UserError, match=r"/\.shard-00000\.parquet\..*: cannot be written: .*; free space there\."):
            write_shards(Equal(b"ab"), place, **SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert place.list() == []
    assert write_shards(Equal(b"ab"), place, **SMALL).rows == 12


def test_a_writer_that_was_taken_over_writes_no_manifest(store: Store) -> None:
    class Claimed:
        lost = False

        def __enter__(self) -> "Claimed":
            return self

        def __exit__(self, *_: object) -> None: ...

    claimed = Claimed()

    def taken_over(done: int, _: int) -> None:
        claimed.lost = done >= 8

    place = store.child("two")
    with pytest.raises(RunFailed, match="another writer took over"):
        write_shards(Equal(b"ab"), place, **SMALL, claim=lambda _: claimed, progress=taken_over)
    assert not place.exists("manifest.json")
    assert [e.name for e in place.list() if e.name.endswith(".parquet")] == ["shard-00000.parquet"]


def test_finished_shards_are_found_without_a_claim(store: Store) -> None:
    def claim(_: Store) -> Any:
        raise AssertionError("it would write into a place that may be read-only")

    assert dataclasses.is_dataclass(write_shards(Equal(b"ab"), store, **SMALL, claim=claim))
