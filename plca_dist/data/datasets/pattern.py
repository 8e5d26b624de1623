"""Patterns of paths, in which stars stand for text that an image and its label have in common.

`*` stands for text within one name, `**/` for any folders, also none. The text of an image's stars, put into the stars
of the labels' pattern, is the path of its label.
"""

import re
import unicodedata
from collections.abc import Sequence

from plca_dist.errors import UserError

#: Where the images of a folder lie, and their labels, unless it is said.
IMAGES, LABELS = "images/**/*", "labels/**/*"

_STAR = re.compile(r"\*\*/|\*\*|\*")


class Pattern:
    """A pattern of paths from the root, with slashes. One that ends with a star stands for any of `suffixes` there.

    Raises UserError for a pattern that is none; `option` names it.
    """

    def __init__(self, text: str, suffixes: Sequence[str], option: str) -> None:
        self.text, self.option = text, option
        self.stars = _STAR.findall(text)
        if text.startswith("/") or ".." in text.split("/") or not text.strip("/"):
            raise UserError(f"{option} {text!r}: give a path below --root, such as images/*.png.")
        if not self.stars:
            raise UserError(f"{option} {text!r}: it names one file; put * where names differ.")
        if "**" in [star for star in self.stars if star == "**"]:
            raise UserError(f"{option} {text!r}: ** stands for folders; write **/ before the name.")
        self.any_suffix = text.endswith("*")
        ending = "(?i:" + "|".join(map(re.escape, suffixes)) + ")" if self.any_suffix else ""
        literal = _STAR.split(text)
        stem, dot, suffix = literal[-1].rpartition(".")
        last = f"{re.escape(stem)}(?i:{re.escape(dot + suffix)})" if dot else re.escape(literal[-1])
        parts = [*map(re.escape, literal[:-1]), last]
        groups = [r"((?:[^/]+/)*)" if star == "**/" else r"([^/]*)" for star in self.stars]
        mixed = "".join(part + group for part, group in zip(parts, [*groups, ""], strict=True))
        self._regex = re.compile(mixed + ending, re.DOTALL)

    @property
    def folder(self) -> str:
        """The folder before the first star, which all paths have."""
        return self.text[: self.text.index("*")].rpartition("/")[0]

    def match(self, path: str) -> tuple[str, ...] | None:
        """The text of the stars, or None for another path."""
        found = self._regex.fullmatch(path)
        return found.groups() if found else None

    def fill(self, stars: Sequence[str]) -> str:
        """The path with this text for its stars; without its ending where the pattern has none."""
        texts = iter(stars)
        return _STAR.sub(lambda _: next(texts), self.text)


def id_of(stars: Sequence[str]) -> str:
    """The text of all stars, as folders and name."""
    return "/".join(filter(None, (star.strip("/") for star in stars)))


def key(path: str, *, with_suffix: bool = True) -> str:
    """Equal for paths that differ in Unicode's normal form or in the case of the ending alone."""
    stem, dot, suffix = path.rpartition(".")
    if not dot or "/" in suffix:
        stem, suffix = path, ""
    return unicodedata.normalize("NFC", f"{stem}{dot}{suffix.lower()}" if with_suffix else stem)
