import dataclasses
import hashlib
import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from plca_dist.data.datasets.dataset import Sample
from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.datasets.toytown import ToytownReader
from plca_dist.data.shards import ShardReader, write_shards, writer
from plca_dist.data.shards.manifest import Manifest, read_manifest
from plca_dist.errors import UserError
from plca_dist.storage import Store, resolve

SIZE = (32, 48)


def toy(count: int = 23, split: str = "source", with_labels: bool = True, seed: int = 0) -> Any:
    return open_dataset("toytown", split=split, count=count, size=SIZE, with_labels=with_labels, seed=seed)


@dataclasses.dataclass(frozen=True)
class Breaking(ToytownReader):
    """Toytown with samples that cannot be read; counts what is loaded."""

    broken: tuple[int, ...] = ()
    loaded: list[int] = dataclasses.field(default_factory=list)

    def load(self, i: int) -> Sample:
        self.loaded.append(i)
        if i in self.broken:
            raise UserError(f"/data/{i}.png: cannot be decoded.")
        return super().load(i)


def breaking(*broken: int, count: int = 23, **changes: Any) -> Breaking:
    return Breaking("source", count, 0, *SIZE, labelled=True, broken=broken, **changes)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return resolve(str(tmp_path / "shards"))


SMALL = {"shard_rows": 10, "row_group_rows": 4, "workers": 2}


def all_rows(store: Store, manifest: Manifest, columns: list[str]) -> list[dict[str, Any]]:
    reader = ShardReader(store, manifest)
    return [row for g in manifest.row_groups for row in reader.read_row_group(g.shard, g.group, columns).to_pylist()]


