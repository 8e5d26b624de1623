"""S3, of AWS or of a compatible server, through s3fs; and the meaning of its errors."""

from functools import lru_cache
from typing import Any

import aiohttp
import s3fs
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync

from plca_dist.storage.causes import Failure, Words, chain, of_answer, of_transport
from plca_dist.storage.clouds import limits
from plca_dist.storage.clouds.shared import PlainPaths, Variables, authorities, variables

WORDS = Words(
    bucket="bucket",
    credentials="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, an AWS profile, or a role of this machine",
    key="AWS_ACCESS_KEY_ID",
    secret="AWS_SECRET_ACCESS_KEY",
    region="AWS_REGION",
    endpoint="the endpoint setting or AWS_ENDPOINT_URL",
    authority="AWS_CA_BUNDLE",
)
READ: dict[str, Any] = {"max_concurrency": 1}  # others ask for the size first
PUT: dict[str, Any] = {"chunksize": limits.PART_BYTES, "max_concurrency": limits.PARTS}
ERRORS = (OSError, TimeoutError, boto.BotoCoreError, boto.ClientError, ResponseParserError, aiohttp.ClientError)

_CODES = {
    "NoSuchKey": Failure.NO_OBJECT,
    "NoSuchBucket": Failure.NO_BUCKET,
    "InvalidAccessKeyId": Failure.UNKNOWN_KEY,
    "SignatureDoesNotMatch": Failure.WRONG_SECRET,
    "ExpiredToken": Failure.EXPIRED,
    "ExpiredTokenException": Failure.EXPIRED,
    "InvalidToken": Failure.EXPIRED,
    "TokenRefreshRequired": Failure.EXPIRED,
    "AccessDenied": Failure.DENIED,
    "AllAccessDisabled": Failure.DENIED,
    "AccountProblem": Failure.DENIED,
    "RequestTimeTooSkewed": Failure.CLOCK,
    "PermanentRedirect": Failure.REGION,
    "301": Failure.REGION,
    "AuthorizationHeaderMalformed": Failure.REGION,
    "IllegalLocationConstraintException": Failure.REGION,
    "QuotaExceeded": Failure.QUOTA,
    "StorageFull": Failure.QUOTA,
    "XMinioStorageFull": Failure.QUOTA,
    "XMinioAdminBucketQuotaExceeded": Failure.QUOTA,
    "PreconditionFailed": Failure.EXISTS,
    "ConditionalRequestConflict": Failure.CONFLICT,
    "OperationAborted": Failure.CONFLICT,
    "NotImplemented": Failure.UNCONDITIONAL,
    "SlowDown": Failure.THROTTLED,
    "Throttling": Failure.THROTTLED,
    "ThrottlingException": Failure.THROTTLED,
    "RequestLimitExceeded": Failure.THROTTLED,
    "TooManyRequests": Failure.THROTTLED,
    "InternalError": Failure.BUSY,
    "ServiceUnavailable": Failure.BUSY,
    "RequestTimeout": Failure.BUSY,
    "IncompleteBody": Failure.CUT_SHORT,
}


class S3(PlainPaths, s3fs.S3FileSystem):
    """s3fs where only botocore tries again."""

    retries = 1

    def unfinished(self, path: str) -> list[tuple[str, str]]:
        """Paths and ids of uploads below `path`. S3 keeps, and bills, their parts until somebody aborts them."""
        bucket, key, _ = self.split_path(path)
        found: list[tuple[str, str]] = []
        after: dict[str, str] = {}
        while True:
            page = self._ask("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/", **after)
            found += [(f"{bucket}/{one['Key']}", one["UploadId"]) for one in page.get("Uploads", ())]
            if not page.get("IsTruncated"):
                return found
            after = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def clear_unfinished(self, path: str, besides: str) -> None:
        for unfinished, upload in self.unfinished(path):
            if not unfinished.startswith(f"{besides}/"):
                bucket, key, _ = self.split_path(unfinished)
                self._ask("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)

    def _ask(self, method: str, **named: Any) -> Any:
        return sync(self.loop, self._call_s3, method, **named)


def filesystem(endpoint: str | None, account: str | None) -> Any:
    """The filesystem at `endpoint` (None: AWS itself), shared by all of this process that ask for the same."""
    return _filesystem(endpoint, authorities("AWS_CA_BUNDLE", "SSL_CERT_FILE"), variables("AWS_"))


def failure(error: BaseException) -> tuple[Failure, str] | None:
    if isinstance(error, boto.ClientError):
        said = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code, message = str(said.get("Code", "")), str(said.get("Message", ""))
        # The answer to a HEAD has no body; botocore takes the status and its name for both.
        return of_answer(_CODES, code, status, "" if code.isdigit() else message)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.ProfileNotFound):
        return Failure.NO_CREDENTIALS, ""
    if isinstance(error, boto.TokenRetrievalError | boto.SSOError | boto.CredentialRetrievalError):
        return Failure.EXPIRED, ""
    if isinstance(error, boto.IncompleteReadError | ResponseParserError):
        return Failure.CUT_SHORT, ""
    if isinstance(error, boto.ConnectionError | boto.HTTPClientError) and not _by_transport(error):
        return Failure.UNREACHABLE, ""
    return None


def _by_transport(error: BaseException) -> bool:
    """Whether an error within this one says more: of a certificate, or of an answer that was cut short."""
    return any(found[0] is not Failure.UNREACHABLE for one in chain(error) if (found := of_transport(one)))


@lru_cache(maxsize=32)
def _filesystem(endpoint: str | None, authority: str | None, environment: Variables) -> Any:
    """`environment`: the variables that AWS clients read."""
    named = dict(environment)
    client: dict[str, Any] = {}
    region = named.get("AWS_REGION") or named.get("AWS_DEFAULT_REGION")
    if region or endpoint:
        client["region_name"] = region or "us-east-1"
    if authority:
        client["verify"] = authority
    # S3-compatible servers can reject the checksums that newer AWS clients add by default.
    checksums = "when_required" if endpoint else "when_supported"
    return S3(
        endpoint_url=endpoint,
        use_listings_cache=False,
        skip_instance_cache=True,
        default_block_size=limits.PART_BYTES,
        max_concurrency=limits.PARTS,
        client_kwargs=client,
        config_kwargs={
            "retries": {"mode": "standard", "total_max_attempts": limits.TRIES},
            "connect_timeout": limits.CONNECT_S,
            "read_timeout": limits.ANSWER_S,
            "max_pool_connections": 32,
            "request_checksum_calculation": checksums,
            "response_checksum_validation": checksums,
            **({"s3": {"addressing_style": "path"}} if endpoint else {}),
        },
    )
