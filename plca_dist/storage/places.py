"""URI -> `Store`: what a person or a recipe writes for a place, and a first look at it."""

import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import fs as pafs

from plca_dist.errors import UserError
from plca_dist.storage import s3
from plca_dist.storage.store import Store

#: Rides out about a minute and a half of refusals from a busy store.
_PATIENT_ATTEMPTS = 10
#: Where the store's own patience asks again, and says that it does.
_OUTAGE_ATTEMPTS = 3
#: For the first look at a store, where a typing error is likelier than an outage.
_PROBE_ATTEMPTS = 2


def resolve(uri: str, endpoint: str | None = None, *, patience_s: float = 0.0) -> Store:
    """The store at `uri`: `s3://bucket/prefix`, `file:///path`, or a plain path.

    Args:
        uri: where; credentials never stand in it but in the usual AWS variables, files or instance roles.
        endpoint: URL of an S3-compatible server; default AWS_ENDPOINT_URL_S3, then AWS_ENDPOINT_URL, then AWS itself.
        patience_s: how long reads outlast an outage of the store, beyond the minute and a half of a single call.

    Raises:
        UserError: for a scheme that is not known or a bucket that is not named.
    """
    store = _resolve(uri, endpoint, _OUTAGE_ATTEMPTS if patience_s else _PATIENT_ATTEMPTS)
    return replace(store, patience_s=patience_s)


def endpoint_or_default(endpoint: str | None) -> str | None:
    """`endpoint`, or the one that the AWS variables name; None is AWS itself."""
    return endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def absolute(uri: str) -> str:
    """A path as one that means the same in any working directory; a URI as it is."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def file_at(uri: str, endpoint: str | None = None) -> tuple[Store, str]:
    """The folder that the file at `uri` lies in, as `probe` gives it, and the file's name there."""
    folder, _, name = absolute(uri).rpartition("/")
    return probe(folder or "/", endpoint), name


def probe(uri: str, endpoint: str | None = None) -> Store:
    """`resolve`, after a look that the place can be reached; raises UserError saying what is missing.

    A local directory need not exist (it is made on the first write); a bucket must.
    """
    quick = _resolve(uri, endpoint, _PROBE_ATTEMPTS)
    if not quick.local:
        bucket = quick.root.split("/")[0]
        if not replace(quick, root=bucket, uri=f"s3://{bucket}").is_directory():
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
    endpoint = endpoint_or_default(endpoint)
    filesystem = s3.filesystem(endpoint, attempts=attempts, request_timeout=20 if attempts == _OUTAGE_ATTEMPTS else 60)
    return Store(filesystem, root, f"s3://{root}", endpoint)
