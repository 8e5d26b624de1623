import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from plca_dist.data.codec import decode_image, decode_label
from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.datasets.toytown import scene
from plca_dist.data.shards import Damaged, ShardReader, write_shards
from plca_dist.data.shards.manifest import Manifest, read_manifest
from plca_dist.errors import UserError
from plca_dist.storage import Store, resolve
from plca_dist.storage.local_files import LocalFiles

SIZE = (32, 48)


def toy(count: int = 23, split: str = "source", with_labels: bool = True, seed: int = 0) -> Any:
    return open_dataset("toytown", split=split, count=count, size=SIZE, with_labels=with_labels, seed=seed)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return resolve(str(tmp_path / "shards"))


SMALL = {"shard_rows": 10, "row_group_rows": 4, "workers": 2}


def all_rows(store: Store, manifest: Manifest, columns: list[str]) -> list[dict[str, Any]]:
    reader = ShardReader(store, manifest)
    return [row for g in manifest.row_groups for row in reader.read_row_group(g.shard, g.group, columns).to_pylist()]


def test_every_sample_comes_back_as_it_was(store: Store) -> None:
    source = toy()
    manifest = write_shards(source, store, with_labels=True, **SMALL)
    assert read_manifest(store) == manifest
    rows = {
        row["id"]: row for row in all_rows(store, manifest, ["id", "image", "label", "height", "width", "pixel_counts"])
    }
    assert sorted(rows) == sorted(source.ids)
    for i, id_ in enumerate(source.ids):
        image, label = scene(i, seed=0, domain="source", height=32, width=48)
        row = rows[id_]
        assert row["image"] == source.load(i).image
        assert np.array_equal(decode_image(row["image"]).permute(1, 2, 0), image)
        assert np.array_equal(decode_label(row["label"]), label)
        assert (row["height"], row["width"]) == SIZE
        assert row["pixel_counts"] == [int((label == n).sum()) for n in range(19)]


def test_row_groups_are_numbered_through(store: Store) -> None:
    manifest = write_shards(toy(), store, with_labels=True, **SMALL)
    groups = [tuple(group) for group in manifest.row_groups]
    assert groups == [
        (0, 0, 4, 0), (0, 1, 4, 4), (0, 2, 2, 8), (1, 0, 4, 10), (1, 1, 4, 14), (1, 2, 2, 18), (2, 0, 3, 20),
    ]  # fmt: skip


def test_without_labels_there_is_no_label_column(store: Store, tmp_path: Path) -> None:
    manifest = write_shards(toy(), store, with_labels=False, **SMALL)
    assert not manifest.with_labels
    assert pq.read_schema(tmp_path / "shards/shard-00000.parquet").names == ["id", "image", "height", "width"]
    with pytest.raises(UserError, match=r"have no column label \(they were written without labels"):
        ShardReader(store, manifest).read_row_group(0, 0, ["image", "label"])
    with pytest.raises(UserError, match="was opened without labels"):
        write_shards(toy(with_labels=False), store.child("x"), with_labels=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: b"{", "is damaged"),
        (lambda raw: b"[]", "is damaged"),
        (lambda raw: raw.replace(b'"schema": 1', b'"schema": 2'), "schema version 2, this plca_dist reads up to 1"),
        (lambda raw: raw.replace(b'"classes"', b'"klasses"'), "is damaged .*classes"),
        (lambda raw: raw.replace(b'"rows": 23', b'"rows": 24'), "contradicts itself: 24 rows in all, 23"),
        (lambda raw: raw.replace(b'"rows": 3,', b'"rows": 4,'), "shard-00002.parquet has 4 rows and row groups of 3"),
    ],
)
def test_a_bad_manifest_is_explained(store: Store, change: Any, said: str) -> None:
    write_shards(toy(), store, with_labels=True, **SMALL)
    before = store.read("manifest.json")
    assert change(before) != before
    store.write("manifest.json", change(before))
    with pytest.raises(UserError, match=f"manifest.json.*{said}"):
        read_manifest(store)


