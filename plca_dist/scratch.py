"""Directories for files that are of no use after the process that made them.

A process that is killed removes nothing. So a directory has an owner, who holds a lock on a file in it; the system
releases the lock when the owner ends, however that happens. Whoever makes the next directory of the kind removes those
that have no owner any more.
"""

import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from plca_dist.errors import UserError

LOCK = "owner.lock"


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)


@contextmanager
def owned(prefix: str, base: Path, remove: Callable[[Path], None] = _remove) -> Iterator[Path]:
    """A new directory in `base`, this user's alone (0700), until the block ends.

    Args:
        prefix: how its name begins, and those of the same kind, which are removed where they have no owner.
        remove: removes a directory that is over.

    Raises OSError where `base` cannot hold it.
    """
    sweep(prefix, base, remove)
    place, lock = _make(prefix, base)
    with lock:
        try:
            yield place
        finally:
            remove(place)


def sweep(prefix: str, base: Path, remove: Callable[[Path], None] = _remove) -> None:
    """Remove this user's directories in `base` whose names begin with `prefix` and that have no owner any more."""
    for lock in base.glob(f"{prefix}*/{LOCK}"):
        with suppress(OSError):
            if lock.parent.lstat().st_uid == os.getuid():
                with lock.open("r+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(lock.parent)


@contextmanager
def folder() -> Iterator[Path]:
    """A new directory for temporary files below TMPDIR, until the block ends.

    Raises UserError where there is no place for it.
    """
    with ExitStack() as stack:
        with _explained():
            # Locks on a disk that machines share may be known to one of them: each removes its own directories.
            host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
            made = stack.enter_context(owned(f"scratch-plca-{host}-", Path(tempfile.gettempdir())))
        yield made


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"there is no place for temporary files ({error}): make room there, or set TMPDIR to another directory."
        ) from error


def _make(prefix: str, base: Path) -> tuple[Path, TextIO]:
    place = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    try:
        lock = (place / "new").open("w")
    except OSError:
        _remove(place)
        raise
    with suppress(OSError):  # where nothing can be locked, nobody else can take the lock either, and sweep
        fcntl.flock(lock, fcntl.LOCK_EX)
    (place / "new").rename(place / LOCK)
    return place, lock
