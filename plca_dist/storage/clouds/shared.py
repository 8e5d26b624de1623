"""What the clouds' modules share: paths that mean themselves, and the variables that name servers and credentials."""

import os
from typing import Any

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


def variables(prefix: str) -> Variables:
    """The variables of the environment that begin so, as a key of a cache: others make another filesystem."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(prefix)))
