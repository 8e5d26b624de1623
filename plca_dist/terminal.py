"""Progress on a stream: on a terminal a line that rewrites itself, elsewhere plain lines.

The line uses a carriage return and no escape sequences, so it works on any terminal.
"""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Self, TextIO

from plca_dist.output import Output, visible

_LINE_EVERY_S = 5.0  # between plain lines, in a log file
_REDRAW_EVERY_S = 0.1  # on a terminal; nobody reads faster
_BAR = 12


class Line:
    """The progress line at the bottom of a stream. Threads may share it."""

    def __init__(self, stream: TextIO | Output | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = Output.of(stream or sys.stderr)
        self.live = self._stream.isatty()
        self._clock = clock
        self._lock = Lock()
        self._standing = ""
        self._written = -math.inf

    def progress(self, fields: Sequence[str], *, now: bool = False) -> None:
        """Show fields: on a terminal in place, elsewhere on a new line. A call too soon does nothing, unless `now`."""
        with self._lock:
            if not now and self._clock() - self._written < (_REDRAW_EVERY_S if self.live else _LINE_EVERY_S):
                return
            self._written = self._clock()
            fields = [visible(field) for field in fields]
            if self.live:
                self._redraw(_fit(fields, self._columns()))
            else:
                self._write("  ".join(fields) + "\n")

    def say(self, message: str) -> None:
        """Write a message on a line of its own, above the progress line."""
        with self._lock:
            standing = self._standing
            self._redraw(visible(message))
            self._write("\n")
            self._standing = ""
            if standing:
                self._redraw(standing)

    def close(self) -> None:
        """Leave the progress line as it is, and start a new line."""
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
        self._stream.obeyed(text)
        self._stream.flush()

    def _columns(self) -> int:
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = shutil.get_terminal_size().columns
        return max((columns or 80) - 1, 1)  # a character in the last column would wrap the line


def _fit(fields: Sequence[str], columns: int) -> str:
    """As many of the first fields as fit. The very first is cut to fit."""
    text = fields[0]
    for field in fields[1:]:
        if len(text) + 2 + len(field) > columns:
            break
        text += "  " + field
    return text[:columns]


class Counter:
    """The progress of counted things: `with Counter("images", 500) as counter: counter.update(done)`."""

    def __init__(
        self, what: str, total: int, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._total, self._clock = what, total, clock
        self._line = Line(stream, clock)
        self._pace = Pace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def update(self, done: int) -> None:
        """Show that `done` of `total` are finished."""
        self._pace.add(done, self._clock())
        rate, left = self._pace.rate, self._pace.left(self._total - done)
        fields = [" ".join(filter(None, [self._what, self._line.bar(done, self._total), f"{done}/{self._total}"]))]
        if left:
            fields.append(f"{duration(left)} left")
        if rate:
            fields.append(f"{rate:.1f}/s")
        self._line.progress(fields, now=done >= self._total)


class Pace:
    """Steps per second since the first point that was added. A step or a time that goes back starts it anew."""

    def __init__(self) -> None:
        self._first = self._last = (math.inf, math.inf)

    def add(self, step: float, seconds: float) -> None:
        if step < self._last[0] or seconds < self._last[1]:
            self._first = (step, seconds)
        self._last = (step, seconds)

    @property
    def rate(self) -> float | None:
        """Steps per second; None until there are two points in time."""
        steps, seconds = (b - a for a, b in zip(self._first, self._last, strict=True))
        return steps / seconds if steps > 0 and seconds > 0 else None

    def left(self, steps: float) -> float | None:
        """The seconds that `steps` more steps take; None where the rate is unknown."""
        return steps / self.rate if self.rate else None


def duration(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`, and from two days on `2d 03h`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02}h"
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class Counters:
    """One counter after another: `show(what, done, total)` starts a new line for every new `what`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._what = ""
        self._counter: Counter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._counter:
            self._counter.__exit__(*error)

    def show(self, what: str, done: int, total: int) -> None:
        if self._counter is None or what != self._what:
            self.__exit__()
            self._what, self._counter = what, Counter(what, total, self._stream)
        self._counter.update(done)
