"""Whole images: shares that cover a set, its rows with their ids, and pairs of both domains."""

from pathlib import Path
from typing import Any

import pytest
import torch

from plca_dist.data.codec import decode_image
from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.shards import Damaged, ShardReader, read_manifest, write_shards
from plca_dist.data.whole_images import Pair, labelled_rows, labelled_samples, whole_pairs
from plca_dist.errors import UserError
from plca_dist.storage import Store, resolve

TOYTOWN = LABEL_SETS["toytown"]


def test_shares_of_a_labelled_set_are_disjoint_and_cover_it(shards: Store) -> None:
    source = shards.child("source")
    whole = list(labelled_samples(source, TOYTOWN, 0, 1))
    for parts in (2, 3, 22, 30):
        shared = [s for part in range(parts) for s in labelled_samples(source, TOYTOWN, part, parts)]
        assert len(shared) == len(whole) == 22
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(shared, whole, strict=True))


def test_rows_of_a_labelled_set_come_with_their_ids(shards: Store) -> None:
    store = shards.child("source")
    manifest = read_manifest(store)
    reader = ShardReader(store, manifest)
    ids = [i for g in manifest.row_groups for i in reader.read_row_group(g.shard, g.group, ["id"])["id"].to_pylist()]
    whole = list(labelled_samples(store, TOYTOWN, 0, 1))
    found = list(labelled_rows(store, TOYTOWN, range(3, 9)))
    assert [(s.row, s.id) for s in found] == list(enumerate(ids))[3:9]
    for sample, (image, label) in zip(found, whole[3:9], strict=True):
        assert torch.equal(sample.image, image)
        assert torch.equal(sample.label, label)
    assert [s.row for s in labelled_rows(store, TOYTOWN, range(20, 99))] == [20, 21]


def test_labels_are_those_of_the_recipe_by_name(shards: Store) -> None:
    source = shards.child("source")
    for (_, wide), (_, narrow) in zip(
        labelled_samples(source, LABEL_SETS["cityscapes"], 0, 1), labelled_samples(source, TOYTOWN, 0, 1), strict=True
    ):
        for k, name in enumerate(TOYTOWN.classes):
            assert torch.equal(wide == LABEL_SETS["cityscapes"].classes.index(name), narrow == k)


def test_unlabelled_shards_are_refused_where_labels_are_needed(shards: Store) -> None:
    with pytest.raises(UserError, match=r"no labels.*--no-labels"):
        next(labelled_samples(shards.child("target"), TOYTOWN, 0, 1))


def pairs(shards: Store, most: int, part: int = 0, parts: int = 1, **how: Any) -> list[Pair]:
    source, target = shards.child("source"), shards.child("target")
    return list(whole_pairs(source, target, TOYTOWN, most, part, parts, **how))


def pixels(shards: Store, domain: str) -> list[torch.Tensor]:
    """Every image of a domain, row by row, read without the stream."""
    store = shards.child(domain)
    manifest = read_manifest(store)
    reader = ShardReader(store, manifest)
    tables = [reader.read_row_group(g.shard, g.group, ["image"]) for g in manifest.row_groups]
    return [decode_image(data) for table in tables for data in table["image"].to_pylist()]


@pytest.mark.parametrize(("most", "count"), [(1, 1), (9, 9), (22, 22), (1000, 22)])
def test_whole_pairs_are_the_first_of_both_domains(shards: Store, most: int, count: int) -> None:
    found = pairs(shards, most)
    assert len(found) == count
    labelled = labelled_samples(shards.child("source"), TOYTOWN, 0, 1)
    targets = pixels(shards, "target")
    for pair, (image, label), target in zip(found, labelled, targets, strict=False):
        assert torch.equal(pair.source_image, image)
        assert torch.equal(pair.source_label, label)
        assert torch.equal(pair.target_image, target)


@pytest.mark.parametrize("short", ["source", "target"])
def test_of_unequal_domains_the_smaller_one_decides(shards: Store, tmp_path: Path, short: str) -> None:
    few, labelled = resolve(str(tmp_path)), short == "source"
    reader = open_dataset("toytown", None, short, with_labels=labelled, count=5, size=(32, 64))
    write_shards(reader, few, with_labels=labelled, shard_rows=12, row_group_rows=4)
    domains = {name: shards.child(name) for name in ("source", "target")} | {short: few}
    assert len(list(whole_pairs(domains["source"], domains["target"], TOYTOWN, 9, 0, 1))) == 5


@pytest.mark.parametrize("parts", [2, 3, 9, 12])
def test_shares_of_whole_pairs_are_disjoint_and_cover_them(shards: Store, parts: int) -> None:
    whole = pairs(shards, 9)
    shared = [pair for part in range(parts) for pair in pairs(shards, 9, part, parts)]
    assert len(shared) == 9
    assert all(
        torch.equal(a, b) for one, other in zip(shared, whole, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_whole_pairs_stop_at_damage_or_pass_over_its_rows(
    shards: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = resolve(str(tmp_path))
    for entry in shards.list():
        copy.write(entry.name, shards.read(entry.name))
    name = next(e.name for e in copy.list("target") if e.name.endswith(".parquet"))
    data = bytearray(copy.read(name))
    data[len(data) // 5] ^= 0xFF
    copy.write(name, bytes(data))
    whole = pairs(shards, 22)
    with pytest.raises(Damaged, match=r"target/shard-00000\.parquet: row group 0"):
        pairs(copy, 22)
    for parts in (1, 3):
        found = [p for part in range(parts) for p in pairs(copy, 22, part, parts, skip_damaged=True)]
        assert len(found) == 18
        assert all(torch.equal(a.target_image, b.target_image) for a, b in zip(found, whole[4:], strict=True))
        assert all(torch.equal(a.source_image, b.source_image) for a, b in zip(found, whole[4:], strict=True))
    said = [r.message for r in caplog.records if "passing over damaged rows" in r.message]
    assert len(said) == 2, "once for each call that met it"
