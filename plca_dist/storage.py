"""URI -> a place to keep things, the same for a local directory and an S3 bucket.

Everything the project reads or leaves behind goes through a `Store`: a directory of named objects. An object is
either whole or absent: local files are written beside their name and renamed, S3 objects appear on completion.
This module alone knows of S3. Retries are set explicitly, because pyarrow's default gives up on a busy store after
two seconds.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

from pyarrow import fs as pafs

from plca_dist.errors import UserError

#: Rides out about a minute and a half of refusals from a busy store.
_PATIENT_ATTEMPTS = 10
#: For the first look at a store, where a typing error is likelier than an outage.
_PROBE_ATTEMPTS = 2
_PARTIAL = ".partial"


def _file_mode() -> int:
    """The mode that files get under the process's mask; temporary files ignore it, published objects should not."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _file_mode()  # once, while no other thread makes files

#: What arrow's message contains -> what it means to a person.
_S3_CAUSES = (
    ("NO_SUCH_BUCKET", "the bucket does not exist; create it or correct its name"),
    ("INVALID_ACCESS_KEY_ID", "the store does not know this access key; check AWS_ACCESS_KEY_ID"),
    ("InvalidAccessKeyId", "the store does not know this access key; check AWS_ACCESS_KEY_ID"),
    ("SIGNATURE_DOES_NOT_MATCH", "the secret key is wrong; check AWS_SECRET_ACCESS_KEY"),
    ("SignatureDoesNotMatch", "the secret key is wrong; check AWS_SECRET_ACCESS_KEY"),
    ("ACCESS_DENIED", "access is denied; check the AWS credentials and the bucket's policy"),
    ("AccessDenied", "access is denied; check the AWS credentials and the bucket's policy"),
    ("Forbidden", "access is denied; check the AWS credentials and the bucket's policy"),
    ("HTTP status 403", "access is denied; check the AWS credentials and the bucket's policy"),
    ("NETWORK_CONNECTION", "the endpoint does not answer; check the endpoint setting or AWS_ENDPOINT_URL"),
    ("curlCode", "the endpoint does not answer; check the endpoint setting or AWS_ENDPOINT_URL"),
)  # fmt: skip