def test_shards_that_are_not_the_manifests_are_refused(store: Store) -> None:
    manifest = write_shards(toy(), store, with_labels=True, **SMALL)
    first = manifest.shards[0]

    def reading(**changes: Any) -> None:
        shards = (dataclasses.replace(first, **changes), *manifest.shards[1:])
        ShardReader(store, dataclasses.replace(manifest, shards=shards)).read_row_group(0, 0, ["id"])

    reading()
    with pytest.raises(UserError, match=r"shard-00000\.parquet has \d+ bytes, .*manifest\.json says 17: they"):
        reading(bytes=17)
    with pytest.raises(UserError, match=r"row groups of \[4, 4, 2\] rows, .*manifest\.json says \[5, 5\]"):
        reading(row_groups=(5, 5))
    with pytest.raises(
        UserError, match=r"has columns id, image, .*label.*manifest\.json says id, image, height, width:"
    ):
        ShardReader(store, dataclasses.replace(manifest, with_labels=False)).read_row_group(0, 0, ["id"])
    store.delete(first.name)
    with pytest.raises(UserError, match=r"shard-00000\.parquet: no such object"):
        reading()
    store.write(first.name, b"x" * first.bytes)
    with pytest.raises(Damaged, match=r"shard-00000\.parquet is no readable Parquet file"):
        reading()
    store.write(first.name, b"x" * (first.bytes - 1))
    with pytest.raises(Damaged, match=r"shard-00000\.parquet is cut short: \d+ bytes, .*manifest\.json says \d+"):
        reading()


def test_damage_within_a_shard_is_noticed(store: Store, tmp_path: Path) -> None:
    manifest = write_shards(toy(), store, with_labels=True, **SMALL)
    path = tmp_path / "shards/shard-00000.parquet"
    data = bytearray(path.read_bytes())
    image = ShardReader(store, manifest).read_row_group(0, 1, ["image"])["image"][0].as_py()
    data[data.find(image) + 100] ^= 1
    path.write_bytes(data)
    reader = ShardReader(store, manifest)
    with pytest.raises(Damaged, match=r"shard-00000\.parquet: row group 1 \(rows 4 to 7 of the shard\) is damaged"):
        reader.read_row_group(0, 1, ["image"])
    assert reader.read_row_group(0, 0, ["image"]).num_rows == 4


def test_only_the_asked_bytes_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_shards(toy(100), store, with_labels=True, shard_rows=100, row_group_rows=10)
    reads: list[int] = []

    real = LocalFiles.read

    def counted(self: LocalFiles, path: str, start: int = 0, end: int | None = None) -> bytes:
        data = real(self, path, start, end)
        reads.append(len(data))
        return data

    monkeypatch.setattr(LocalFiles, "read", counted)
    reader = ShardReader(store, manifest)
    reader.read_row_group(0, 3, ["id"])  # opens the shard and reads its footer
    footer = sum(reads)
    reads.clear()
    table = reader.read_row_group(0, 5, ["image"])
    size = sum(len(v.as_py()) for v in table["image"])
    assert table.column_names == ["image"]
    assert len(reads) == 1
    assert size <= reads[0] < manifest.shards[0].bytes / 9, "one row group of ten, and no page beyond it"
    reads.clear()
    reader.read_row_group(0, 5, ["pixel_counts"])
    assert sum(reads) < size / 10
    assert footer < manifest.shards[0].bytes / 5


def test_many_threads_may_read_at_once(store: Store) -> None:
    manifest = write_shards(toy(60), store, with_labels=True, **SMALL)
    reader = ShardReader(store, manifest)
    expected = {
        (g.shard, g.group): reader.read_row_group(g.shard, g.group, ["id", "image"]) for g in manifest.row_groups
    }
    shared = ShardReader(store, manifest)

    def check(n: int) -> bool:
        shard, group = list(expected)[n % len(expected)]
        return shared.read_row_group(shard, group, ["id", "image"]).equals(expected[shard, group])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(400)))


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    prints = [
        write_shards(reader, resolve(str(tmp_path / str(n))), with_labels=labels, **SMALL).fingerprint()
        for n, (reader, labels) in enumerate([(toy(), True), (toy(), True), (toy(), False), (toy(seed=5), True)])
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_row_groups_are_bounded_by_bytes_but_hold_a_row_at_least(store: Store) -> None:
    sizes = [len(toy().load(i).image) for i in range(23)]
    limit = 3 * max(sizes)
    manifest = write_shards(toy(), store, with_labels=False, shard_rows=30, row_group_bytes=limit)
    reader = ShardReader(store, manifest)
    images = [reader.read_row_group(0, g.group, ["image"])["image"].to_pylist() for g in manifest.row_groups]
    weights = [sum(map(len, group)) for group in images]
    assert max(weights) <= limit
    assert min(weights[:-1]) > limit - max(sizes)
    tiny = write_shards(toy(5), store.child("tiny"), with_labels=False, row_group_bytes=1)
    assert tiny.shards[0].row_groups == (1,) * 5
