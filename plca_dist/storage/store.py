"""A directory of named objects.

An object is either whole or absent. Local files are filled beside their name and then renamed; an object in a bucket
appears when its upload is complete.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

from plca_dist.errors import UserError
from plca_dist.storage import local_files

log = logging.getLogger(__name__)

T = TypeVar("T")
#: How long a request outlasts a store that is away.
PATIENCE_S = 90.0
#: How long a reader of shards does. The error should come before a step's time is up.
OUTAGE_PATIENCE_S = 540.0
#: An outage shorter than this is not worth a line.
_QUIET_S = 10.0
_LONGEST_PAUSE_S = 10.0


class StoreAway(UserError):
    """The store does not answer, or says that it cannot now: asking again may help."""


def _anybody() -> None:
    """The guard of a store that everybody may write to."""


class Entry(NamedTuple):
    """One object: its name relative to the store, and its size in bytes."""

    name: str
    size: int


class Files(Protocol):
    """What a `Store` stands on: `LocalFiles` or `CloudFiles`. Paths are whole, sizes are bytes.

    Attributes:
        errors: types of the errors of its methods; `explain` gives their meaning, and whether asking again may help.
    """

    errors: tuple[type[BaseException], ...]

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes: ...
    def size(self, path: str) -> int | None: ...
    def write(self, path: str, data: bytes) -> None: ...
    def create(self, path: str, data: bytes) -> bool: ...
    def upload(self, source: Path, path: str) -> None: ...
    def download(self, path: str, target: Path) -> None: ...
    def list(self, path: str) -> list[tuple[str, int]]: ...
    def look(self, path: str) -> None: ...
    def delete(self, path: str) -> None: ...
    def delete_tree(self, path: str) -> None: ...
    def clear_unfinished(self, path: str, besides: str) -> None: ...
    def explain(self, error: BaseException) -> tuple[str, bool]: ...
    def arrow(self) -> Any: ...


@dataclass(frozen=True)
class Store:
    """A directory of objects. Names are relative, with forward slashes.

    Every method raises UserError, with the cause, where the store refuses; and `StoreAway`, which is one, where it was
    away for longer than `patience_s`.

    Attributes:
        files: what holds the objects.
        root: the directory in it.
        uri: the directory as a person writes it.
        endpoint: URL of the S3-compatible server; None: a cloud itself, or a local directory.
        patience_s: how long a request is repeated while the store is away.
        guard: is called before every request that changes something, and raises where this process may not write.
    """

    files: Files
    root: str
    uri: str
    endpoint: str | None = None
    patience_s: float = PATIENCE_S
    guard: Callable[[], None] = _anybody

    def child(self, name: str) -> "Store":
        """The directory `name` below this one (it need not exist yet)."""
        return replace(self, root=f"{self.root}/{name}", uri=f"{self.uri}/{name}")

    def read(self, name: str) -> bytes:
        """The whole object."""
        return self.patiently(name, lambda: self.files.read(self._path(name)))

    def read_range(self, name: str, start: int, end: int, *, unless: threading.Event | None = None) -> bytes:
        """The object's bytes from `start` up to `end`; fewer where it ends before. `unless` as in `patiently`."""
        return self.patiently(name, lambda: self.files.read(self._path(name), start, end), unless=unless)

    def size(self, name: str, *, unless: threading.Event | None = None) -> int:
        """The object's size in bytes. `unless` as in `patiently`."""
        size = self.size_or_none(name, unless=unless)
        if size is None:
            raise UserError(f"{self.uri}/{name}: no such object.")
        return size

    def size_or_none(self, name: str, *, unless: threading.Event | None = None) -> int | None:
        """`size`; None where there is no such object."""
        return self.patiently(name, lambda: self.files.size(self._path(name)), unless=unless)

    def patiently(self, name: str, ask: Callable[[], T], *, unless: threading.Event | None = None) -> T:
        """The result of `ask`, a function that may be called again: it is, while the store is away.

        Args:
            name: of the object that it is about, for the error.
            unless: ends the waiting when it is set.

        Raises:
            StoreAway: when the store is away for longer than `patience_s`, or `unless` is set.
            UserError: for an error that asking again cannot mend.
        """
        unless = unless or threading.Event()
        began, pause, logged = time.monotonic(), 0.5, False
        while True:
            try:
                with self._explained(name):
                    return ask()
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
        return self._change(name, lambda: self.files.create(self._path(name), data))

    def write(self, name: str, data: bytes) -> None:
        """Create or replace the object, whole or not at all."""
        # One call takes all the bytes: an interruption leaves the whole object or none.
        self._change(name, lambda: self.files.write(self._path(name), data))

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """A binary file to fill; the object appears under `name` only when the block ends without an exception.

        For a bucket the bytes wait in a local temporary file, so that an upload can be repeated.
        """
        if self.local:
            with self._explained(name), local_files.filled(Path(self._path(name))) as file:
                yield file
                self.guard()
            return
        with self._explained(name), local_files.temporary(PurePosixPath(name).name, None) as (file, waiting):
            yield file
            file.close()
            self.upload(waiting, name)

    def upload(self, source: Path, name: str) -> None:
        """Copy a local file into the store."""
        self._change(name, lambda: self.files.upload(source, self._path(name)))

    def download(self, name: str, target: Path) -> None:
        """Copy an object to a local file, which appears whole, making its directory."""
        with self._explained(name):
            target.parent.mkdir(parents=True, exist_ok=True)
            with local_files.temporary(target.name, target.parent) as (file, partial):
                file.close()
                self.patiently(name, lambda: self.files.download(self._path(name), partial))
                local_files.publish(partial, target)

    def exists(self, name: str) -> bool:
        """Whether there is such an object; a directory is none."""
        return self.size_or_none(name) is not None

    def list(self, prefix: str = "") -> list[Entry]:
        """Every object below the directory `prefix`, sorted by name; partial writes are left out."""
        base = self._path(prefix) if prefix else self.root
        found = self.patiently(prefix, lambda: self.files.list(base))
        cut = len(self.root.rstrip("/")) + 1
        return sorted(Entry(path[cut:], size) for path, size in found if not path.endswith(local_files.PARTIAL))

    def delete(self, name: str) -> None:
        """Remove one object; one that is absent already is no error."""
        self._change(name, lambda: self.files.delete(self._path(name)))

    def delete_tree(self, name: str) -> None:
        """Remove the directory `name` and all below it."""
        self._change(name, lambda: self.files.delete_tree(self._path(name)))

    def clear_unfinished(self, besides: str) -> None:
        """Remove what writers that were killed have left: files and uploads that have not become objects.

        Only who alone writes to the directory may call it. What is below the directory `besides` stays.
        """
        self._change("", lambda: self.files.clear_unfinished(self.root, f"{self.root}/{besides}"))

    def arrow(self) -> Any:
        """The filesystem that `root` is in, as pyarrow's."""
        return self.files.arrow()

    @property
    def local(self) -> bool:
        """Whether it is a directory of this machine."""
        return isinstance(self.files, local_files.LocalFiles)

    def _change(self, name: str, ask: Callable[[], T]) -> T:
        """`patiently`, with the guard before every try: a store may be away for long."""

        def guarded() -> T:
            self.guard()
            return ask()

        return self.patiently(name, guarded)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except self.files.errors as error:
            cause, passing = self.files.explain(error)
            where = f"{self.uri}/{name}" if name else self.uri
            raise (StoreAway if passing else UserError)(f"{where}: {cause}.") from error
