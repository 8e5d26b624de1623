"""Local files that appear whole: a file is filled beside its name, and gets the name when it is complete."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: End of the name of a file that is being filled.
PARTIAL = ".partial"


def _file_mode() -> int:
    """The mode that files get under the process's mask; temporary files ignore it, published ones should not."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _file_mode()  # once, while no other thread makes files


def create(path: Path, data: bytes) -> bool:
    """Write the file unless there is one. True where this call, or an earlier one with the same data, wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent) as file:
        file.write(data)
        file.flush()
        Path(file.name).chmod(_FILE_MODE)
        try:
            path.hardlink_to(file.name)
        except FileExistsError:
            return path.read_bytes() == data
        return True


@contextmanager
def filled(path: Path) -> Iterator[BinaryIO]:
    """A binary file to fill, which replaces `path` when the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary(path.name, path.parent) as (file, partial):
        yield file
        file.close()
        partial.chmod(_FILE_MODE)
        partial.replace(path)


@contextmanager
def temporary(name: str, folder: Path | None) -> Iterator[tuple[BinaryIO, Path]]:
    """A binary file to fill, and its path; it is removed at the end. `folder` None: the system's temporary one."""
    with tempfile.NamedTemporaryFile(prefix=f".{name}.", suffix=PARTIAL, dir=folder, delete=False) as file:
        try:
            yield file, Path(file.name)  # type: ignore[misc]
        finally:
            Path(file.name).unlink(missing_ok=True)
