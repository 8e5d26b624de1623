"""What the clouds' modules share: paths that mean themselves, and the variables that name servers and credentials."""

import os
import ssl
from typing import Any

from plca_dist.errors import UserError

Variables = tuple[tuple[str, str], ...]


class PlainPaths:
    """Comes before a filesystem of fsspec: a path is `bucket/key`, and nothing in it a scheme, a version or a query."""

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path

    @classmethod
    def _split_path(cls, path: str, *_: Any, **__: Any) -> tuple[str, str, None]:
        bucket, _slash, key = path.partition("/")
        return bucket, key, None

    def split_path(self, path: str, *_: Any, **__: Any) -> tuple[str, str, None]:
        return self._split_path(path)

    def clear_unfinished(self, path: str, besides: str) -> None:
        """Throw uploads in parts away that nobody completes. Here nothing: the cloud drops them by itself."""


def variables(prefix: str) -> Variables:
    """The variables of the environment that begin so, as a key of a cache: others make another filesystem."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(prefix)))


def authorities(*names: str) -> str | None:
    """The file of certificates that the first of these variables names which is set; None: the system's list.

    Raises:
        UserError: where it is none. Clients would go on without it, or say that the server does not answer.
    """
    for name in names:
        if file := os.environ.get(name):
            try:
                ssl.create_default_context(cafile=file)
            except OSError:  # among them ssl's own
                raise UserError(
                    f"{name}={file} is no file of certificates (PEM) that can be read; correct it."
                ) from None
            return file
    return None