class Entry(NamedTuple):
    """One object: its name relative to the store, and its size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Store:
    """A directory of objects. Names are relative, with forward slashes."""

    filesystem: Any
    root: str
    uri: str

    def child(self, name: str) -> "Store":
        """The directory `name` below this one (it need not exist yet)."""
        return Store(self.filesystem, f"{self.root}/{name}", f"{self.uri}/{name}")

    def read(self, name: str) -> bytes:
        """The whole object. Raises UserError where it is missing or out of reach."""
        with self._explained(name), self.filesystem.open_input_stream(self._path(name)) as stream:
            return stream.read()

    def open(self, name: str) -> Any:
        """A seekable pyarrow file on the object, for reading parts of it."""
        with self._explained(name):
            return self.filesystem.open_input_file(self._path(name))

    def write(self, name: str, data: bytes) -> None:
        """Create or replace the object, whole or not at all."""
        if self._local:
            with self.writer(name) as stream:
                stream.write(data)
            return
        # One call takes all the bytes, so whatever interrupts us meets all of the object or nothing of it.
        with self._explained(name), self.filesystem.open_output_stream(self._path(name)) as stream:
            stream.write(data)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """A binary file to fill; the object appears under `name` only when the block ends without an exception.

        On S3 the bytes wait in a local temporary file: arrow publishes a stream that is dropped half-way.
        """
        path = Path(self._path(name))
        if self._local:
            with self._explained(name):
                path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent if self._local else None, delete=False
        ) as file:
            waiting = Path(file.name)
            try:
                with self._explained(name):
                    yield file  # type: ignore[misc]
                    file.close()
                    if self._local:
                        waiting.chmod(_FILE_MODE)
                        waiting.replace(path)
                    else:
                        self.upload(waiting, name)
            finally:
                waiting.unlink(missing_ok=True)

    def upload(self, source: Path, name: str) -> None:
        """Copy a local file into the store."""
        if self._local:
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
        with self._explained(name):
            return self.filesystem.get_file_info(self._path(name)).type == pafs.FileType.File

    def list(self, prefix: str = "") -> list[Entry]:
        """Every object at or below the directory `prefix`, sorted by name; partial writes are left out."""
        base = self._path(prefix) if prefix else self.root
        with self._explained(prefix):
            infos = self.filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
        cut = len(self.root.rstrip("/")) + 1
        files = (Entry(i.path[cut:], i.size) for i in infos if i.type == pafs.FileType.File)
        return sorted(e for e in files if not e.name.endswith(_PARTIAL))

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

    @property
    def _local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        where = f"{self.uri}/{name}" if name else self.uri
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(f"{where}: {_cause(str(error)) or 'no such object'}.") from error
        except OSError as error:
            raise UserError(f"{where}: {_cause(str(error)) or error}.") from error


def _cause(message: str) -> str | None:
    return next((meaning for mark, meaning in _S3_CAUSES if mark in message), None)


def resolve(uri: str, endpoint: str | None = None) -> Store:
    """The store at `uri`: `s3://bucket/prefix`, `file:///path`, or a plain path.

    Args:
        uri: where; credentials never stand in it but in the usual AWS variables, files or instance roles.
        endpoint: URL of an S3-compatible server; default AWS_ENDPOINT_URL_S3, then AWS_ENDPOINT_URL, then AWS itself.

    Raises:
        UserError: for a scheme that is not known or a bucket that is not named.
    """
    return _resolve(uri, endpoint, _PATIENT_ATTEMPTS)


def endpoint_or_default(endpoint: str | None) -> str | None:
    """`endpoint`, or the one that the AWS variables name; None is AWS itself."""
    return endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def absolute(uri: str) -> str:
    """A path as one that means the same in any working directory; a URI as it is."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def probe(uri: str, endpoint: str | None = None) -> Store:
    """`resolve`, after a look that the place can be reached; raises UserError saying what is missing.

    A local directory need not exist (it is made on the first write); a bucket must.
    """
    quick = _resolve(uri, endpoint, _PROBE_ATTEMPTS)
    if not quick._local:
        bucket = quick.root.split("/")[0]
        with Store(quick.filesystem, bucket, f"s3://{bucket}")._explained(""):
            found = quick.filesystem.get_file_info(bucket).type
        if found == pafs.FileType.NotFound:
            raise UserError(f"s3://{bucket}: the bucket does not exist; create it or correct its name.")
        quick.list("plca-access-probe")  # a listing needs rights that the look at the bucket may not
    return resolve(uri, endpoint)


def _resolve(uri: str, endpoint: str | None, attempts: int) -> Store:
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
            raise UserError(f"{uri!r} names a host; write file:///{parts.netloc}{parts.path} with three slashes.")
        path = Path(parts.path if parts.scheme else uri).expanduser().absolute()
        return Store(pafs.LocalFileSystem(), str(path), str(path))
    if parts.scheme != "s3":
        raise UserError(f"{uri!r}: scheme {parts.scheme!r} is unknown; use s3://bucket/prefix, file:///path or a path.")
    if not parts.netloc:
        raise UserError(f"{uri!r} names no bucket; write s3://bucket/prefix.")
    root = (parts.netloc + parts.path).rstrip("/")
    return Store(_s3(endpoint, attempts), root, f"s3://{root}")


def _s3(endpoint: str | None, attempts: int) -> Any:
    endpoint = endpoint_or_default(endpoint)
    options: dict[str, Any] = {}
    if endpoint:
        url = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        options = {"endpoint_override": url.netloc, "scheme": url.scheme}
        # S3-compatible servers can reject the checksums that newer AWS clients add by default.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region or endpoint:
        options["region"] = region or "us-east-1"
    return pafs.S3FileSystem(
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        request_timeout=60,
        connect_timeout=10,
        **options,
    )
