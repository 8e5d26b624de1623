"""`history.json`: every attempt at a run, over all of its launches. Written by the driver that holds the lease."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from plca_dist.errors import UserError
from plca_dist.run_files import HISTORY
from plca_dist.storage import Store

log = logging.getLogger(__name__)

#: How an attempt ended. restarted: it failed, and workers start again. preempted: something outside of the run and its
#: search wanted the workers to leave. left: the run or its search wanted it, for instance because the cluster grew.
End = Literal["finished", "restarted", "preempted", "left", "failed", "interrupted"]


@dataclass(frozen=True)
class Attempt:
    """A set of workers that trains from a checkpoint on, until something ends it.

    Attributes:
        launch: number of the driver, which may make several attempts: the generation of its lease.
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

    Args:
        launch: number of this driver.
        may_write: whether this driver still holds the lease.
    """

    def __init__(
        self, run: Store, launch: int, versions: Mapping[str, str | None], may_write: Callable[[], bool]
    ) -> None:
        self._run, self._launch, self._versions, self._may_write = run, launch, dict(versions), may_write
        self._attempts = read_history(run)
        self._open = False

    def begin(self, step: int, workers: int) -> None:
        """An attempt from `step` on."""
        self._attempts.append(Attempt(self._launch, time.time(), step, workers, self._versions))
        self._open = True
        self._write()

    def end(self, end: End, why: str = "", reached: int | None = None) -> None:
        """The current attempt is over; without a current attempt this does nothing."""
        if not self._open:
            return
        self._open = False
        self._attempts[-1] = replace(self._attempts[-1], ended=time.time(), reached=reached, end=end, why=why)
        self._write()

    def count(self, end: End) -> int:
        """How many attempts of all launches ended in this way."""
        return count(self._attempts, end)

    def _write(self) -> None:
        if not self._may_write():
            return
        try:
            self._run.write(HISTORY, json.dumps([asdict(a) for a in self._attempts], indent=1).encode())
        except UserError as error:  # the run itself matters more, and the next write holds it all
            log.warning("%s could not be written: %s", HISTORY, error)


def read_history(run: Store) -> list[Attempt]:
    """The attempts so far, oldest first; none where the run has no history, or one that cannot be understood."""
    if not run.exists(HISTORY):
        return []
    try:
        return [
            Attempt(**{**attempt, "versions": dict(attempt["versions"])}) for attempt in json.loads(run.read(HISTORY))
        ]
    except (ValueError, TypeError, LookupError) as error:
        log.warning("%s/%s is damaged, and passed over: %s", run.uri, HISTORY, error)
        return []


def count(attempts: Sequence[Attempt], end: End | Literal[""]) -> int:
    return sum(attempt.end == end for attempt in attempts)
