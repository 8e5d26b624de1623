"""What the doctor says where something is wrong. (Where all is well: tests/distributed.)"""

import dataclasses
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plca_dist.cli import main
from plca_dist.doctor import examine as doctor
from plca_dist.doctor import mount
from plca_dist.doctor.examine import Finding, examine
from plca_dist.doctor.store import try_store
from plca_dist.storage import Location, resolve
from plca_dist.storage.local_files import LocalFiles
from plca_dist.storage.store import Files


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ray", lambda: "not looked at")


def store_finding(storage: object, endpoint: str | None = None) -> Finding:
    *others, store = examine(Location(str(storage), endpoint))
    assert [f.what for f in others] == ["Python", "torch", "images", "CUDA", "DeepSpeed", "Ray"]
    assert all(f.good for f in others)
    return store


def test_a_local_store_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = store_finding(tmp_path / "not" / "yet")
    assert found.good
    assert "24 MiB written, read and deleted" in found.detail
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").write_text("kept")
    assert store_finding(tmp_path).good
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    found = store_finding(tmp_path / "file")
    assert not found.good
    assert str(tmp_path / "file") in found.detail


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "check AWS_SECRET_ACCESS_KEY"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "check the endpoint setting or AWS_ENDPOINT_URL"),
    ],
)
@pytest.mark.usefixtures("s3")
def test_a_bucket_out_of_reach_fails_with_the_fix(
    name: str, value: str, fix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["doctor", "--storage", "s3://bucket/runs"]) == 1
    out, err = capsys.readouterr()
    (failed,) = [line for line in out.splitlines() if not line.startswith("ok    ")]
    assert failed.startswith("FAIL  store: s3://bucket/runs: ")
    assert fix in failed
    assert err == ""


def test_a_bucket_is_tried_and_left_as_it_was(s3: object, capsys: pytest.CaptureFixture[str]) -> None:
    from plca_dist.storage import resolve

    assert main(["doctor", "--storage", "s3://bucket/doctor"]) == 0
    assert "ok    store: s3://bucket/doctor: 24 MiB" in capsys.readouterr().out
    assert resolve("s3://bucket/doctor").list() == []


class Recorded:
    """Files that note which methods were called."""

    def __init__(self, files: Files) -> None:
        self._files, self.called = files, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return getattr(self._files, name)


def test_every_kind_of_request_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that leaves one out is not the work: all methods that a store has beneath it, and pyarrow's way."""
    store = resolve(str(tmp_path))
    recorded = Recorded(store.files)
    monkeypatch.setattr("plca_dist.doctor.store.probe", lambda _: dataclasses.replace(store, files=recorded))
    try_store(Location(str(tmp_path)))
    kinds = {name for name in vars(Files) if not name.startswith("_")} - {"look", "explain"}  # `probe` looks
    assert len(kinds) >= 10
    assert kinds <= recorded.called


def test_a_store_that_shows_no_unfinished_uploads_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: LocalFiles, path: str, besides: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalFiles, "clear_unfinished", denied)
    found = try_store(Location(str(tmp_path)))
    assert "creates only once" in found
    assert "; what killed runs leave of uploads will stay (" in found


@pytest.mark.parametrize("lost", ["new", "deleted"])
def test_a_store_whose_listings_lag_is_named(lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, seen = LocalFiles.list, dict[str, tuple[float, int]]()

    def lagging(self: LocalFiles, path: str) -> list[tuple[str, int]]:
        """What there was two seconds ago: without what is new, or with what was deleted."""
        now, found = time.monotonic(), dict(listed(self, path))
        for name, size in found.items():
            seen.setdefault(name, (now, size))
        if lost == "new":
            return [(name, size) for name, size in found.items() if now - seen[name][0] > 2]
        return [(name, size) for name, (_, size) in seen.items()]

    monkeypatch.setattr(LocalFiles, "list", lagging)
    found = store_finding(tmp_path)
    assert not found.good
    assert "whose listings are up to date" in found.detail


NFS = "58 23 0:55 / /mnt/my\\040runs rw,relatime shared:30 - {kind} server:/export rw,vers=4.2,{options}addr=10.0.0.1"


@pytest.mark.parametrize(
    ("kind", "options", "found"),
    [
        ("nfs4", "", "up to 60 s, longer than a run's lease of 8 s.*actimeo=3 or noac, or give --storage a bucket"),
        ("nfs", "acregmax=3,", "up to 60 s"),  # of directories
        ("nfs", "acregmin=3,acregmax=3,acdirmin=3,acdirmax=3,", "ok .* for 3 s"),
        ("nfs4", "noac,", "ok .* for 0 s"),
        ("nfs4", "lookupcache=none,", "ok .* for 0 s"),
        ("nfs4", "noac,nocto,", "with nocto"),
        ("cifs", "actimeo=1,", "ok .* for 1 s"),
        ("cifs", "acdirmax=60,acregmax=1,", "up to 60 s"),
        ("ext4", "", None),
    ],
)
def test_a_network_disk_that_keeps_names_for_longer_than_a_lease_is_named(
    kind: str, options: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    root = "23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw"
    mounts.write_text("\n".join([root, NFS.format(kind=kind, options=options), ""]))
    monkeypatch.setattr(mount, "MOUNTS", mounts)
    monkeypatch.setattr(doctor, "try_store", lambda _: "not tried")
    disks = [f for f in examine(Location("/mnt/my runs/a/b")) if f.what == "network disk"]
    if found is None:
        assert disks == []
    else:
        (disk,) = disks
        assert disk.good == found.startswith("ok ")
        assert re.search(found.removeprefix("ok "), disk.detail), disk.detail
    assert not [f for f in examine(Location("/mnt/my")) if f.what == "network disk"]


def test_what_does_not_import_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    findings = {f.what: f for f in examine(Location(str(tmp_path)))}
    assert not findings["DeepSpeed"].good
    assert "pip install plca-dist" in findings["DeepSpeed"].detail
    assert findings["store"].good


def test_an_old_torch_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(torch, "__version__", "2.4.1+cpu")
    findings = {f.what: f for f in examine(Location(str(tmp_path)))}
    assert "2.4.1+cpu is too old; pip install 'torch>=2.11'" in findings["torch"].detail


def test_whatever_a_check_meets_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def check() -> str:
        raise OSError("a\nlong\nstory")

    monkeypatch.setattr(doctor, "_ray", check)
    findings: Iterator[Finding] = examine(Location(str(tmp_path)))
    assert {f.what: f for f in findings}["Ray"] == Finding("Ray", False, "OSError: a long story")
