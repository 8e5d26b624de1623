"""Local files that appear whole: a file is filled beside its name, and gets the name when it is complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

#: End of the name of a file that is being filled.
PARTIAL = ".partial"


def _file_mode() -> int:
    """The mode that files get under the process's mask; temporary files ignore it, published ones should not."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _file_mode()  # once, while no other thread makes files


class LocalFiles:
    """Objects of a `Store` that are files of this machine, or of a disk that it shares. Paths are absolute."""

    errors: tuple[type[BaseException], ...] = (OSError,)

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        with Path(path).open("rb") as file:
            file.seek(start)
            return file.read() if end is None else file.read(end - start)

    def size(self, path: str) -> int | None:
        return Path(path).stat().st_size if Path(path).is_file() else None

    def write(self, path: str, data: bytes) -> None:
        with filled(Path(path)) as file:
            file.write(data)

    def create(self, path: str, data: bytes) -> bool:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary(target.name, target.parent) as (file, partial):
            file.write(data)
            file.close()
            partial.chmod(_FILE_MODE)
            try:
                target.hardlink_to(partial)
            except FileExistsError:
                return target.read_bytes() == data
            return True

    def upload(self, source: Path, path: str) -> None:
        with source.open("rb") as file, filled(Path(path)) as target:
            shutil.copyfileobj(file, target, 8 << 20)

    def download(self, path: str, target: Path) -> None:
        shutil.copyfile(path, target)

    def list(self, path: str) -> list[tuple[str, int]]:
        found = []
        for folder, _, names in os.walk(path, followlinks=True):
            for name in names:
                file = f"{folder.rstrip('/')}/{name}"
                with suppress(FileNotFoundError):  # it was removed since, or is a link that leads nowhere
                    found.append((file, Path(file).stat().st_size))
        return found

    def look(self, path: str) -> None:
        """A directory may be missing: it is made on the first write."""

    def delete(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def delete_tree(self, path: str) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(path)

    def explain(self, error: BaseException) -> tuple[str, bool]:
        """What an error means for a person, and whether asking again may help."""
        return ("no such object" if isinstance(error, FileNotFoundError) else str(error)), False

    def arrow(self) -> Any:
        """The same files for pyarrow."""
        from pyarrow import fs as pafs

        return pafs.LocalFileSystem()


@contextmanager
def filled(path: Path) -> Iterator[BinaryIO]:
    """A binary file to fill, which replaces `path` when the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary(path.name, path.parent) as (file, partial):
        yield file
        file.close()
        publish(partial, path)


def publish(partial: Path, path: Path) -> None:
    """Give a file that is filled its name and the usual mode."""
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
