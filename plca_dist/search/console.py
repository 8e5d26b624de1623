"""The progress of a search: on a terminal a table of trials that rewrites itself, in a log a line for each change.

The table is at most as large as the window. It keeps the running trials and the best ones, and counts the others. A
log is any other stream, or a terminal that cannot move its cursor. It gets plain lines for each trial's start,
evaluations and end.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Self, TextIO

from plca_dist.output import Output, visible
from plca_dist.search.trials import (
    SHORT,
    Curve,
    State,
    Trial,
    arrow,
    best,
    counts,
    last_value,
    measured,
    ranked,
    score,
    score_text,
    searched,
    short_keys,
    value_text,
)
from plca_dist.terminal import Line, duration
from plca_dist.training import metrics
from plca_dist.training.metrics import CRITERIA

_ENDED: tuple[State, ...] = ("finished", "stopped", "failed")
_GAP = "  "


class SearchConsole:
    """Shows a search: `with SearchConsole("entropy", 12) as console:`, then `console.show(trials)` about every second.

    Args:
        criterion: the search's criterion, a name of `metrics.CRITERIA`.
        count: trials of the whole search.
        stream: standard error where none is given.
        clock: seconds since any moment.
    """

    def __init__(
        self, criterion: str, count: int, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._criterion, self._count, self._clock = criterion, count, clock
        self._stream = Output.of(stream or sys.stderr)
        self._line = Line(self._stream, clock)
        self._live = self._line.live and os.environ.get("TERM") != "dumb"  # such a terminal cannot move its cursor up
        self._lock = Lock()
        self._begun = clock()
        self._trials: Sequence[Trial] = ()
        self._standing: list[str] = []
        self._explained: set[str] = set()  # failed trials whose reason stands above the table

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Leave only the headline, because the result comes next; after an error leave the whole table."""
        with self._lock:
            if self._live and self._trials and error is None:
                self._draw([self._headline(self._trials)])
            self._standing = []

    def show(self, trials: Sequence[Trial]) -> None:
        """Show all trials in their present state."""
        with self._lock:
            before, self._trials = self._trials, list(trials)
            if self._live:
                failed = [t for t in trials if t.state == "failed" and t.name not in self._explained]
                self._explained |= {t.name for t in failed}
                self._draw(self._table(trials), above=[self._ending(t, trials) for t in failed])
            else:
                for line in self._changes(before, trials):
                    self._line.say(line)

    def say(self, message: str) -> None:
        """Write a message that stays, above the table."""
        with self._lock:
            if not self._live:
                self._line.say(message)
                return
            self._draw(self._table(self._trials), above=[message])

    def _headline(self, trials: Sequence[Trial]) -> str:
        done = sum(t.state in _ENDED for t in trials)
        fields = [f"{self._line.bar(done, self._count)} {done}/{self._count} trials".strip(), counts(trials)]
        if (leader := best(trials, self._criterion)) is not None:
            fields.append(f"best {leader.name} {_scores(leader.curve, [self._criterion])}")
        fields.append(duration(self._clock() - self._begun))
        return self._fit(list(filter(None, fields)))

    def _table(self, trials: Sequence[Trial]) -> list[str]:
        """The headline, the table's head, and as many trials as the window has lines for, in the order of rank."""
        if not trials:
            return []
        room = max(self._window().lines - 3, 0)  # headline, head, and the cursor's own line
        begun = [t for t in ranked(trials, self._criterion) if t.state != "waiting"]
        shown = begun
        if len(begun) > room:  # one line is for the count of the others; running trials are kept before the best
            kept = {t.name for t in sorted(begun, key=lambda t: t.state != "running")[: max(room - 1, 0)]}
            shown = [t for t in begun if t.name in kept]
        keys, criteria = searched(trials), measured(trials, self._criterion)
        head = ["trial", "state", SHORT[self._criterion] + arrow(self._criterion)]
        rows = [head + short_keys(keys) + [SHORT[c] for c in criteria[1:]]]
        for t in shown:
            scores = [score_text(score(t, c), c) for c in criteria]
            values = [value_text(t.values.get(k)) for k in keys]
            rows.append([t.name, self._progress(t), scores[0], *values, *scores[1:]])
        more = [f"… {len(begun) - len(shown)} more"] if len(begun) > len(shown) else []
        return [self._headline(trials), *map(self._fit, _aligned(rows)), *more][: max(self._window().lines - 1, 1)]

    def _progress(self, trial: Trial) -> str:
        share = f"{100 * trial.step // max(trial.steps, 1)}%"
        if trial.state == "running":
            return f"{self._line.bar(trial.step, trial.steps)} {share}".strip()
        return trial.state if trial.state == "finished" else f"{trial.state} {share}"

    def _changes(self, before: Sequence[Trial], trials: Sequence[Trial]) -> Iterator[str]:
        """A line for each change. Of a continued search, the first call shows only the states, not how they arose."""
        known = {t.name: t for t in before}
        for t in trials:
            old = known.get(t.name)
            state: State = old.state if old else "waiting"
            seen = len(old.curve) if old else 0 if before else len(t.curve)
            begun = t.state == "running" or (t.state in _ENDED and state == "waiting" and before)
            if begun and state != "running":
                yield f"{t.name} {'continues' if seen else 'started'}: {_values(t)}"
            for point in t.curve[seen:]:
                yield f"{t.name} step {point[metrics.STEP]}/{t.steps}: {_scores([point], list(CRITERIA))}"
            if t.state != state and t.state != "running":
                yield self._ending(t, trials)

    def _ending(self, trial: Trial, trials: Sequence[Trial]) -> str:
        at = f"at step {trial.step}/{trial.steps}"
        took = f" after {duration(trial.seconds)}" if trial.seconds is not None else ""
        if trial.state == "waiting":
            return f"{trial.name} waits again {at}"
        if trial.state == "failed":
            return f"{trial.name} failed {at}{took}: {trial.note or 'no reason was given'}"
        if trial.state == "stopped":
            return f"{trial.name} stopped by the scheduler {at}{took}"
        leads = ", the best so far" if best(trials, self._criterion) == trial else ""
        return f"{trial.name} finished{took}: {_scores(trial.curve, [self._criterion])}{leads}"

    def _draw(self, lines: Sequence[str], above: Sequence[str] = ()) -> None:
        """Replace the standing lines by `lines`, under messages that stay. One write, so that nothing flickers."""
        width = self._window().columns
        shown = [visible(line)[: width - 1] for line in lines]
        # A window that has become narrower has wrapped the standing lines: they take more rows now.
        up = sum(-(-max(len(line), 1) // width) for line in self._standing)
        text = "".join(f"{line}\x1b[K\n" for line in (*map(visible, above), *shown))
        self._stream.obeyed((f"\x1b[{up}F" if up else "") + text + "\x1b[J")
        self._stream.flush()
        self._standing = shown

    def _fit(self, cells: Sequence[str]) -> str:
        """As many of the first cells as fit into the window. No cell is cut: half a number is another number."""
        text = cells[0]
        for cell in cells[1:]:
            if len(text) + len(_GAP) + len(cell) > self._window().columns - 1:
                break
            text += _GAP + cell
        return text.rstrip()

    def _window(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            size = shutil.get_terminal_size()
        return os.terminal_size((max(size.columns or 80, 2), max(size.lines or 24, 1)))


def _aligned(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The cells, padded: the first two columns flush left, the numbers flush right."""
    columns = []
    for k, cells in enumerate(zip(*rows, strict=True)):
        width = max(map(len, cells))
        columns.append([c.ljust(width) if k < 2 else c.rjust(width) for c in cells])
    return list(zip(*columns, strict=True))


def _values(trial: Trial) -> str:
    keys = list(trial.values)
    return ", ".join(f"{k} {value_text(trial.values[full])}" for k, full in zip(short_keys(keys), keys, strict=True))


def _scores(curve: Curve, criteria: Sequence[str]) -> str:
    """`density 5.123, mIoU 41.2`, of those criteria that the curve has."""
    values = [(c, last_value(curve, c)) for c in criteria]
    return ", ".join(f"{SHORT[c]} {score_text(v, c)}" for c, v in values if v is not None) or "no score"
