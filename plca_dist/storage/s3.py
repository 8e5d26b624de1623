"""S3 through pyarrow and botocore, and the meaning of their errors.

Retries are set explicitly, because pyarrow's default gives up on a busy store after two seconds.
"""

import os
import time
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs as pafs

#: Part of a message of arrow or botocore -> its meaning for a person.
CAUSES = (
    ("NO_SUCH_BUCKET", "the bucket does not exist; create it or correct its name"),
    ("NoSuchBucket", "the bucket does not exist; create it or correct its name"),
    ("NO_SUCH_KEY", "no such object"),
    ("RESOURCE_NOT_FOUND", "no such object"),
    ("INVALID_ACCESS_KEY_ID", "the store does not know this access key; check AWS_ACCESS_KEY_ID"),
    ("InvalidAccessKeyId", "the store does not know this access key; check AWS_ACCESS_KEY_ID"),
    ("SIGNATURE_DOES_NOT_MATCH", "the secret key is wrong; check AWS_SECRET_ACCESS_KEY"),
    ("SignatureDoesNotMatch", "the secret key is wrong; check AWS_SECRET_ACCESS_KEY"),
    ("ACCESS_DENIED", "access is denied; check the AWS credentials and the bucket's policy"),
    ("AccessDenied", "access is denied; check the AWS credentials and the bucket's policy"),
    ("Forbidden", "access is denied; check the AWS credentials and the bucket's policy"),
    ("HTTP status 403", "access is denied; check the AWS credentials and the bucket's policy"),
    ("Unable to locate credentials", "there are no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ("NotImplemented", "the store has no create-only-once writes (If-None-Match: *); use one that has"),
    ("NETWORK_CONNECTION", "the endpoint does not answer; check the endpoint setting or AWS_ENDPOINT_URL"),
    ("curlCode", "the endpoint does not answer; check the endpoint setting or AWS_ENDPOINT_URL"),
    ("Could not connect", "the endpoint does not answer; check the endpoint setting or AWS_ENDPOINT_URL"),
)  # fmt: skip
#: Parts of messages after which asking again may help.
_PASSING = (
    "NETWORK_CONNECTION", "curlCode", "SLOW_DOWN", "SlowDown", "THROTTLING", "Throttling", "REQUEST_TIMEOUT",
    "RequestTimeout", "SERVICE_UNAVAILABLE", "ServiceUnavailable", "INTERNAL_FAILURE", "InternalError",
    "HTTP status 5", "HTTP status 408", "HTTP status 429", "Could not connect", "Connection was closed", "timeout on",
)  # fmt: skip
_CONFLICTS = 5


def passing(message: str) -> bool:
    """Whether an error with this message may pass: the store is busy or away, and the request is sound."""
    return any(mark in message for mark in _PASSING)


def own_error(message: str) -> bool:
    """Whether arrow has this message from S3 itself."""
    return "AWS Error" in message


def cause(message: str) -> str | None:
    """The meaning of an error's message for a person; None: unknown."""
    return next((meaning for mark, meaning in CAUSES if mark in message), None)


def filesystem(endpoint: str | None, *, attempts: int, request_timeout: float) -> Any:
    """The S3 filesystem at `endpoint` (None: AWS itself); `request_timeout` seconds without a byte end a request."""
    options: dict[str, Any] = {}
    if endpoint:
        url = urlsplit(_with_scheme(endpoint))
        options = {"endpoint_override": url.netloc, "scheme": url.scheme}
        # S3-compatible servers can reject the checksums that newer AWS clients add by default.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    region = _region()
    if region or endpoint:
        options["region"] = region or "us-east-1"
    return pafs.S3FileSystem(
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        request_timeout=request_timeout,
        connect_timeout=10,
        **options,
    )


def create(endpoint: str | None, path: str, data: bytes, *, attempts: int) -> bool:
    """Put the object `bucket/key` unless there is one. True where this call, or an earlier try of it, put it.

    Arrow has no conditional writes, so this one request goes through botocore. Raises OSError as arrow does.
    """
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import get_session

    client = get_session().create_client(
        "s3",
        endpoint_url=_with_scheme(endpoint) if endpoint else None,
        region_name=_region() or "us-east-1",
        config=Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=10,
            read_timeout=60,
            request_checksum_calculation="when_required",
            s3={"addressing_style": "path"} if endpoint else None,
        ),
    )
    bucket, _, key = path.partition("/")
    try:
        for _ in range(_CONFLICTS):
            try:
                client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
                return True
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 409:  # another writer is writing it, and may fail
                    time.sleep(0.2)
                elif status == 412:
                    # Where the answer to the first try was lost, the second try meets its own object.
                    return client.get_object(Bucket=bucket, Key=key)["Body"].read() == data
                else:
                    raise
        return False
    except (BotoCoreError, ClientError) as error:
        raise OSError(str(error)) from error
    finally:
        client.close()


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _with_scheme(endpoint: str) -> str:
    return endpoint if "://" in endpoint else f"https://{endpoint}"
