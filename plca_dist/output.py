"""Text on its way to a terminal or a log file: terminals obey nothing in it, and a stream that fails ends nothing."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

#: What terminals obey: control characters, separators of lines, and what turns the direction of writing.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_IN_TEXT = re.compile(f"(?![\n\t]){_OBEYED.pattern}")


def visible(text: str) -> str:
    """The text as one line in which nothing is obeyed: a newline is shown as `\\n`, an escape as `\\x1b`."""
    return _OBEYED.sub(_shown, text)


def say(*lines: str) -> None:
    """Print the lines, each of which is one, whatever the names in it are."""
    print("\n".join(map(visible, lines)), flush=True)


def _shown(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class Output:
    """A stream of text on which lines are shown.

    A character that the stream's encoding lacks becomes a question mark, one that a terminal obeys becomes visible.
    What the stream refuses is dropped, because its disk is full, its reader has left or its terminal is gone.

    Attributes:
        error: the first error of the stream, if there was one.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @staticmethod
    def of(stream: "TextIO | Output") -> "Output":
        return stream if isinstance(stream, Output) else Output(stream)

    def write(self, text: str) -> int:
        """Text of lines and tabs."""
        self.obeyed(_IN_TEXT.sub(_shown, text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def obeyed(self, text: str) -> None:
        """Text with control characters that are meant: all else in it has been through `visible`."""
        encoding = self._stream.encoding or "utf-8"
        self._try(lambda: self._stream.write(text.encode(encoding, "replace").decode(encoding)))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def end(self) -> None:
        """Write what is still held back, or give it up: the interpreter would fail at it once more."""
        self.flush()
        if self.error:
            self._give_up()
            self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (OSError, ValueError) as error:  # a ValueError: it is closed
            self.error = self.error or error
            if isinstance(error, BrokenPipeError):
                self._give_up()

    def _give_up(self) -> None:
        with suppress(OSError, ValueError):
            number = os.open(os.devnull, os.O_WRONLY)
            os.dup2(number, self._stream.fileno())
            os.close(number)


def guard() -> Callable[[], None]:
    """Make standard output and standard error an `Output` each; returns what undoes that."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Output.of(stream or _nowhere()) for stream in before)

    def undo() -> None:
        sys.stdout, sys.stderr = before

    return undo


def fill_closed() -> None:
    """Open what is closed of the three standard streams: whatever is opened next would be taken for one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")
