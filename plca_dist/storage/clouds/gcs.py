"""Google Cloud Storage through gcsfs, and the meaning of its errors."""

import os
import re
from functools import lru_cache
from json import JSONDecodeError
from typing import Any

import aiohttp
import google.auth.exceptions
import requests
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError, retry_request

from plca_dist.errors import UserError, first_line
from plca_dist.storage.causes import Failure, Words, meaning, of_answer
from plca_dist.storage.clouds import limits
from plca_dist.storage.clouds.shared import PlainPaths, authorities
from plca_dist.storage.endpoint import checked

WORDS = Words(
    bucket="bucket",
    credentials="GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or a service account of this "
    "machine",
    key="GOOGLE_APPLICATION_CREDENTIALS",
    secret="GOOGLE_APPLICATION_CREDENTIALS",
    endpoint="the network, and STORAGE_EMULATOR_HOST if it is set",
    authority="SSL_CERT_FILE",
)
READ: dict[str, Any] = {}
PUT: dict[str, Any] = {"chunksize": limits.PART_BYTES}
ERRORS = (
    OSError, TimeoutError, HttpError, JSONDecodeError, aiohttp.ClientError, google.auth.exceptions.GoogleAuthError,
)  # fmt: skip


async def _request(self: GCSFileSystem, *args: Any, **options: Any) -> Any:
    """A request of gcsfs, whose error for a refused one may be a ValueError, which bugs have too."""
    try:
        return await GCSFileSystem._request.__wrapped__(self, *args, **options)
    except ValueError as error:
        if str(error).startswith("Bad Request: "):
            raise HttpError({"code": 400, "message": str(error).partition("\n")[2]}) from error
        raise


class GCS(PlainPaths, GCSFileSystem):
    """gcsfs where a request is tried fewer times, and a question about an object is one request."""

    _request = retry_request(retries=limits.TRIES)(_request)
    _get_file_request = retry_request(retries=limits.TRIES)(GCSFileSystem._get_file_request.__wrapped__)
    _get_file_concurrent = GCSFileSystem._get_file_concurrent.__wrapped__  # all that it calls tries again by itself

    async def _info(self, path: str, generation: str | None = None, **options: Any) -> Any:
        """gcsfs asks for the object, for its directory and for the object once more, all at once."""
        bucket, key, _ = self.split_path(path)
        if not key:
            return await super()._info(path, generation, **options)
        try:
            return await self._get_object(path)
        except FileNotFoundError:
            return await self._get_directory_info(path, bucket, key, generation)


def filesystem(endpoint: str | None, account: str | None) -> Any:
    """The filesystem, shared by all of this process that ask for the same. It has no use for the arguments.

    Raises:
        UserError: where no credentials are found.
    """
    authorities("SSL_CERT_FILE")
    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
        checked(emulator if "://" in emulator else f"http://{emulator}")
    try:
        return _filesystem(os.environ.get("STORAGE_EMULATOR_HOST"), os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"))
    except google.auth.exceptions.GoogleAuthError as error:
        raise UserError(f"gs://: {meaning(Failure.NO_CREDENTIALS, WORDS)} ({first_line(error)}).") from error
    except ValueError as error:  # settings of gcsfs's own that contradict each other
        raise UserError(f"gs://: {first_line(error)}.") from error


def failure(error: BaseException) -> tuple[Failure, str] | None:
    if isinstance(error, HttpError):
        code, message = str(error.code), str(error.message)
        if code == "401" and "Invalid Credentials" in message:
            return Failure.EXPIRED, code
        return of_answer({}, code, int(code) if code.isdigit() else None, message)
    if isinstance(error, JSONDecodeError):  # the answer is about objects, not of one
        return Failure.CUT_SHORT, ""
    if isinstance(error, google.auth.exceptions.DefaultCredentialsError):
        return Failure.NO_CREDENTIALS, ""
    if isinstance(error, google.auth.exceptions.RefreshError):
        return Failure.EXPIRED, ""
    if isinstance(error, google.auth.exceptions.TransportError | requests.exceptions.ProxyError):
        return Failure.UNREACHABLE, ""
    if type(error) is OSError and error.errno is None:  # gcsfs's error for status 403, and for nothing else
        message = str(error).partition("\n")[2]
        return of_answer({}, "quota" if re.search(r"\bquota\b", message, re.IGNORECASE) else "", 403, message)
    return None


@lru_cache(maxsize=8)
def _filesystem(emulator: str | None, credentials: str | None) -> Any:
    """Both are variables that gcsfs or google.auth read. Others make another filesystem."""
    # Without a name gcsfs tries one way after the other and ends as a stranger, who is then refused without a reason.
    return GCS(
        token="anon" if emulator else "google_default",
        use_listings_cache=False,
        skip_instance_cache=True,
        session_kwargs={"trust_env": True},
        requests_timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.CONNECT_S, sock_read=limits.ANSWER_S),
    )
