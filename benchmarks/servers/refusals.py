"""How the three kinds of object store say that they refuse a request, for servers that never do by themselves."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """An HTTP answer."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


def refusal(kind: str, why: str) -> Refusal:
    """The answer of a store of this kind ("s3", "azure", "gcs").

    Args:
        why: "busy", "denied" (credentials that may not do this), "expired" (credentials that no longer count), or
            "quota" (the store is full).
    """
    status, code, message = _ANSWERS[kind, why]
    if kind == "gcs":
        errors = [{"message": message, "domain": "global", "reason": code}]
        answer = {"error": {"code": status, "message": message, "errors": errors}}
        return Refusal(status, message, [("Content-Type", "application/json")], json.dumps(answer).encode())
    xml = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    headers = [("Content-Type", "application/xml")]
    if kind == "azure":
        headers.append(("x-ms-error-code", code))
    return Refusal(status, message, headers, xml.encode())


#: Status, code and message by kind and why.
_ANSWERS = {
    ("s3", "busy"): (503, "SlowDown", "Please reduce your request rate."),
    ("s3", "denied"): (403, "AccessDenied", "Access Denied"),
    ("s3", "expired"): (400, "ExpiredToken", "The provided token has expired."),
    ("s3", "quota"): (403, "BucketQuotaExceeded", "The bucket is full."),
    ("azure", "busy"): (503, "ServerBusy", "The server is busy."),
    ("azure", "denied"): (
        403,
        "AuthorizationPermissionMismatch",
        "This request is not authorized to perform this operation using this permission.",
    ),
    ("azure", "expired"): (401, "InvalidAuthenticationInfo", "Lifetime validation failed. The token is expired."),
    ("azure", "quota"): (409, "AccountLimitExceeded", "The account has reached its limit."),
    ("gcs", "busy"): (503, "backendError", "We encountered an internal error. Please try again."),
    ("gcs", "denied"): (403, "forbidden", "The caller does not have storage.objects.get access to the object."),
    ("gcs", "expired"): (401, "authError", "Invalid Credentials"),
    ("gcs", "quota"): (403, "quotaExceeded", "The project has exceeded its quota for this operation."),
}
