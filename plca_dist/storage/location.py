"""Places by name, as a person or a recipe writes them, and the stores at these places."""

import importlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from plca_dist.errors import UserError
from plca_dist.storage.cloud_files import CloudFiles
from plca_dist.storage.endpoint import checked
from plca_dist.storage.local_files import LocalFiles
from plca_dist.storage.store import PATIENCE_S, Store

#: Scheme -> module of the cloud, and the extra of this package that brings its libraries.
_CLOUDS = {
    "s3": ("s3", ""),
    "gs": ("gcs", "gcs"),
    "gcs": ("gcs", "gcs"),
    "az": ("azure", "azure"),
    "abfs": ("azure", "azure"),
    "abfss": ("azure", "azure"),
}
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")
#: `container@account.host` of an abfs URI, as Azure's own tools write it.
_ACCOUNT = re.compile(r"([^@]+)@([a-z0-9]+)\.(?:dfs|blob)\.core\.windows\.net")
_USES = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///path or a path"


@dataclass(frozen=True)
class Location:
    """A place by name: plain data that can travel to another process, where a `Store` is opened from it.

    Attributes:
        uri: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` (or `abfs://`, also with
            `container@account.dfs.core.windows.net`), `file:///path`, or a plain path. All of a key means itself, also
            `#`, `?` and `%`. A URI never holds credentials: these are in the cloud's usual variables, files or roles.
        endpoint: URL of an S3-compatible server. None: AWS_ENDPOINT_URL_S3, then AWS_ENDPOINT_URL, then AWS itself.
            Stores of other schemes know their server from variables of their own.
    """

    uri: str
    endpoint: str | None = None

    def with_uri(self, uri: str) -> "Location":
        """Another place on the same server."""
        return replace(self, uri=uri)

    def absolute(self) -> "Location":
        """The same place for a process with another working directory and other AWS variables."""
        return Location(absolute(self.uri), _endpoint_or_default(self.endpoint))


class _Place(NamedTuple):
    """A URI in parts. `bucket` is empty for a local path, which is all in `key`."""

    scheme: str
    bucket: str
    account: str | None
    key: str


def absolute(uri: str) -> str:
    """A path as one that means the same in any working directory; a URI as it is."""
    return uri if "://" in uri else _local_path(uri)


def resolve(location: Location | str, *, patience_s: float = PATIENCE_S) -> Store:
    """The store at a location; nothing is read yet.

    Args:
        location: a string is a URI on the default server.
        patience_s: how long each request is repeated while the store is away.

    Raises:
        UserError: for a scheme that is not known, a bucket that is not named, a library that is not installed.
    """
    location = _located(location)
    place = _parsed(location.uri)
    if location.endpoint:  # also where none is asked: it would stand in the run's recipe
        checked(location.endpoint)
    if not place.bucket:
        return Store(LocalFiles(), place.key, place.key, patience_s=patience_s)
    module, extra = _CLOUDS[place.scheme]
    endpoint = _endpoint_or_default(location.endpoint) if module == "s3" else None
    if endpoint:
        checked(endpoint)
    files = CloudFiles(_cloud(place.scheme, module, extra), endpoint, place.account)
    key = place.key.removesuffix("/")
    root = f"{place.bucket}/{key}" if key else place.bucket
    named = location.uri[: len(location.uri) - len(place.key)].removesuffix("/")
    return Store(files, root, f"{named}/{key}" if key else named, endpoint, patience_s)


def probe(location: Location | str) -> Store:
    """`resolve`, after a look that the place can be reached; raises UserError saying what is missing.

    A local directory need not exist (it is made on the first write); a bucket must.
    """
    store = resolve(location, patience_s=0.0)
    store.patiently("", lambda: store.files.look(store.root))
    return replace(store, patience_s=PATIENCE_S)


def file_at(location: Location | str) -> tuple[Store, str]:
    """The folder of the file at a location, as `probe` gives it, and the file's name in that folder."""
    location = _located(location)
    uri = absolute(location.uri)
    if not _parsed(uri).key.strip("/"):
        raise UserError(f"{uri} names no file.")
    folder, _, name = uri.rpartition("/")
    return probe(location.with_uri(folder or "/")), name


def _located(location: Location | str) -> Location:
    return Location(location) if isinstance(location, str) else location


def _endpoint_or_default(endpoint: str | None) -> str | None:
    return endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _local_path(path: str) -> str:
    if "\0" in path:
        raise UserError(f"{path!r}: a path has no NUL; write it without.")
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:
        raise UserError(f"{path}: there is no such user; write the whole path.") from None


def _parsed(uri: str) -> _Place:
    """The parts of a URI. It is cut by hand: URL parsers take parts of a key for a query or a fragment."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _Place("", "", None, _local_path(uri))
    bucket, _, key = rest.partition("/")
    shown = repr(uri) if "@" not in rest else f"{scheme[:20]}://…"  # what is before an @ may be a password
    if scheme == "file":
        if bucket not in ("", "localhost"):
            raise UserError(f"{shown} names a host; write file:///path with three slashes.")
        return _Place(scheme, "", None, _local_path(f"/{key}"))
    if scheme not in _CLOUDS:
        raise UserError(f"{shown}: scheme {scheme[:20]!r} is unknown; use {_USES}.")
    if not bucket:
        raise UserError(f"{shown} names no bucket; use {_USES}.")
    account = None
    if scheme.startswith("abfs") and (named := _ACCOUNT.fullmatch(bucket)):
        bucket, account = named.groups()
    # A password may have a slash: then the @ is not in what stands for the bucket.
    if "@" in bucket or ("@" in key and not _BUCKET.fullmatch(bucket)):
        raise UserError(
            f"a URI {scheme}://… holds no credentials; leave out all up to the @, and see docs/operations.md."
        )
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"{shown}: {bucket!r} is no name of a bucket; use {_USES}.")
    if {".", ".."} & set(key.split("/")):
        raise UserError(f"{shown}: a key has no '.' and no '..'; write it without.")
    return _Place(scheme, bucket, account, key)


def _cloud(scheme: str, module: str, extra: str) -> Any:
    try:
        return importlib.import_module(f"plca_dist.storage.clouds.{module}")
    except ImportError as error:
        package = f"plca-dist[{extra}]" if extra else "plca-dist"
        raise UserError(
            f"{scheme}:// needs {error.name or error}; install it with: pip install '{package}'."
        ) from error
