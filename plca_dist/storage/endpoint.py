"""URLs of S3 servers, as a person writes them. Nothing of one that may be a password is repeated."""

import re
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from plca_dist.errors import UserError

_USE = "write https://host or http://host:port"
#: What comes before a path, a query or a fragment.
_SERVER = re.compile(r"(\w+://)?[^/?#]*")
_HOST = re.compile(r"((?!-)[a-z0-9-]{1,63}(?<!-)\.)*(?!-)[a-z0-9-]{1,63}(?<!-)\.?", re.IGNORECASE)


def checked(endpoint: str) -> str:
    """The URL of a server, as it is.

    Raises:
        UserError: for one with credentials, a path, a query or a fragment, or that is no URL of a server.
    """
    # Before it is parsed: to a parser a password with / # or ? ends the server's name.
    if "@" in endpoint:
        raise UserError(
            "the endpoint holds credentials (there is an @ in it); leave out all up to the @, and put them where "
            "docs/operations.md says."
        )
    shown = _SERVER.match(endpoint)[0]  # type: ignore[index]
    try:
        url = urlsplit(endpoint)
        host, _ = url.hostname or "", url.port
    except ValueError:
        raise UserError(f"endpoint {shown!r} is no URL; {_USE}.") from None
    if url.scheme not in ("http", "https") or not endpoint.isprintable() or " " in endpoint or not _named(host):
        raise UserError(f"endpoint {shown!r} is no URL of a server; {_USE}.")
    if url.path not in ("", "/") or "?" in endpoint or "#" in endpoint:
        raise UserError(f"the endpoint has a path; write {url.scheme}://{url.netloc}, and paths into URIs.")
    return endpoint


def _named(host: str) -> bool:
    if ":" not in host:
        return len(host) < 256 and _HOST.fullmatch(host) is not None
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True
