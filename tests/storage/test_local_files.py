"""Directories of a disk: what a loss of power leaves, disks that lack something, and errors that are the disk's."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.shards import Damaged, ShardReader, write_shards
from plca_dist.errors import UserError
from plca_dist.run.lease import Lease
from plca_dist.storage import Store, StoreAway, local_files, resolve
from plca_dist.storage.local_files import LocalFiles


class Disk:
    """What of a folder would be there after a loss of power: names and bytes that were synced.

    It takes everything else for lost, and holds that a file gets its name after its bytes are there.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.bytes: dict[int, bytes] = {}  # by inode
        self.names: dict[Path, dict[str, int]] = {}  # of each directory
        fsync = os.fsync

        def synced(handle: int) -> None:
            fsync(handle)
            path = Path(f"/proc/self/fd/{handle}").readlink()
            if path.is_dir():
                self.names[path] = {entry.name: entry.stat().st_ino for entry in path.iterdir()}
            else:
                self.bytes[os.fstat(handle).st_ino] = path.read_bytes()

        monkeypatch.setattr(os, "fsync", synced)
        for name in ("replace", "link"):
            monkeypatch.setattr(os, name, self._naming(getattr(os, name)))

    def _naming(self, call: Callable[..., None]) -> Callable[..., None]:
        def named(source: Path, target: Path, **options: Any) -> None:
            assert self.bytes.get(Path(source).stat().st_ino) == Path(source).read_bytes(), f"{target} before its bytes"
            call(source, target, **options)

        return named

    def read(self, path: Path) -> bytes | None:
        """The file's bytes after a loss of power; None: it is absent."""
        at = self.folder
        for part in path.relative_to(self.folder).parts:
            inode = self.names.get(at, {}).get(part)
            if inode is None:
                return None
            at /= part
        return self.bytes.get(inode, b"")


def _through_writer(store: Store, name: str, data: bytes) -> None:
    with store.writer(name) as file:
        file.write(data)
        file.close()  # some writers close what they are given


def _by_upload(store: Store, name: str, data: bytes) -> None:
    source = Path(store.root).parent / "source"
    source.write_bytes(data)
    store.upload(source, name)


@pytest.mark.parametrize("put", [Store.write, Store.create, _through_writer, _by_upload])
def test_what_was_published_outlasts_a_loss_of_power(
    put: Callable[[Store, str, bytes], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, monkeypatch)
    store = resolve(str(tmp_path / "runs"))
    for name, data in (("a/new/folder/x", b"one"), ("a/y", b"two"), ("a/new/folder/z", b"three")):
        put(store, name, data)
        assert disk.read(Path(store.root) / name) == data


def _failing(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture(params=[errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def no_links(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A directory on a disk without hard links."""
    monkeypatch.setattr(Path, "hardlink_to", _failing(request.param))
    return resolve(str(tmp_path / "store"))


def test_without_hard_links_one_of_racing_creators_wins(no_links: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda k: no_links.create("deep/once", b"%d" % k * 1000), range(16)))
    assert won.count(True) == 1
    assert no_links.read("deep/once") == b"%d" % won.index(True) * 1000
    assert [e.name for e in no_links.list()] == ["deep/once"]
    assert list(Path(no_links.root).rglob("*.partial")) == []
    with Lease.acquire(no_links, ttl=1.0) as lease:
        assert lease.generation == 1


def test_a_disk_on_which_nothing_is_created_once_is_refused_at_the_start(
    no_links: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_files, "_rename_once", _failing(errno.EINVAL))
    with pytest.raises(UserError, match=f"{no_links.root}/lease: its file system has neither hard links nor renames"):
        Lease.acquire(no_links)
    assert no_links.list() == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EACCES])
@pytest.mark.parametrize("fails", ["read", "size"])
def test_an_error_of_the_disk_is_no_damage_of_a_shard(
    number: int, fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage may be passed over; a disk that is away must not cost samples."""
    store = resolve(str(tmp_path), patience_s=0.0)
    source = open_dataset("toytown", None, "source", with_labels=True, count=4, size=(32, 64))
    reader = ShardReader(store, write_shards(source, store, with_labels=True, shard_rows=4, row_group_rows=4))
    monkeypatch.setattr(LocalFiles, fails, _failing(number))
    with pytest.raises(UserError, match=os.strerror(number)) as refused:
        reader.read_row_group(0, 0, ["image"])
    assert not isinstance(refused.value, Damaged)
    assert isinstance(refused.value, StoreAway) == (number != errno.EACCES)


def test_a_place_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/runs/x: a file stands where a directory should be; give another place"):
        resolve(str(tmp_path / "file" / "runs")).write("x", b"")


def test_a_disk_that_comes_back_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = resolve(str(tmp_path))
    store.write("x", b"1")
    read, failures = LocalFiles.read, iter([errno.ESTALE])

    def sometimes(self: LocalFiles, *args: Any) -> bytes:
        for number in failures:
            raise OSError(number, os.strerror(number))
        return read(self, *args)

    monkeypatch.setattr(LocalFiles, "read", sometimes)
    assert store.read("x") == b"1"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_its_path(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = resolve(str(tmp_path))
    monkeypatch.setattr(os, "fsync", _failing(number))
    with pytest.raises(UserError, match=rf"{tmp_path}/x: .*the disk is full or its quota is used up; make room"):
        store.write("x", b"1")
    assert list(tmp_path.iterdir()) == []
