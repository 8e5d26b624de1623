"""Places by name, as a person or a recipe writes them, and the stores at these places."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import fs as pafs

from plca_dist.errors import UserError
from plca_dist.storage import s3
from plca_dist.storage.store import Store

#: Rides out about a minute and a half of refusals from a busy store.
_PATIENT_ATTEMPTS = 10
#: Fewer where `Store.patience_s` is set: then the store itself tries again, and logs that it waits.
_OUTAGE_ATTEMPTS = 3
#: For the first look at a store, where a typing error is likelier than an outage.
_PROBE_ATTEMPTS = 2


@dataclass(frozen=True)
class Location:
    """A place by name: plain data that can travel to another process, where a `Store` is opened from it.

    Attributes:
        uri: `s3://bucket/prefix`, `file:///path`, or a plain path. It never holds credentials: these are in the usual
            AWS variables, files or instance roles.
        endpoint: URL of an S3-compatible server. None: AWS_ENDPOINT_URL_S3, then AWS_ENDPOINT_URL, then AWS itself.
    """

    uri: str
    endpoint: str | None = None

    def with_uri(self, uri: str) -> "Location":
        """Another place on the same server."""
        return replace(self, uri=uri)

    def absolute(self) -> "Location":
        """The same place for a process with another working directory and other AWS variables."""
        return Location(absolute(self.uri), _endpoint_or_default(self.endpoint))


def absolute(uri: str) -> str:
    """A path as one that means the same in any working directory; a URI as it is."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def resolve(location: Location | str, *, patience_s: float = 0.0) -> Store:
    """The store at a location; nothing is read yet.

    Args:
        location: a string is a URI on the default server.
        patience_s: how long reads outlast an outage of the store, beyond the minute and a half of a single call.

    Raises:
        UserError: for a scheme that is not known or a bucket that is not named.
    """
    store = _resolve(location, _OUTAGE_ATTEMPTS if patience_s else _PATIENT_ATTEMPTS)
    return replace(store, patience_s=patience_s)


def probe(location: Location | str) -> Store:
    """`resolve`, after a look that the place can be reached; raises UserError saying what is missing.

    A local directory need not exist (it is made on the first write); a bucket must.
    """
    quick = _resolve(location, _PROBE_ATTEMPTS)
    if not quick.local:
        bucket = quick.root.split("/")[0]
        if not replace(quick, root=bucket, uri=f"s3://{bucket}").is_directory():
            raise UserError(f"s3://{bucket}: the bucket does not exist; create it or correct its name.")
        quick.list("plca-access-probe")  # a listing needs rights that the look at the bucket may not
    return resolve(location)


def file_at(location: Location | str) -> tuple[Store, str]:
    """The folder of the file at a location, as `probe` gives it, and the file's name in that folder."""
    location = _located(location)
    folder, _, name = absolute(location.uri).rpartition("/")
    return probe(location.with_uri(folder or "/")), name


def _located(location: Location | str) -> Location:
    return Location(location) if isinstance(location, str) else location


def _endpoint_or_default(endpoint: str | None) -> str | None:
    return endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _resolve(location: Location | str, attempts: int) -> Store:
    location = _located(location)
    uri = location.uri
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
    endpoint = _endpoint_or_default(location.endpoint)
    filesystem = s3.filesystem(endpoint, attempts=attempts, request_timeout=20 if attempts == _OUTAGE_ATTEMPTS else 60)
    return Store(filesystem, root, f"s3://{root}", endpoint)
