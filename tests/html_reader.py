"""Reads a page back: its text, attributes, table rows and pictures."""

import base64
import io
import re
from collections.abc import Iterable
from html.parser import HTMLParser

from PIL import Image

_VOID = {"meta", "img"}
_HOSTILE = """<script>alert("1")</script>'&amp;{{ 7 * 191 }}{% raw %}{# left out #}--><b"""


class Reader(HTMLParser):
    """Text, tags, attributes and rows of a page. Fails where a tag is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def pictures(self) -> list[Image.Image]:
        """The page's pictures, decoded."""
        sources = [value.partition(",")[2] for _, name, value in self.attributes if name == "src"]
        return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def assert_self_contained(text: str) -> None:
    """The page has no script and no address and loads nothing. It has a dark style and a viewport for phones."""
    read = Reader(text)
    links = [(tag, value) for tag, name, value in read.attributes if name in ("src", "href", "srcset", "action")]
    assert {tag for tag, _ in links} <= {"img"}
    assert all(value.startswith("data:image/png;base64,") for _, value in links)
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    assert "prefers-color-scheme: dark" in text
    assert ("meta", "name", "viewport") in read.attributes


def hostile(place: str) -> str:
    """A text with markup of HTML and of templates; `place` names where it stands."""
    return f"{place} {_HOSTILE}"


def assert_escaped(text: str, places: Iterable[str]) -> None:
    """The page shows the hostile text of every place literally; none of it became markup."""
    read = Reader(text)
    shown = [*read.text, *(value for _, name, value in read.attributes if name == "alt")]
    assert [place for place in places if not any(hostile(place) in piece for piece in shown)] == []
    assert not read.tags & {"script", "b"}
    assert "1337" not in "".join(shown)
