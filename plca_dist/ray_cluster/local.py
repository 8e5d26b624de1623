"""A Ray cluster on this machine, for one command: nobody else can use it, and nothing of it is left at the end.

Ray listens on all interfaces, whatever address its node has. So it is started with a token of its own, which each
request needs. The token is in the environment of the cluster's processes, which only their user can read.
"""

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from plca_dist import scratch
from plca_dist.config import ClusterSettings
from plca_dist.errors import UserError, counted, first_line
from plca_dist.ray_cluster import LOCAL_CLUSTER
from plca_dist.ray_cluster.internals import core

#: Ray prints nothing of its own in a driver.
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}

#: Enough for records and pickled settings: samples never travel through Ray's object store.
_OBJECT_STORE_BYTES = 128 << 20
_PREFIX = "plca-"
#: The longest path below which Ray's sockets can lie. A socket's path holds 107 bytes, and Ray adds up to 80 of them.
_LONGEST = 27
#: Ray cuts command lines at spaces, and takes some other characters for its own.
_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")
#: Seconds within which Ray's processes have ended and write no more logs.
_LAST_WORDS_S = 3.0


@contextmanager
def local_cluster(wanted: ClusterSettings) -> Iterator[None]:
    """Be connected inside the block to a cluster that is started here, which holds the workers and ends with the block.

    Ray's logs are removed with it, unless `core.logs_directory` was asked for them.

    Raises UserError where this machine has too few GPUs or no place for Ray's files, or where Ray does not start.
    """
    gpus = _local_gpus() if wanted.gpu else 0
    if wanted.gpu and gpus < wanted.least_workers:
        raise UserError(
            f"cluster.gpu is true and cluster.workers is {wanted.workers}, but this machine has "
            f"{counted(gpus, 'GPUs')}; set RAY_ADDRESS to a cluster that has them, or --set cluster.gpu=false."
        )
    variables = {LOCAL_CLUSTER: "1", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with _own_directory() as folder, _environment(variables):
        try:
            _start(wanted, gpus, folder)
            yield
        finally:
            ray.shutdown()


def _start(wanted: ClusterSettings, gpus: int, folder: Path) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, wanted.most_workers * wanted.cpus_per_worker),
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
            **QUIET,
        )
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        logs = next(folder.glob("session_2*/logs"), None)
        where = f"Ray's logs are in {logs}" if logs and core.keep(logs) else "it left no logs"
        raise UserError(
            f"a Ray cluster does not start on this machine ({first_line(error)}); {where}; mend what they name, or set "
            "RAY_ADDRESS to a cluster."
        ) from error


def place() -> Path:
    """The directory below which Ray's files are put: that of TMPDIR where its path can be, else /tmp.

    Raises UserError where neither can.
    """
    try:
        named = tempfile.gettempdir()
    except OSError:  # it tried all that it knows
        named = os.environ.get("TMPDIR", "/tmp")
    for path in (named, "/tmp"):
        if len(path) <= _LONGEST and _PLAIN.fullmatch(path) and os.access(path, os.W_OK | os.X_OK):
            return Path(path)
    raise UserError(
        f"there is no place for Ray's sockets: {named!r} and '/tmp' are not writable or not suitable; set TMPDIR to a "
        f"writable directory whose path has at most {_LONGEST} characters, all of them letters, digits or one of /._-"
    )


@contextmanager
def _own_directory() -> Iterator[Path]:
    """A directory that Ray may open to all, inside one that is this user's alone."""
    with scratch.owned(_PREFIX, place(), _remove) as outer:
        inner = outer / "r"
        inner.mkdir()
        yield inner


def _remove(outer: Path) -> None:
    kept = [logs for logs in outer.glob("r/session_2*/logs") if core.is_kept(logs)]
    if kept:
        (outer / scratch.LOCK).unlink(missing_ok=True)
        for path in kept[0].parent.iterdir():
            if path != kept[0]:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return
    deadline = time.monotonic() + _LAST_WORDS_S
    while outer.exists():
        shutil.rmtree(outer, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        if outer.exists():
            time.sleep(0.1)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Inside the block this process and those that it starts have the variables, and Ray heeds those of its token."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    core.reload_authentication()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        core.reload_authentication()


def _local_gpus() -> int:
    import torch

    return torch.cuda.device_count()
