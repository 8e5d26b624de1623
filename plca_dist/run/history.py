"""`history.json`: every attempt at a run, over all of its launches.

The driver that holds the lease writes it into the directory of its attempt, with all attempts before.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from plca_dist.errors import LeaseLost, UserError
from plca_dist.parsing import Unreadable, read_json
from plca_dist.run_files import HISTORY, attempt, json_bytes
from plca_dist.storage import Store
from plca_dist.training.attempts import newest

log = logging.getLogger(__name__)

#: How an attempt ended. restarted: it failed, and workers start again. preempted: something outside of the run and its
#: search wanted the workers to leave. left: the run or its search wanted it, for instance because the cluster grew.
End = Literal["finished", "restarted", "preempted", "left", "failed", "interrupted"]


@dataclass(frozen=True)
class Attempt:
    """A set of workers that trains from a checkpoint on, until something ends it.

    Attributes:
        launch: number of the driver, which may make several attempts.
        began, ended: Unix times. `ended` is None while the attempt is on, and where its driver was killed.
        step: the step that it began from.
        reached: the last step that its driver heard of; None where `ended` is.
        workers: their number.
        versions: package -> version, None where the package was not installed.
        end: how it ended; "" where `ended` is None.
        why: the reason, as the driver reported it.
    """

    launch: int
    began: float
    step: int
    workers: int
    versions: Mapping[str, str | None]
    ended: float | None = None
    reached: int | None = None
    end: End | Literal[""] = ""
    why: str = ""


class History:
    """All attempts at a run. Those of this launch are added to it; a history that cannot be written fails no run.

    Attributes:
        launch: number of this driver, the first one's is 1.
    """

    def __init__(self, run: Store, versions: Mapping[str, str | None]) -> None:
        self._run, self._versions = run, dict(versions)
        self._attempts = read_history(run)
        self.launch = 1 + max((a.launch for a in self._attempts), default=0)
        self._generation: int | None = None

    def begin(self, step: int, workers: int, generation: int) -> None:
        """An attempt from `step` on; `generation` is its number."""
        self._attempts.append(Attempt(self.launch, time.time(), step, workers, self._versions))
        self._generation = generation
        self._write(generation)

    def end(self, end: End, why: str = "", reached: int | None = None) -> None:
        """The current attempt is over; without a current attempt this does nothing."""
        if self._generation is None:
            return
        self._attempts[-1] = replace(self._attempts[-1], ended=time.time(), reached=reached, end=end, why=why)
        self._write(self._generation)
        self._generation = None

    def count(self, end: End) -> int:
        """How many attempts of all launches ended in this way."""
        return count(self._attempts, end)

    def _write(self, generation: int) -> None:
        try:
            self._run.write(f"{attempt(generation)}/{HISTORY}", json_bytes([asdict(a) for a in self._attempts]))
        except (UserError, LeaseLost) as error:  # the run itself matters more, and the next write holds it all
            log.warning("%s could not be written: %s", HISTORY, error)


def read_history(run: Store) -> list[Attempt]:
    """The attempts so far, oldest first; none where the run has no history, or one that cannot be understood."""
    name = newest(run, HISTORY) or HISTORY  # the latter of an earlier version
    if not run.exists(name):
        return []
    try:
        return read_json(run, name, lambda kept: [_attempt(one) for one in kept], "it is passed over")
    except Unreadable as error:
        log.warning("%s", error)
        return []


def _attempt(kept: Any) -> Attempt:
    """Raises one of many exceptions for what is no attempt."""
    made = Attempt(**{**kept, "versions": dict(kept["versions"])})
    numbers = (made.launch, made.began, made.step, made.workers)
    maybe = (made.ended, made.reached)
    texts = (made.end, made.why, *made.versions)
    if not (
        all(isinstance(n, int | float) and math.isfinite(n) for n in (*numbers, *(m for m in maybe if m is not None)))
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(version, str | None) for version in made.versions.values())
    ):
        raise ValueError("it holds something else than attempts")
    return made


def count(attempts: Sequence[Attempt], end: End | Literal[""]) -> int:
    return sum(attempt.end == end for attempt in attempts)
