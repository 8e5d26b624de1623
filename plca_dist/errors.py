"""Errors that a person reads: each says what is wrong, where, and what to do about it."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Bad input or a broken environment. The command line prints it as one line and exits with code 2.

    The message names the value, what is allowed, and the fix; it carries no stack trace to the reader.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))


class RunFailed(RuntimeError):
    """Work stopped, and other input would not have prevented it. The message says why it stopped and what it left.

    The command line prints it as one line and exits with code 1.
    """


class RunPreempted(RuntimeError):
    """A run or search left because it was asked to. The message says why and where it stands.

    Exit code 85: requeue it.
    """


class TrainingFault(RuntimeError):
    """Training cannot go on: the message names the step, the rank and the newest good checkpoint."""


class LeaseLost(TrainingFault):
    """Another launch has taken the run or the search over: this one may not write any more."""


def printable(text: str) -> str:
    """The text with backslash escapes for what is no visible character: line ends, escape codes, bytes out of UTF-8.

    File names may hold them, and a terminal would obey them.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def nearest(word: str, options: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest of `options`, or an empty string where nothing is close."""
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException, *, with_type: bool = False) -> str:
    """The first line of an error's message, or "no message"; `with_type` puts the name of its type in front."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else "no message"
    return f"{type(error).__name__}: {line}" if with_type else line


def some(things: Sequence[object], most: int = 3) -> str:
    """The first few of them, and how many more there are."""
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return ", ".join(map(str, things[:most])) + more


def counted(number: float, things: str) -> str:
    """`1 shard`, `2 shards`: the number with its noun, which is given in the plural."""
    shown = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{shown} {things.removesuffix('s') if number == 1 else things}"


def short(value: object) -> str:
    """`value` in a few letters. Python writes no number of thousands of digits in decimal."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:80]}…"
