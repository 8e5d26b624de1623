"""Pages as HTML: one jinja2 environment for all templates, and what the templates' shared macros take.

A page is readable on a phone and in the dark, and needs neither scripts nor a network: pictures are data URIs and the
style is inline. So it can be mailed, put in a bucket, or opened from a disk. Every text is escaped by the environment;
no template and no filter marks a text as safe.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True)
class Tile:
    """A large number under its name, with a remark in small letters; `tone` is "up", "down", "even", or ""."""

    name: str
    number: str
    more: str
    tone: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the colour of a chip before it, its tone (see `Tile`), and the columns it spans."""

    text: str
    colour: tuple[int, int, int] | None = None
    tone: str = ""
    columns: int = 1


@dataclass(frozen=True)
class Row:
    """A row of a table; `kind` is its class in the style sheet."""

    cells: Sequence[Cell]
    kind: str = ""

    @classmethod
    def of(cls, texts: Sequence[str], kind: str = "") -> Self:
        return cls([Cell(text) for text in texts], kind)


@dataclass(frozen=True)
class PageTable:
    """A table of a page, with notes below it."""

    head: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()


def render_page(template: str, **values: Any) -> str:
    """The page of a template, named by its path in the package. Raises UndefinedError for a value that is missing."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("plca_dist", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment


def data_uri(png: bytes) -> str:
    """A PNG file as an address that holds all of it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
