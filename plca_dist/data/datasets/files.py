"""Files of a data set: on a disk, or within a zip that is read in place. Only regular files are opened."""

import hashlib
import os
import stat
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from plca_dist.data.formats import OTHER_SUFFIXES, SUFFIXES
from plca_dist.errors import UserError, first_line

#: How much of a file's end enters its stamp. A PNG ends with checksums of all its pixels.
_STAMP_TAIL = 4096
_ARCHIVE = ".zip"
_zips = threading.Lock()


@dataclass(frozen=True)
class Member:
    """A file within a zip."""

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"


File = Path | Member


def contents(file: File) -> bytes:
    """The bytes of the file. Raises UserError where it cannot be read."""
    if isinstance(file, Member):
        try:
            return _zip(file.archive).read(file.name)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, ValueError) as error:
            raise UserError(f"{file}: cannot be read out of its zip: {first_line(error)}; unpack it.") from error
        except Exception as error:  # zlib's and lzma's errors have no common ancestor
            raise UserError(f"{file}: is damaged within its zip: {first_line(error)}; copy the zip again.") from error
    with _opened(file) as stream:
        return stream.read()


def stamp(file: File) -> str:
    """Size and a hash of the last bytes: times of change do not survive copying a data set to another machine."""
    if isinstance(file, Member):
        entry = _zip(file.archive).getinfo(file.name)
        return f"{entry.file_size}:{entry.CRC:08x}"
    try:
        with _opened(file) as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _STAMP_TAIL))
            return f"{size}:{hashlib.sha256(stream.read()).hexdigest()[:16]}"
    except UserError:
        return "unreadable"  # `contents` says so, where it can be listed as a broken sample


def files_below(root: Path, folder: str) -> dict[str, File]:
    """The files below `root/folder`, at any depth: path from `root`, with slashes -> file. Hidden ones are none.

    A zip counts as a folder where `root` or `folder` names it. Raises UserError for a damaged zip.
    """
    archive, prefix, inner = _split(root, folder)
    if archive is None:
        return dict(sorted(_walk(root, folder)))
    names = [e.filename for e in _zip(archive).infolist() if not e.is_dir() and e.filename.startswith(inner)]
    return {f"{prefix}{name}": Member(archive, name) for name in sorted(names) if not _hidden(name)}


def is_folder(root: Path, folder: str) -> bool:
    """Whether `files_below` has a place to look at."""
    archive, _, inner = _split(root, folder)
    if archive is None:
        return (root / folder).is_dir()
    return not inner or any(entry.filename.startswith(inner) for entry in _zip(archive).infolist())


def _split(root: Path, folder: str) -> tuple[Path | None, str, str]:
    """The zip on the way, if there is one, the path to it from `root`, and the rest of `folder`, each with a slash."""
    if root.suffix.lower() == _ARCHIVE and root.is_file():
        return root, "", f"{folder}/" if folder else ""
    parts = folder.split("/")
    for k, part in enumerate(parts, 1):
        path = root.joinpath(*parts[:k])
        if part.lower().endswith(_ARCHIVE) and path.is_file():
            rest = "/".join(parts[k:])
            return path, "/".join(parts[:k]) + "/", f"{rest}/" if rest else ""
    return None, "", folder


def _walk(root: Path, folder: str) -> Iterator[tuple[str, Path]]:
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(root / folder, followlinks=True):
        state = Path(place).stat()
        if (state.st_dev, state.st_ino) in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        # What is called like a picture is listed, whatever it is: reading it says so.
        pictures = [name for name in folders if name.lower().endswith(SUFFIXES + OTHER_SUFFIXES)]
        folders[:] = [name for name in folders if name not in pictures and not name.startswith(".")]
        for name in (*names, *pictures):
            if not name.startswith("."):
                path = Path(place, name)
                yield path.relative_to(root).as_posix(), path


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


@lru_cache(maxsize=16)
def _open_zip(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{archive}: is no readable zip: {first_line(error)}; copy it again.") from error


def _zip(archive: Path) -> zipfile.ZipFile:
    """The open zip; any number of threads may read from it at once."""
    with _zips:
        return _open_zip(archive)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file to read. UserError for what is none: to open a pipe would wait for its writer, a device may act."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: is no file but a directory, pipe, socket or device; take it away.")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
