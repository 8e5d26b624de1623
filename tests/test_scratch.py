"""Temporary files have an owner; what a killed process has left is removed by the next one."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from plca_dist import scratch
from plca_dist.errors import UserError
from plca_dist.scratch import folder, owned

PROCESS = """
import os, signal, sys
from plca_dist.scratch import folder
with folder() as made:
    print(made, flush=True)
    (made / "large").write_bytes(b"0")
    if sys.argv[1] == "fork" and os.fork() == 0:
        os._exit(0)
    if sys.argv[1] == "fork":
        os.wait()
        assert made.is_dir(), "a child that ends leaves its parent's files alone"
    if sys.argv[1] == "live":
        sys.stdin.read()
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def process(how: str, place: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"TMPDIR": str(place)}
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, how], env=environment, stdin=-1, stdout=subprocess.PIPE, text=True
    )


def test_what_a_killed_process_left_goes_and_what_a_live_one_has_stays(tmp_path: Path) -> None:
    killed = process("killed", tmp_path)
    left = Path(killed.communicate()[0].strip())
    assert killed.returncode == -signal.SIGKILL
    assert (left / "large").exists()
    live = process("live", tmp_path)
    assert live.stdout
    used = Path(live.stdout.readline().strip())
    assert not left.exists()
    for how in ("ends", "fork"):
        ended = process(how, tmp_path)
        assert ended.communicate()[0].strip()
        assert ended.returncode == 0
        assert list(tmp_path.iterdir()) == [used]
    live.communicate()
    assert list(tmp_path.iterdir()) == []


def test_directories_of_other_machines_on_a_shared_disk_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their locks may be unknown here."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch.fcntl, "flock", lambda *_: None)  # a lock that nobody is told of
    monkeypatch.setattr(scratch.socket, "gethostname", lambda: "there")
    with folder() as of_other:
        monkeypatch.setattr(scratch.socket, "gethostname", lambda: "here")
        with folder() as first, folder() as second:
            assert second.name.startswith("scratch-plca-here-")
            assert not first.exists(), "this machine's own goes, so that the test can fail"
            assert of_other.exists()


def test_a_directory_is_its_users_alone_and_ends_with_its_block(tmp_path: Path) -> None:
    with owned("kind-", tmp_path) as made:
        assert made.stat().st_mode & 0o777 == 0o700
        with owned("kind-", tmp_path), owned("other-", tmp_path):
            assert made.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=rf"no place for temporary files .*{tmp_path}/gone.*or set TMPDIR"), folder():
        pass
