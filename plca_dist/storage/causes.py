"""Why a store did not do what it was asked: kinds of failure, and their meaning for a person."""

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto


class NoBucket(FileNotFoundError):
    """A listing met no bucket. Where nothing lies under a prefix, a listing is empty."""


class CutShort(Exception):
    """An answer that looks whole, and has fewer bytes than the object."""


class Failure(Enum):
    """What went wrong, whatever the cloud calls it."""

    NO_OBJECT = auto()
    NO_BUCKET = auto()
    NO_CREDENTIALS = auto()
    UNKNOWN_KEY = auto()
    WRONG_SECRET = auto()
    EXPIRED = auto()
    DENIED = auto()
    CLOCK = auto()
    REGION = auto()
    QUOTA = auto()
    EXISTS = auto()
    CONFLICT = auto()
    UNCONDITIONAL = auto()
    CERTIFICATE = auto()
    BAD_CERTIFICATE = auto()
    NO_TLS = auto()
    THROTTLED = auto()
    BUSY = auto()
    CUT_SHORT = auto()
    UNREACHABLE = auto()


#: Failures after which asking again may help.
PASSING = {Failure.THROTTLED, Failure.BUSY, Failure.CUT_SHORT, Failure.UNREACHABLE, Failure.CONFLICT}

#: What each failure means. The names in braces are fields of `Words`.
_MEANINGS = {
    Failure.NO_OBJECT: "no such object",
    Failure.NO_BUCKET: "the {bucket} does not exist; create it or correct its name",
    Failure.NO_CREDENTIALS: "there are no credentials; set {credentials}",
    Failure.UNKNOWN_KEY: "the store does not know this access key; check {key}",
    Failure.WRONG_SECRET: "the secret key is wrong; check {secret}",
    Failure.EXPIRED: "the credentials have expired; renew them ({credentials})",
    Failure.DENIED: "access is denied; check the credentials ({credentials}) and what they may do in the {bucket}",
    Failure.CLOCK: "this machine's clock is wrong by minutes; set it",
    Failure.REGION: "the {bucket} lies in another region; set {region}",
    Failure.QUOTA: "the store is full or its quota is used up; make room",
    Failure.EXISTS: "there is such an object already",
    Failure.CONFLICT: "somebody else writes the same object",
    Failure.UNCONDITIONAL: "the store has no create-only-once writes; use one that has",
    Failure.CERTIFICATE: "the server's certificate is of an authority that is not known here; set {authority} to a "
    "file with the authority's certificate",
    Failure.BAD_CERTIFICATE: "the server's certificate does not count; check it, this machine's clock, and the name of "
    "the server in {endpoint}",
    Failure.NO_TLS: "server and client agree on no encryption; check {endpoint}: is it http:// in place of https://?",
    Failure.THROTTLED: "the store asks for fewer requests",
    Failure.BUSY: "the store answers with an error of its own",
    Failure.CUT_SHORT: "the store's answer was cut short",
    Failure.UNREACHABLE: "the endpoint does not answer; check {endpoint}",
}  # fmt: skip

_STATUSES = {
    401: Failure.NO_CREDENTIALS,
    403: Failure.DENIED,
    404: Failure.NO_OBJECT,
    408: Failure.BUSY,
    409: Failure.CONFLICT,
    412: Failure.EXISTS,
    429: Failure.THROTTLED,
    501: Failure.UNCONDITIONAL,
    507: Failure.QUOTA,
}


#: Of codes that no list here has, such as those of S3-compatible stores.
_WORDS = {"quota": Failure.QUOTA, "expired": Failure.EXPIRED, "slowdown": Failure.THROTTLED}
_MESSAGE_LETTERS = 160
#: OpenSSL's numbers (X509_V_ERR_...) of a chain of certificates that ends in none that is trusted.
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21, 27}


@dataclass(frozen=True)
class Words:
    """How a cloud calls things, for `meaning`. Each but `bucket` names settings or variables to set.

    `region` is empty where no answer tells of another region.
    """

    bucket: str
    credentials: str
    key: str
    secret: str
    endpoint: str
    authority: str
    region: str = ""


def meaning(failure: Failure, words: Words) -> str:
    """What a failure means, and its fix, without a full stop."""
    return _MEANINGS[failure].format_map(vars(words))


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it came from, each once, the outermost first."""
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        # botocore and azure keep the error of the transport in attributes of their own.
        inner = (found.__cause__, getattr(found, "kwargs", None), getattr(found, "inner_exception", None))
        for one in (inner[0], inner[1].get("error") if isinstance(inner[1], dict) else None, inner[2]):
            if isinstance(one, BaseException):
                waiting.append(one)
        if found.__context__ is not None and not found.__suppress_context__:
            waiting.append(found.__context__)


def of_answer(
    codes: Mapping[str, Failure], code: str, status: int | None, message: str = ""
) -> tuple[Failure, str] | None:
    """The failure that an answer of a store is, and its code; None: unknown.

    Args:
        codes: the cloud's own, which say more than the HTTP status.
        code: of this answer.
        status: the HTTP status.
        message: of this answer. It is added to the code where that alone does not say why.
    """
    known = codes.get(code) or next((failure for word, failure in _WORDS.items() if word in code.lower()), None)
    found = known or _STATUSES.get(status or 0) or (Failure.BUSY if (status or 0) >= 500 else None)
    if found is None:
        return None
    if not known or found is Failure.DENIED:
        said = " ".join(message.split())[:_MESSAGE_LETTERS].rstrip(". ")
        code = ": ".join(filter(None, (code, said)))
    return found, code


def of_transport(error: BaseException) -> tuple[Failure, str] | None:
    """The failure of a connection, and what is wrong with it; None where the error is another one."""
    import aiohttp  # here: with a local directory nothing needs it

    of_tls: BaseException = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        of_tls = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorSSLError):
        of_tls = error.os_error
    if isinstance(of_tls, ssl.SSLCertVerificationError):
        unknown = of_tls.verify_code in _UNKNOWN_AUTHORITY
        return Failure.CERTIFICATE if unknown else Failure.BAD_CERTIFICATE, of_tls.verify_message.rstrip(".")
    if isinstance(of_tls, ssl.SSLError) and of_tls.reason:
        return Failure.NO_TLS, of_tls.reason
    if isinstance(error, aiohttp.ClientPayloadError | asyncio.IncompleteReadError):
        return Failure.CUT_SHORT, ""
    unreachable = aiohttp.ClientConnectionError | aiohttp.ClientHttpProxyError | ConnectionError | TimeoutError
    if isinstance(error, unreachable):
        return Failure.UNREACHABLE, ""
    return None
