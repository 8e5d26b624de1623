"""Where bytes and text become structure: UTF-8, JSON and YAML, each within bounds.

Whatever is wrong with them is one error, `Unreadable`, which names the file. Other modules decode and parse nothing.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from plca_dist.errors import UserError

T = TypeVar("T")
#: Nested lists and mappings. Files of this project have up to 6.
DEPTH = 32
#: Values of a settings file with its aliases written out, and its bytes.
VALUES = 10_000
TEXT_BYTES = 1 << 20

#: What bytes that are not as expected raise, in a parser and in a function that takes their structure apart.
MISFITS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Loads safe YAML. libyaml's loader is several times as fast, and `plca recipes` reads ten files.

    `1e-4` is a number, as in YAML 1.2 and in Python; to YAML 1.1 it is text, for want of a point.
    """


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


class Unreadable(UserError):
    """A file whose content is not what its name says."""


class Readable(Protocol):
    """As much of a `storage.Store` as reading takes."""

    @property
    def uri(self) -> str: ...
    def read(self, name: str) -> bytes: ...


def read_text(store: Readable, name: str) -> str:
    """An object as text. Raises Unreadable where it is not in UTF-8."""
    return to_text(store.read(name), f"{store.uri}/{name}")


def read_json(store: Readable, name: str, take: Callable[[Any], T], fix: str) -> T:
    """What `take` makes of an object in JSON.

    Args:
        take: may raise any of the usual exceptions for a structure that it does not expect.
        fix: what a person can do about a damaged file.

    Raises:
        Unreadable: the object is no JSON, nested too deeply, or not as `take` expects it.
    """
    return json_as(store.read(name), take, f"{store.uri}/{name}", fix)


def json_as(data: bytes | str, take: Callable[[Any], T], where: str, fix: str) -> T:
    """`read_json` of bytes; `where` names them in errors."""
    try:
        return take(from_json(data))
    except MISFITS as error:
        raise Unreadable(f"{where} is damaged ({_reason(error)}); {fix}.") from error


def lines_as(data: bytes, take: Callable[[Any], T], where: str, fix: str) -> list[T]:
    """`json_as` for each line of a file."""
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise Unreadable(f"{where} is damaged ({_reason(error)}); {fix}.") from error
    return [json_as(line, take, f"line {number} of {where}", fix) for number, line in enumerate(lines, 1)]


def from_json(data: bytes | str) -> Any:
    """Raises ValueError or RecursionError for what is no JSON in UTF-8, or is nested too deeply."""
    tree = json.loads(data if isinstance(data, str) else data.decode())
    level = [tree]
    for _ in range(DEPTH + 1):
        below = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [v for values in below for v in values if isinstance(v, dict | list)]
        if not level:
            return tree
    raise ValueError(f"it is nested deeper than {DEPTH}")


def settings_text(path: Path, what: str) -> str:
    """The text of a local settings file; `what` names it in errors. Raises UserError for any other file."""
    try:
        with path.open("rb") as file:
            return to_text(file.read(TEXT_BYTES + 1), what)
    except OSError as error:
        raise UserError(f"{what} is no readable text file ({error.strerror or error}).") from error


def to_text(data: bytes, where: str) -> str:
    """Raises Unreadable for bytes that are not UTF-8, and for more than any settings file has."""
    if len(data) > TEXT_BYTES:
        raise Unreadable(f"{where} is no settings file: it has more than {TEXT_BYTES} bytes.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"{where} is no readable text file: it is not in UTF-8 ({error.reason}).") from error


def from_yaml(text: str, where: str) -> Any:
    """The tree in YAML text. Raises Unreadable for bad YAML, deep nesting, and aliases that stand for too much."""
    try:
        _bound(text)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, *MISFITS) as error:
        raise Unreadable(f"{where}: not valid YAML: {_reason(error)}") from error


def _bound(text: str) -> None:
    """Raises ValueError for more depth or values than a settings file has, and for a key that is given twice.

    Nothing is built meanwhile.
    """
    if len(text) > TEXT_BYTES:
        raise ValueError(f"it has more than {TEXT_BYTES} characters")
    sizes: dict[str, int] = {}  # of what an alias stands for
    open_: list[_Open] = []
    values = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.NodeEvent) and open_:
            open_[-1].take(event)
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append(_Open(event.anchor, values, isinstance(event, yaml.MappingStartEvent)))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = open_.pop()
            if closed.anchor:
                sizes[closed.anchor] = values - closed.before
        elif isinstance(event, yaml.AliasEvent):
            if any(each.anchor == event.anchor for each in open_):
                raise ValueError(f"*{event.anchor} stands for itself")
            values += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
        if len(open_) > DEPTH:
            raise ValueError(f"it is nested deeper than {DEPTH}")
        if values > VALUES:
            raise ValueError(f"it has more than {VALUES} values, with its aliases written out")


@dataclass
class _Open:
    """A list or mapping that is being read. `before`: values before it; `keys`: of a mapping, those so far."""

    anchor: str | None
    before: int
    mapping: bool
    at_key: bool = True
    keys: set[str] = field(default_factory=set)

    def take(self, event: Any) -> None:
        """The next child. Of the last of two equal keys YAML's readers keep the value, and of the first nothing."""
        if self.mapping and self.at_key and isinstance(event, yaml.ScalarEvent):
            if event.value in self.keys and event.value != "<<":
                line = f"line {event.start_mark.line + 1}" if event.start_mark else "it"
                raise ValueError(f"{line} gives {event.value!r} once more")
            self.keys.add(event.value)
        self.at_key = not self.at_key


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return f"it is nested deeper than {DEPTH}"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return " ".join(str(error).split())[:300] or type(error).__name__