def test_the_manifest_tells_the_truth_about_the_files(store: Store, tmp_path: Path) -> None:
    manifest = write_shards(toy(), store, with_labels=True, **SMALL)
    raw = json.loads((tmp_path / "shards/manifest.json").read_text())
    assert raw["schema"] == 1
    assert raw["label_set"] == "cityscapes"
    assert raw["classes"][13] == "car"
    assert [entry["rows"] for entry in raw["shards"]] == [10, 10, 3]
    assert raw["rows"] == manifest.rows == 23
    assert {e.name for e in store.list()} == {"manifest.json", *(entry["name"] for entry in raw["shards"])}
    for entry in raw["shards"]:
        path = tmp_path / "shards" / entry["name"]
        assert path.stat().st_size == entry["bytes"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        footer = pq.ParquetFile(path).metadata
        assert [footer.row_group(g).num_rows for g in range(footer.num_row_groups)] == entry["row_groups"]
        assert max(entry["row_groups"]) <= 4
        assert {footer.row_group(0).column(c).compression for c in range(footer.num_columns)} == {"UNCOMPRESSED"}


def test_rows_are_shuffled_once_by_the_seed(tmp_path: Path) -> None:
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        place = resolve(str(tmp_path / name))
        orders.append(
            [r["id"] for r in all_rows(place, write_shards(toy(), place, with_labels=True, seed=seed), ["id"])]
        )
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_the_content_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    prints = {
        write_shards(toy(), resolve(str(tmp_path / str(n))), with_labels=True, **{**SMALL, "workers": n}).fingerprint()
        for n in (1, 3)
    }
    assert len(prints) == 1


def test_writing_again_finds_the_finished_dataset(store: Store) -> None:
    first = write_shards(toy(), store, with_labels=True, **SMALL)
    again = breaking()
    assert write_shards(again, store, with_labels=True, **SMALL) == first
    assert not again.loaded
    for other, changes in (
        (toy(24), {}),
        (toy(seed=1), {}),
        (toy(), {"seed": 3}),
        (toy(), {"row_group_rows": 5}),
        (toy(), {"with_labels": False}),
    ):
        with pytest.raises(UserError, match=r"already holds 23 samples of toytown-source.*--overwrite"):
            write_shards(other, store, **{"with_labels": True, **SMALL, **changes})
    assert read_manifest(store) == first
    smaller = write_shards(toy(7), store, with_labels=True, overwrite=True, **SMALL)
    assert smaller.rows == 7
    assert [e.name for e in store.list()] == ["manifest.json", "shard-00000.parquet"]
    assert len(all_rows(store, read_manifest(store), ["image"])) == 7


def test_finished_shards_of_an_older_version_are_found_and_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their row groups end elsewhere; the samples are the same."""
    with monkeypatch.context() as before:
        before.setattr(writer.RowGroupCut, "of", lambda samples, rows, size: writer.RowGroupCut(rows, size))
        older = write_shards(toy(), store, with_labels=True, **SMALL)
    assert older.inputs == "257dd5d1f94978b0ad3baa6d0ef25fdfafe68b9daeae85604507aac05b5e7c31"  # what they wrote

    def shards() -> dict[str, bytes]:
        return {entry.name: store.read(entry.name) for entry in store.list()}

    written = shards()
    assert write_shards(toy(), store, with_labels=True, **SMALL) == older
    assert shards() == written
    with pytest.raises(UserError, match="written from other data or with other settings"):
        write_shards(toy(seed=1), store, with_labels=True, **SMALL)


def test_a_broken_sample_stops_the_writing_and_a_second_run_goes_on(store: Store) -> None:
    broken = breaking(4)
    with pytest.raises(UserError, match=r"/data/4\.png: cannot be decoded\..*--skip-broken"):
        write_shards(broken, store, with_labels=True, **{**SMALL, "workers": 1})
    with pytest.raises(UserError, match=r"no manifest.json under .*did not finish"):
        read_manifest(store)
    assert not [e for e in store.list() if e.name.endswith(".partial")]
    done = [e.name for e in store.list() if e.name.endswith(".parquet")]
    assert 0 < len(done) < 3
    # The file is repaired; only what is missing is loaded again.
    kept = sum(pq.ParquetFile(f"{store.root}/{name}").metadata.num_rows for name in done)
    repaired = breaking()
    counts: list[tuple[int, int]] = []
    resumed = write_shards(repaired, store, with_labels=True, progress=lambda *c: counts.append(c), **SMALL)
    assert len(repaired.loaded) == 23 - kept
    assert counts[-1] == (23, 23)
    assert resumed == write_shards(toy(), store.child("whole"), with_labels=True, **SMALL)


def test_a_killed_writer_is_continued(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys; from plca_dist.data.datasets.layouts import open_dataset\n"
        "from plca_dist.data.shards import write_shards\n"
        "from plca_dist.storage import resolve\n"
        "reader = open_dataset('toytown', count=600, size=(32, 48))\n"
        "write_shards(reader, resolve(sys.argv[1]), with_labels=True, shard_rows=20, workers=2)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, store.root])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "shards/_unfinished").glob("*.json"))) < 3:
        assert writer.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    assert not store.exists("manifest.json")
    recorded = len(list((tmp_path / "shards/_unfinished").glob("*.json")))
    rest = breaking(count=600)
    manifest = write_shards(rest, store, with_labels=True, shard_rows=20)
    assert len(rest.loaded) == 600 - 20 * recorded
    rows = all_rows(store, manifest, ["id", "image"])
    assert sorted(row["id"] for row in rows) == sorted(rest.ids)
    for shard in manifest.shards:
        assert hashlib.sha256((tmp_path / "shards" / shard.name).read_bytes()).hexdigest() == shard.sha256


def test_overwriting_leaves_no_dataset_until_it_is_complete(store: Store) -> None:
    write_shards(toy(), store, with_labels=True, **SMALL)
    with pytest.raises(UserError, match=r"/data/4\.png"):
        write_shards(breaking(4), store, with_labels=True, overwrite=True, **SMALL)
    assert not store.exists("manifest.json")


def test_recorded_shards_of_other_data_or_other_size_are_written_again(store: Store) -> None:
    with pytest.raises(UserError):
        write_shards(breaking(4), store, with_labels=True, **{**SMALL, "workers": 1})
    done = [e.name for e in store.list() if e.name.endswith(".parquet")]
    store.write(done[0], b"cut short")
    repaired = breaking()
    write_shards(repaired, store, with_labels=True, **SMALL)
    assert len(repaired.loaded) == 23 - 10 * (len(done) - 1)

    with pytest.raises(UserError):
        write_shards(breaking(4), store.child("b"), with_labels=True, **{**SMALL, "workers": 1})
    other = Breaking("source", 23, 9, *SIZE, labelled=True)
    write_shards(other, store.child("b"), with_labels=True, **SMALL)
    assert len(other.loaded) == 23


def test_skipped_samples_are_listed_logged_and_not_hidden_later(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        manifest = write_shards(breaking(4, 9), store, with_labels=True, skip_broken=True, **SMALL)
    assert manifest.rows == 21
    assert sorted((s.id, s.reason) for s in read_manifest(store).skipped) == [
        ("source-0-000004", "/data/4.png: cannot be decoded."),
        ("source-0-000009", "/data/9.png: cannot be decoded."),
    ]
    assert sum("left out source-0-00000" in record.message for record in caplog.records) == 2
    assert not {"source-0-000004", "source-0-000009"} & {r["id"] for r in all_rows(store, manifest, ["id"])}
    with pytest.raises(UserError, match=r"lacks 2 samples .*--skip-broken to accept"):
        write_shards(breaking(4, 9), store, with_labels=True, **SMALL)
    assert write_shards(breaking(4, 9), store, with_labels=True, skip_broken=True, **SMALL) == manifest


def test_records_with_skipped_samples_do_not_pass_a_strict_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_publish", killed)
        with pytest.raises(KeyboardInterrupt):
            write_shards(breaking(4), store, with_labels=True, skip_broken=True, **SMALL)
    with pytest.raises(UserError, match=r"/data/4\.png"):
        write_shards(breaking(4), store, with_labels=True, **SMALL)
    lenient = breaking(4)
    assert write_shards(lenient, store, with_labels=True, skip_broken=True, **SMALL).rows == 22
    assert not lenient.loaded or len(lenient.loaded) <= 10  # at most the one shard that the strict run gave up


def test_a_fault_of_the_whole_set_is_no_broken_sample(store: Store) -> None:
    with pytest.raises(UserError, match=r"more than 25% of 23 samples are broken, .*whole set; one of them: /data/"):
        write_shards(breaking(*range(6)), store, with_labels=True, skip_broken=True, **SMALL)
    assert not store.exists("manifest.json")
    # What an interrupted call left out counts too.
    with pytest.raises(UserError, match="more than 25%"):
        write_shards(breaking(*range(6)), store, with_labels=True, skip_broken=True, **{**SMALL, "workers": 1})
    some = write_shards(breaking(*range(5)), store.child("some"), with_labels=True, skip_broken=True, **SMALL)
    assert some.rows == 18
    # A shard may well come out empty when others do not.
    manifest = write_shards(breaking(0, 1, count=8), store.child("c"), with_labels=True, skip_broken=True, shard_rows=1)
    assert manifest.rows == len(manifest.shards) == 6


def test_nothing_else_in_the_directory_is_touched(store: Store) -> None:
    for name in ("shard-notes.txt", "other/shard-00009.parquet", "shard-00009.parquet"):
        store.write(name, b"mine")
    write_shards(toy(), store, with_labels=True, **SMALL)
    names = {e.name for e in store.list()}
    assert {"shard-notes.txt", "other/shard-00009.parquet"} <= names
    assert "shard-00009.parquet" not in names  # it looks like a shard, and the manifest does not know it


def test_interruption_leaves_no_manifest_and_ends_the_other_threads(store: Store) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        write_shards(toy(200), store, with_labels=True, progress=interrupt, shard_rows=20, workers=2)
    assert threading.active_count() == threads
    assert not store.exists("manifest.json")


def test_progress_is_complete_and_never_goes_back(store: Store) -> None:
    counts: list[tuple[int, int]] = []
    write_shards(toy(), store, with_labels=True, progress=lambda *c: counts.append(c), **SMALL)
    assert counts == [(n, 23) for n in range(1, 24)]
