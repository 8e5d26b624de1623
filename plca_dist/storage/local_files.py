"""Local files that appear whole: a file is filled beside its name, and gets the name when it is complete.

What is published stays through a loss of power: the bytes are on the disk before the file has its name, and the name
is before the call returns. That takes half a millisecond for a small file, and as long again as the write for a large
one (200 MB: 0.2 s to 0.5 s, on one disk).
"""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from plca_dist import scratch
from plca_dist.errors import UserError

#: End of the name of a file that is being filled.
PARTIAL = ".partial"


def _file_mode() -> int:
    """The mode that files get under the process's mask; temporary files ignore it, published ones should not."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _file_mode()  # once, while no other thread makes files

#: Errors that say nothing about a file: a network disk whose server is away, or a handle that its server forgot.
_PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO, errno.ENOTCONN,
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH,
}  # fmt: skip
#: Where nothing can be written, whatever is tried.
_NO_PLACE = {errno.ENOTDIR: "a file stands where a directory should be", errno.EROFS: "its disk is read-only"}
_FULL = {errno.ENOSPC, errno.EDQUOT}
#: How a file system says that it has no hard links, no renames that keep what is there, no syncing of directories.
_UNKNOWN = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK}
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1


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
        _make(target.parent)
        with temporary(target.name, target.parent) as (file, partial):
            file.write(data)
            file.close()
            _sync(partial)
            partial.chmod(_FILE_MODE)
            try:
                _name_once(partial, target)
            except FileExistsError:
                return target.read_bytes() == data
            _sync(target.parent)
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

    def clear_unfinished(self, path: str, besides: str) -> None:
        for file, _ in self.list(path):
            if file.endswith(PARTIAL) and not file.startswith(f"{besides}/"):
                self.delete(file)

    def explain(self, error: BaseException) -> tuple[str, bool]:
        """What an error means for a person, and whether asking again may help."""
        number = getattr(error, "errno", None)
        if isinstance(error, FileNotFoundError):
            return "no such object", False
        if number in _NO_PLACE:
            return f"{_NO_PLACE[number]}; give another place", False
        if number in _FULL:
            return f"{error}: the disk is full or its quota is used up; make room", False
        if number in _PASSING:
            return f"{error}: the disk does not answer as it should; look at it, or at its server", True
        return str(error), False

    def arrow(self) -> Any:
        """The same files for pyarrow."""
        from pyarrow import fs as pafs

        return pafs.LocalFileSystem()


@contextmanager
def filled(path: Path) -> Iterator[BinaryIO]:
    """A binary file to fill, which replaces `path` for good when the block ends without an exception."""
    _make(path.parent)
    with temporary(path.name, path.parent) as (file, partial):
        yield file
        file.close()
        _sync(partial)
        publish(partial, path)
        _sync(path.parent)


def publish(partial: Path, path: Path) -> None:
    """Give a file that is filled its name and the usual mode."""
    partial.chmod(_FILE_MODE)
    partial.replace(path)


@contextmanager
def temporary(name: str, folder: Path | None) -> Iterator[tuple[BinaryIO, Path]]:
    """A binary file to fill, and its path; it is removed at the end. `folder` None: a temporary one."""
    with ExitStack() as stack:
        folder = folder or stack.enter_context(scratch.folder())
        file = stack.enter_context(
            tempfile.NamedTemporaryFile(prefix=f".{name}.", suffix=PARTIAL, dir=folder, delete=False)
        )
        try:
            yield file, Path(file.name)  # type: ignore[misc]
        finally:
            Path(file.name).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Bring a file's bytes to the disk, or a directory's names where its file system keeps them apart."""
    with suppress(FileNotFoundError):  # somebody has removed it meanwhile
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
        finally:
            os.close(handle)


def _make(folder: Path) -> None:
    """Make a directory and those above it, each with its name on the disk."""
    missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _sync(each.parent)


def _name_once(partial: Path, target: Path) -> None:
    """Give a file the name `target`, which it must not take from another: FileExistsError. One of many callers wins.

    A hard link does so on most disks and on NFS; a rename that keeps what is there on SMB, FAT and some of FUSE's.
    """
    try:
        target.hardlink_to(partial)
        return
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    try:
        _rename_once(partial, target)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        raise UserError(
            f"{target.parent}: its file system has neither hard links nor renames that keep what is there, so nothing "
            "in it can be created only once, and a run could have two writers; use a bucket, or another disk."
        ) from None


def _rename_once(partial: Path, target: Path) -> None:
    """`rename` of Linux with RENAME_NOREPLACE."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(target))
    if rename(_AT_FDCWD, os.fsencode(partial), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(_RENAME_NOREPLACE)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
