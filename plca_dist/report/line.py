"""The line at the bottom of a stream: one that rewrites itself on a terminal, plain lines elsewhere.

No escape sequences are used, only a carriage return, so that any terminal will do.
"""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TextIO

_LINE_EVERY_S = 5.0  # plain lines, in a log file
_REDRAW_EVERY_S = 0.1  # on a terminal; faster than anyone reads
_BAR = 12


class Line:
    """The line at the bottom of a stream. Threads may share it."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self.live = self._stream.isatty()
        self._clock = clock
        self._lock = Lock()
        self._standing = ""
        self._written = -math.inf

    def progress(self, fields: Sequence[str], *, now: bool = False) -> None:
        """Show fields: on a terminal in place, else as a line. What comes too soon is left out, unless `now`."""
        with self._lock:
            if not now and self._clock() - self._written < (_REDRAW_EVERY_S if self.live else _LINE_EVERY_S):
                return
            self._written = self._clock()
            if self.live:
                self._redraw(_fit(fields, self._columns()))
            else:
                self._write("  ".join(fields) + "\n")

    def say(self, message: str) -> None:
        """A message on a line of its own, above the progress line."""
        with self._lock:
            standing = self._standing
            for line in message.splitlines():
                self._redraw(line)
                self._write("\n")
                self._standing = ""
            if standing:
                self._redraw(standing)

    def close(self) -> None:
        """Leave the last state standing, and what follows on a new line."""
        with self._lock:
            if self._standing:
                self._write("\n")
                self._standing = ""

    def bar(self, done: int, total: int) -> str:
        """`━━━━────` on a terminal, nothing elsewhere."""
        if not self.live:
            return ""
        full, empty = "━─" if "utf" in (self._stream.encoding or "").lower() else "#-"
        filled = round(_BAR * min(done / max(total, 1), 1))
        return full * filled + empty * (_BAR - filled)

    def _redraw(self, text: str) -> None:
        covered = min(len(self._standing), self._columns())
        self._write(("\r" if self._standing else "") + text.ljust(covered))
        self._standing = text

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _columns(self) -> int:
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = shutil.get_terminal_size().columns
        return max((columns or 80) - 1, 1)  # a full last column would wrap


def _fit(fields: Sequence[str], columns: int) -> str:
    """As many of the first fields as fit, and of the very first what fits."""
    text = fields[0]
    for field in fields[1:]:
        if len(text) + 2 + len(field) > columns:
            break
        text += "  " + field
    return text[:columns]
