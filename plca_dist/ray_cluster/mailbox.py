"""The mailbox between a driver and its workers: an actor beside the driver that threads of both poll.

Events of the workers go to the driver, the reason to checkpoint and leave goes to the workers. The actor's process
imports this module, so it imports nothing heavy: torch would triple the actor's start.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from plca_dist.errors import first_line
from plca_dist.polling import polling, start_polling

log = logging.getLogger(__name__)

_POLL_S = 0.25
_ANSWER_S = 10.0


class WorkerPlace(NamedTuple):
    """Ids of the node and of the actor of a worker."""

    node: str
    actor: str


class Left(NamedTuple):
    """The workers left on request, with a checkpoint of `step` committed; `at` is a time of time.monotonic()."""

    step: int
    at: float


class _Actor:
    """The mailbox itself, in a process of its own.

    Attempts are numbered: a worker of an earlier one, which may live on for a while, changes nothing.
    """

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._reason: Any = None
        self._attempt = 0
        self._places: dict[int, WorkerPlace] = {}
        self._left: int | None = None

    def put(self, event: Any) -> None:
        self._events.append(event)

    def begin(self) -> int:
        self._attempt += 1
        self._reason, self._places, self._left = None, {}, None
        return self._attempt

    def arrive(self, attempt: int, rank: int, place: WorkerPlace) -> None:
        if attempt == self._attempt:
            self._places[rank] = place

    def leave(self, attempt: int, step: int) -> None:
        if attempt == self._attempt:
            self._left = step

    def reason(self) -> Any:
        return self._reason

    def exchange(self, reason: Any) -> tuple[list[Any], dict[int, WorkerPlace], int | None]:
        self._reason = reason
        events, self._events = self._events, []
        return events, self._places, self._left


class Mailbox:
    """The driver's end.

    Attributes:
        actor: what workers get; its `put.remote(event)` never blocks.
        places: rank -> where it is, of the workers that train now; empty between attempts.
        left: set once the workers of the attempt left on request.
    """

    def __init__(self, actor: Any, show: Callable[[Any], None], reason: Callable[[], Any]) -> None:
        self.actor = actor
        self.places: dict[int, WorkerPlace] = {}
        self.left: Left | None = None
        self._show, self._reason = show, reason
        self._attempt_is_on = False
        self._unshown: deque[Any] = deque()
        self._exchanging, self._showing = Lock(), Lock()

    def begin(self) -> int:
        """An attempt begins; returns its number, which its workers arrive and leave by."""
        with self._exchanging:
            self.places, self.left = {}, None
            attempt: int = ray.get(self.actor.begin.remote())
            self._attempt_is_on = True
        return attempt

    def end(self) -> None:
        """The attempt is over, and none of its workers trains any more."""
        self._last_exchange()
        self.show()
        with self._exchanging:
            self._attempt_is_on = False
            self.places = {}

    def exchange(self) -> None:
        """Fetch what the workers reported, and hand them the reason to leave where there is one.

        Raises a RayError where the actor does not answer.
        """
        with self._exchanging:
            events, places, left = ray.get(self.actor.exchange.remote(self._reason()), timeout=_ANSWER_S)
            if self._attempt_is_on:
                self.places = places
                if left is not None and self.left is None:
                    self.left = Left(left, time.monotonic())
            self._unshown.extend(events)

    def show(self) -> None:
        """Show what came. An event that cannot be shown is warned of, and the others are shown."""
        with self._showing:
            while self._unshown:
                try:
                    self._show(self._unshown.popleft())
                except Exception as error:
                    with suppress(Exception):  # warnings may be shown in the same place
                        log.warning("cannot be shown: %s", first_line(error, with_type=True))

    def _last_exchange(self) -> None:
        # The cluster may be going down under us; what it still held is in metrics.jsonl.
        with suppress(ray.exceptions.RayError):
            self.exchange()


@contextmanager
def mailbox(show: Callable[[Any], None], reason: Callable[[], Any]) -> Iterator[Mailbox]:
    """A mailbox that is emptied again and again inside the block.

    Args:
        show: gets every event, in order, in this process.
        reason: why the workers should checkpoint and leave, once they should.
    """
    here = ray.get_runtime_context().get_node_id()
    actor = (
        ray.remote(_Actor)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))
        .remote()
    )
    opened = Mailbox(actor, show, reason)
    try:
        # Two threads: a terminal that is stopped must not keep the reason to leave from the workers.
        with polling("mailbox", _POLL_S, opened.exchange), polling("show", _POLL_S, opened.show):
            yield opened
    finally:
        opened._last_exchange()
        opened.show()
        ray.kill(actor)


def listen(actor: Any) -> Callable[[], Any]:
    """Returns the `stop_reason` of a worker's TrainContext. A thread asks the mailbox until the driver has a reason."""
    heard: list[Any] = []

    def ask() -> None:
        # A driver that is gone is noticed by Ray, which ends this process.
        with suppress(ray.exceptions.RayError):
            if reason := ray.get(actor.reason.remote(), timeout=_ANSWER_S):
                heard.append(reason)

    start_polling("listen", _POLL_S, ask, until=lambda: bool(heard))
    return lambda: heard[0] if heard else None
