"""A cluster on this machine: closed to strangers, in a directory of its own, of which nothing is left."""

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import worker

from plca_dist import scratch
from plca_dist.errors import UserError
from plca_dist.ray_cluster import local
from plca_dist.ray_cluster.internals import core

STRANGER = (
    "import ray; ray.init(address='{address}', log_to_driver=False);"
    "print('ran', ray.get(ray.remote(lambda: 42).remote(), timeout=60))"
)
OURS = """
import ray, sys
from plca_dist.config import ClusterSettings
from plca_dist import scratch
from plca_dist.errors import UserError
from plca_dist.ray_cluster.connect import connection
try:
    with connection(ClusterSettings(), print):
        print("ran", ray.get(ray.remote(lambda: 42).remote(), timeout=60))
except UserError as error:
    sys.exit(str(error))
"""
WITHOUT = {"RAY_AUTH_MODE": "disabled"}
WRONG = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
NONE = {"RAY_AUTH_MODE": "token"}


def session() -> Path:
    """The directory of the session's files, without a word that its logs are to be kept."""
    return Path(worker.global_worker.node.get_session_dir_path())


@pytest.mark.usefixtures("ray_session")
def test_only_who_has_the_token_runs_a_task(tmp_path: Path) -> None:
    """Strangers join over TCP, with Ray alone and with this project, which tells them in one line what is missing."""
    token = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    address = ray.get_runtime_context().gcs_address
    plain = {k: v for k, v in os.environ.items() if k not in token} | {"HOME": str(tmp_path), "RAY_ADDRESS": address}
    tried = [(code, more) for code in (STRANGER.format(address=address), OURS) for more in (WITHOUT, WRONG, NONE)]
    tried.append((OURS, token))
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=plain | more, stdout=-1, stderr=-1, text=True)
        for code, more in tried
    ]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in processes]
    assert [code for *_, code in ended] == [1] * 6 + [0], ended
    assert [out.strip() for out, *_ in ended] == [""] * 6 + ["ran 42"]
    for _, said, _ in ended[3:6]:
        assert said.startswith(f"RAY_ADDRESS={address}: the Ray cluster there wants its token, and"), said
        assert len(said.splitlines()) == 1, said


@pytest.mark.usefixtures("ray_session")
def test_its_files_are_this_users_and_sockets_fit() -> None:
    sockets = session() / "sockets"
    outer = sockets.parents[2]
    assert outer.stat().st_mode & 0o777 == 0o700, "Ray opens its own directories to all"
    longest = max(len(str(path)) for path in sockets.iterdir())
    assert longest - len(str(outer.parent)) <= 107 - local._LONGEST


def test_the_token_is_in_no_command_line_and_no_file(ray_session: object) -> None:
    token = os.environ["RAY_AUTH_TOKEN"].encode()
    assert len(token) == 64
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert token not in line.read_bytes()
        except OSError:  # it ended
            continue
    folder = session().parents[1]
    for file in folder.rglob("*"):
        assert not file.is_file() or token not in file.read_bytes(), file


@pytest.mark.parametrize("named", ["/tmp/" + "long/" * 20, "/tmp/plca é", "/tmp/plca a b", "/nowhere/at/all"])
def test_whatever_tmpdir_is_a_place_is_found(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None if "nowhere" in named else named)
    monkeypatch.setenv("TMPDIR", named)
    assert local.place() == Path("/tmp")


def test_where_no_place_is_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/a/path/that/is/much/too/long")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=r"no place for Ray's sockets: '/a/path.*set TMPDIR to .* at most 27 char"):
        local.place()


def test_a_ray_that_does_not_start_is_one_line_and_leaves_its_logs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local, "place", lambda: tmp_path)

    def init(_temp_dir: str, **_: Any) -> None:
        logs = Path(_temp_dir) / "session_2026" / "logs"
        logs.mkdir(parents=True)
        (logs / "raylet.err").touch()
        (logs.parent / "sockets").mkdir()
        raise TimeoutError("no raylet\n  much more")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # of the session that other tests share
    with (
        pytest.raises(
            UserError, match=r"does not start on this machine \(no raylet\); Ray's logs are in (\S+);"
        ) as said,
        local.local_cluster(local.ClusterSettings()),
    ):
        pass
    (session,) = tmp_path.glob("plca-*/r/session_2026")
    assert str(session / "logs") in str(said.value)
    assert [path.name for path in session.iterdir()] == ["logs"]
    assert (session / "logs" / "raylet.err").exists()


def test_nothing_is_left_but_logs_that_somebody_was_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A directory of a killed command is removed by the next; one whose command lives, or with such logs, stays."""
    monkeypatch.setattr(local, "place", lambda: tmp_path)
    dead, told = tmp_path / "plca-dead", tmp_path / "plca-told"
    for folder in (dead, told):
        (folder / "r" / "session_2026" / "logs").mkdir(parents=True)
        (folder / scratch.LOCK).touch()
    core.keep(told / "r" / "session_2026" / "logs")
    with local._own_directory() as lives, local._own_directory():
        assert not dead.exists()
        assert (told / "r" / "session_2026" / "logs").exists()
        assert lives.is_dir()
        with (lives.parent / scratch.LOCK).open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert list(tmp_path.iterdir()) == [told]
