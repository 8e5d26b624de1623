"""What the doctor says where something is wrong. (Where all is well: tests/distributed.)"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plca_dist.cli import main
from plca_dist.doctor import examine as doctor
from plca_dist.doctor.examine import Finding, examine
from plca_dist.storage import Location


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ray", lambda: "not looked at")


def store_finding(storage: object, endpoint: str | None = None) -> Finding:
    *others, store = examine(Location(str(storage), endpoint))
    assert [f.what for f in others] == ["Python", "torch", "CUDA", "DeepSpeed", "Ray"]
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
