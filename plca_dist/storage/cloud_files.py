"""Objects in a bucket, through fsspec: the same calls for every cloud.

A path is `bucket/key`, and means itself: nothing in it is a pattern, a version or an escape. Nothing is cached, because
other processes write to the same bucket.
"""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from plca_dist.storage.causes import PASSING, CutShort, Failure, NoBucket, Words, chain, meaning, of_transport
from plca_dist.storage.clouds import limits

#: Requests at once when a directory is removed.
_DELETES = 16
_CONFLICTS = 5


class Cloud(Protocol):
    """What is special to a cloud. The modules s3, gcs and azure are of this kind.

    Attributes:
        WORDS: how the cloud calls things.
        READ, PUT: options of fsspec's `cat_file` of whole objects and `put_file`: they bound requests and memory.
        ERRORS: types of the errors that requests end with; anything else is a bug.
    """

    WORDS: Words
    READ: dict[str, Any]
    PUT: dict[str, Any]
    ERRORS: tuple[type[BaseException], ...]

    def filesystem(self, endpoint: str | None, account: str | None) -> Any:
        """fsspec's filesystem on a server, of an account, where the cloud has such; None: those of the environment."""

    def failure(self, error: BaseException) -> tuple[Failure, str] | None:
        """The failure that the one error is by its type and code, and the code; None: it does not say."""


class CloudFiles:
    """Objects of a `Store` that are in a bucket.

    Attributes:
        errors: types of the errors that requests end with.
    """

    def __init__(self, cloud: Cloud, endpoint: str | None, account: str | None) -> None:
        self._cloud = cloud
        self._fs = cloud.filesystem(endpoint, account)
        self.errors: tuple[type[BaseException], ...] = (*cloud.ERRORS, CutShort)

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        if end is not None and end <= start:
            return b""  # implementations differ in what an empty range is
        part = self._cloud.READ if (start, end) == (0, None) else {"start": start, "end": end}
        data = bytes(self._fs.cat_file(path, **part))
        if end is None or len(data) < end - start:
            self._check_end(path, start + len(data))
        return data

    def size(self, path: str) -> int | None:
        try:
            info = self._fs.info(path)
        except FileNotFoundError as error:
            if self._is(error, Failure.NO_BUCKET):
                raise
            return None
        except self.errors as error:
            found = self._failure(error)
            if found is None or (found[1].isdigit() and found[0] not in PASSING):
                self.read(path, 0, 1)  # of a HEAD the answer has no body to say why
            raise
        return int(info["size"]) if info["type"] == "file" else None

    def write(self, path: str, data: bytes) -> None:
        self._fs.pipe_file(path, data)

    def create(self, path: str, data: bytes) -> bool:
        for _ in range(_CONFLICTS):
            try:
                self._fs.pipe_file(path, data, mode="create")
                return True
            except self.errors as error:
                if isinstance(error, FileExistsError) or self._is(error, Failure.EXISTS):
                    # Where the answer to the first try was lost, the second try meets its own object.
                    return self.read(path) == data
                if not self._is(error, Failure.CONFLICT):
                    raise
                time.sleep(0.2)  # another writer is writing it, and may fail
        return False

    def upload(self, source: Path, path: str) -> None:
        self._fs.put_file(str(source), path, **self._cloud.PUT)

    def download(self, path: str, target: Path) -> None:
        # Part by part: of a part that came short the filesystems' own download would leave zeros.
        size = self.size(path)
        if size is None:
            raise FileNotFoundError(path)
        with target.open("wb") as file, ThreadPoolExecutor(limits.PARTS) as pool:

            def fetch(start: int) -> None:
                data = self.read(path, start, min(start + limits.PART_BYTES, size))
                os.pwrite(file.fileno(), data, start)

            list(pool.map(fetch, range(0, size, limits.PART_BYTES)))

    def list(self, path: str) -> list[tuple[str, int]]:
        try:
            found = self._fs.find(path, detail=True)
        except FileNotFoundError as error:
            raise NoBucket(path) from error
        below = f"{path}/"
        return [
            (name, int(info["size"]))
            for name, info in found.items()
            if info["type"] == "file" and name.startswith(below) and not name.endswith("/")
        ]

    def look(self, path: str) -> None:
        """Raise where the bucket is missing, or what is below `path` may not be listed."""
        self.list(f"{path}/plca-access-probe")

    def delete(self, path: str) -> None:
        try:
            self._fs.rm_file(path)
        except FileNotFoundError as error:
            if self._is(error, Failure.NO_BUCKET):
                raise

    def delete_tree(self, path: str) -> None:
        with ThreadPoolExecutor(_DELETES) as pool:
            list(pool.map(self.delete, [name for name, _ in self.list(path)]))

    def clear_unfinished(self, path: str, besides: str) -> None:
        self._fs.clear_unfinished(path, besides)

    def explain(self, error: BaseException) -> tuple[str, bool]:
        """What an error means for a person, and whether asking again may help."""
        found = self._failure(error)
        if found is None:
            said = re.sub(r"//[^@\s'\"]*@", "//…@", str(error))  # a proxy's password, say
            return f"{type(error).__name__}: {' '.join(said.split())[:200]}", False
        failure, code = found
        text = meaning(failure, self._cloud.WORDS)
        return (f"{text} ({code})" if code else text), failure in PASSING

    def arrow(self) -> Any:
        """The same objects for pyarrow."""
        from pyarrow import fs as pafs

        return pafs.PyFileSystem(pafs.FSSpecHandler(self._fs))

    def _check_end(self, path: str, end: int) -> None:
        """Raise CutShort where the object goes on behind `end`, where the bytes that came end. One small request.

        A proxy that is out of memory, say, ends a body early, with a length that fits it.
        """
        if (self.size(path) or 0) > end:
            raise CutShort(path)

    def _is(self, error: BaseException, failure: Failure) -> bool:
        found = self._failure(error)
        return found is not None and found[0] is failure

    def _failure(self, error: BaseException) -> tuple[Failure, str] | None:
        if isinstance(error, NoBucket):
            return Failure.NO_BUCKET, ""
        if isinstance(error, CutShort):
            return Failure.CUT_SHORT, ""
        errors = list(chain(error))
        for one in errors:  # what the store said comes before what Python made of it
            if found := self._cloud.failure(one):
                return found
        for one in reversed(errors):  # the innermost error of a connection says most
            if found := of_transport(one):
                return found
        if any(isinstance(one, FileNotFoundError) for one in errors):
            return Failure.NO_OBJECT, ""
        if any(isinstance(one, PermissionError) for one in errors):
            return Failure.DENIED, ""
        return None
