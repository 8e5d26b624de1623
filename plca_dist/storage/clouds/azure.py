"""Azure's blobs through adlfs, and the meaning of their errors."""

import re
from functools import lru_cache
from typing import Any

import aiohttp
from adlfs import AzureBlobFileSystem
from azure.core import exceptions as az
from fsspec.asyn import sync_wrapper

from plca_dist.errors import UserError
from plca_dist.storage.causes import Failure, Words, of_answer
from plca_dist.storage.clouds import limits
from plca_dist.storage.clouds.shared import PlainPaths, Variables, authorities, variables

_VARIABLES = "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME"
WORDS = Words(
    bucket="container",
    credentials=f"{_VARIABLES} with AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, `az login` or an identity of "
    "this machine",
    key="AZURE_STORAGE_ACCOUNT_NAME",
    secret="AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    endpoint=_VARIABLES,
    authority="SSL_CERT_FILE",
)
READ: dict[str, Any] = {}
PUT: dict[str, Any] = {}
ERRORS = (OSError, TimeoutError, az.AzureError, aiohttp.ClientError)

_CODES = {
    "BlobNotFound": Failure.NO_OBJECT,
    "ContainerNotFound": Failure.NO_BUCKET,
    "ContainerBeingDeleted": Failure.NO_BUCKET,
    "NoAuthenticationInformation": Failure.NO_CREDENTIALS,
    "PublicAccessNotPermitted": Failure.NO_CREDENTIALS,
    "AuthenticationFailed": Failure.WRONG_SECRET,
    "InvalidAuthenticationInfo": Failure.EXPIRED,
    "AuthorizationFailure": Failure.DENIED,
    "AuthorizationPermissionMismatch": Failure.DENIED,
    "AuthorizationResourceTypeMismatch": Failure.DENIED,
    "AuthorizationServiceMismatch": Failure.DENIED,
    "AuthorizationProtocolMismatch": Failure.DENIED,
    "AuthorizationSourceIPMismatch": Failure.DENIED,
    "InsufficientAccountPermissions": Failure.DENIED,
    "AccountIsDisabled": Failure.DENIED,
    "AccountLimitExceeded": Failure.QUOTA,
    "ServerBusy": Failure.THROTTLED,
    "OperationTimedOut": Failure.BUSY,
    "InternalError": Failure.BUSY,
}


#: In what Azure says about a signature or a token whose time is over.
_TOO_LATE = re.compile(r"not valid in the specified time frame|expired", re.IGNORECASE)


class Azure(PlainPaths, AzureBlobFileSystem):
    """adlfs where a request is tried fewer times, and a missing container is no empty one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # adlfs has no settings for it. All clients below this one share the policy, which would wait 15 s at first.
        policy = self.service_client._config.retry_policy
        policy.total_retries, policy.initial_backoff, policy.random_jitter_range = limits.TRIES - 1, 1, 1

    async def _find(self, path: str, **_: Any) -> dict[str, dict[str, Any]]:
        """All objects below a path. That of adlfs takes a missing container for an empty one, and asks twice."""
        container, key, _version = self.split_path(path)
        async with self.service_client.get_container_client(container) as client:
            try:
                blobs = client.list_blobs(name_starts_with=f"{key}/" if key else None, include=["metadata"])
                return {
                    f"{container}/{blob.name}": {"type": "file", "size": blob.size}
                    async for blob in blobs
                    if "true" not in [v for k, v in (blob.metadata or {}).items() if k.lower() == "hdi_isfolder"]
                }
            except az.ResourceNotFoundError as error:
                raise FileNotFoundError(container) from error

    find = sync_wrapper(_find)


def filesystem(endpoint: str | None, account: str | None) -> Any:
    """The filesystem of an account, shared by all of this process that ask for the same.

    Args:
        endpoint: for S3 alone.
        account: the account that the URI names; None: the one of the environment.

    Raises:
        UserError: where no account is named, or two.
    """
    authorities("SSL_CERT_FILE")
    found = _filesystem(account, variables("AZURE_"))
    if account and found.service_client.account_name != account:
        raise UserError(
            f"the URI names the account {account}, AZURE_STORAGE_CONNECTION_STRING another; name the same account."
        )
    return found


def failure(error: BaseException) -> tuple[Failure, str] | None:
    if isinstance(error, az.DecodeError):
        return Failure.CUT_SHORT, ""
    if isinstance(error, az.HttpResponseError):
        code = getattr(error, "error_code", None)
        code = str(getattr(code, "value", code) or "")
        if isinstance(error, az.ClientAuthenticationError) and error.status_code is None:
            return Failure.NO_CREDENTIALS, ""  # none of azure.identity's ways led to a token
        if code == "AuthenticationFailed" and _TOO_LATE.search(str(error)):
            return Failure.EXPIRED, code
        return of_answer(_CODES, code, error.status_code, str(error.reason or ""))
    if isinstance(error, az.IncompleteReadError):
        return Failure.CUT_SHORT, ""
    return None


@lru_cache(maxsize=8)
def _filesystem(account: str | None, environment: Variables) -> Any:
    """`environment`: the variables that adlfs and azure.identity read."""
    named = dict(environment)
    if not (account or named.get("AZURE_STORAGE_ACCOUNT_NAME") or named.get("AZURE_STORAGE_CONNECTION_STRING")):
        raise UserError(f"there is no Azure account; set {WORDS.credentials}.")
    try:
        return Azure(
            account_name=account,
            use_listings_cache=False,
            skip_instance_cache=True,
            blocksize=limits.PART_BYTES,
            max_concurrency=limits.PARTS,
            connection_timeout=limits.CONNECT_S,
            read_timeout=limits.ANSWER_S,
        )
    except ValueError:  # its text may repeat the key
        raise UserError(
            "AZURE_STORAGE_CONNECTION_STRING or the account's key is no such thing; copy it again from the account."
        ) from None
