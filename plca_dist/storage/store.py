"""A directory of named objects.

An object is either whole or absent. Local files are filled beside their name and then renamed; an S3 object appears
when its upload is complete.
"""

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TypeVar

from pyarrow import fs as pafs

from plca_dist.errors import UserError
from plca_dist.storage import local_files, s3

log = logging.getLogger(__name__)

T = TypeVar("T")
#: How long a reader of shards waits for a store that is away. The error should come before a step's time is up.
OUTAGE_PATIENCE_S = 540.0
#: An outage shorter than this is not worth a line.
_QUIET_S = 10.0
_LONGEST_PAUSE_S = 10.0
_CREATE_ATTEMPTS = 10
_LOOKS = 20


class StoreAway(UserError):
    """The store does not answer, or says that it cannot now: asking again may help."""


class Entry(NamedTuple):
    """One object: its name relative to the store, and its size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Store:
    """A directory of objects. Names are relative, with forward slashes.

    Attributes:
        filesystem: pyarrow's.
        root: the directory in it.
        uri: the directory as a person writes it.
        endpoint: URL of the S3-compatible server; None: AWS itself, or a local directory.
        patience_s: how long reads outlast an outage, beyond what the filesystem rides out itself.
    """

    filesystem: Any
    root: str
    uri: str
    endpoint: str | None = None
    patience_s: float = 0.0

    def child(self, name: str) -> "Store":
        """The directory `name` below this one (it need not exist yet)."""
        return replace(self, root=f"{self.root}/{name}", uri=f"{self.uri}/{name}")

    def read(self, name: str) -> bytes:
        """The whole object. Raises UserError where it is missing or out of reach."""

        def fetch() -> bytes:
            with self.filesystem.open_input_stream(self._path(name)) as stream:
                return stream.read()

        return self.patiently(name, fetch)

    def open(self, name: str) -> Any:
        """A seekable pyarrow file on the object, for reading parts of it. Call it within `patiently`."""
        with self._explained(name):
            return self.filesystem.open_input_file(self._path(name))

    def patiently(self, name: str, read: Callable[[], T], *, unless: threading.Event | None = None) -> T:
        """The result of `read`, a function that reads the object `name`. It is called again while the store is away.

        Args:
            unless: ends the waiting when it is set.

        Raises:
            StoreAway: when the store is away for longer than `patience_s`, or `unless` is set.
            UserError: for an OSError of `read` that asking again cannot mend.
        """
        unless = unless or threading.Event()
        began, pause, logged = time.monotonic(), 0.5, False
        while True:
            try:
                with self._explained(name):
                    return read()
            except StoreAway as error:
                away = time.monotonic() - began
                if away >= self.patience_s or unless.is_set():
                    raise
                if away >= _QUIET_S and not logged:
                    log.warning(
                        "the store is away; waiting for it up to %.0f s more (%s)", self.patience_s - away, error
                    )
                    logged = True
            unless.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def create(self, name: str, data: bytes) -> bool:
        """Write the object unless there is one. True where this call wrote it: for one of any number of callers.

        Args:
            data: must differ from every other caller's: a caller that lost the answer knows its own object by it.
        """
        with self._explained(name):
            if self.local:
                return local_files.create(Path(self._path(name)), data)
            return s3.create(self.endpoint, self._path(name), data, attempts=_CREATE_ATTEMPTS)

    def write(self, name: str, data: bytes) -> None:
        """Create or replace the object, whole or not at all."""
        if self.local:
            with self.writer(name) as stream:
                stream.write(data)
            return
        # One call takes all the bytes: an interruption leaves the whole object or none.
        with self._explained(name), self.filesystem.open_output_stream(self._path(name)) as stream:
            stream.write(data)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """A binary file to fill; the object appears under `name` only when the block ends without an exception.

        For S3 the bytes wait in a local temporary file, because arrow publishes a stream that is dropped half-way.
        """
        with self._explained(name):
            if self.local:
                with local_files.filled(Path(self._path(name))) as file:
                    yield file
                return
            with local_files.temporary(PurePosixPath(name).name, None) as (file, waiting):
                yield file
                file.close()
                self.upload(waiting, name)

    def upload(self, source: Path, name: str) -> None:
        """Copy a local file into the store."""
        if self.local:
            with source.open("rb") as file, self.writer(name) as target:
                shutil.copyfileobj(file, target, 8 << 20)
            return
        with self._explained(name):
            pafs.copy_files(
                str(source),
                self._path(name),
                source_filesystem=pafs.LocalFileSystem(),
                destination_filesystem=self.filesystem,
            )

    def download(self, name: str, target: Path) -> None:
        """Copy an object to a local file, making its directory."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            self._explained(name),
            self.filesystem.open_input_stream(self._path(name)) as stream,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(stream, file, 8 << 20)

    def exists(self, name: str) -> bool:
        """Whether there is such an object; a directory is none."""
        info = self.patiently(name, lambda: self.filesystem.get_file_info(self._path(name)))
        return info.type == pafs.FileType.File

    def is_directory(self) -> bool:
        """Whether the store's own directory, or bucket, exists."""
        info = self.patiently("", lambda: self.filesystem.get_file_info(self.root))
        return info.type == pafs.FileType.Directory

    def list(self, prefix: str = "") -> list[Entry]:
        """Every object at or below the directory `prefix`, sorted by name; partial writes are left out."""
        base = self._path(prefix) if prefix else self.root
        selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)

        def look() -> Any:
            # arrow fails where a local directory is missing at first and made by somebody during the call.
            for _ in range(_LOOKS):
                with contextlib.suppress(FileNotFoundError):
                    return self.filesystem.get_file_info(selector)
            return self.filesystem.get_file_info(selector)

        infos = self.patiently(prefix, look)
        cut = len(self.root.rstrip("/")) + 1
        files = (Entry(i.path[cut:], i.size) for i in infos if i.type == pafs.FileType.File)
        return sorted(e for e in files if not e.name.endswith(local_files.PARTIAL))

    def delete(self, name: str) -> None:
        """Remove one object; one that is absent already is no error."""
        with self._explained(name):
            if self.filesystem.get_file_info(self._path(name)).type == pafs.FileType.File:
                self.filesystem.delete_file(self._path(name))

    def delete_tree(self, name: str) -> None:
        """Remove the directory `name` and all below it."""
        with self._explained(name):
            if self.filesystem.get_file_info(self._path(name)).type != pafs.FileType.NotFound:
                self.filesystem.delete_dir(self._path(name))

    def failed(self, error: OSError) -> bool:
        """Whether the error is the store's own. Otherwise the store answered, and the bytes it gave are at fault."""
        return s3.own_error(str(error))

    @property
    def local(self) -> bool:
        """Whether it is a directory of this machine."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        where = f"{self.uri}/{name}" if name else self.uri
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(f"{where}: {s3.cause(str(error)) or 'no such object'}.") from error
        except OSError as error:
            kind = StoreAway if not self.local and s3.passing(str(error)) else UserError
            raise kind(f"{where}: {s3.cause(str(error)) or error}.") from error
