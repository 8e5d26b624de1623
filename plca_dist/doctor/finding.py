"""The result of one check, and what the checks share."""

from pathlib import Path
from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that was checked (`what`), whether it is good, and why, with the fix where it is not."""

    what: str
    good: bool
    detail: str


def first_missing(path: Path) -> Path | None:
    """The outermost directory that writing into `path` would make."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    return missing[-1] if missing else None
