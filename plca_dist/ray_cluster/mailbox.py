"""What the driver and its workers tell each other during training: an actor beside the driver, polled by threads.

Records and news of the workers go to the driver, the reason to checkpoint and leave goes to the workers. The actor's
process imports this module, so it imports nothing heavy: torch would triple the actor's start.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Record = dict[str, Any]  # as in training.session

_POLL_S = 0.25


class Place(NamedTuple):
    """Where a worker is: ids of its node and of its actor."""

    node: str
    actor: str


class _Actor:
    def __init__(self) -> None:
        self._records: list[Record] = []
        self._reason: str | None = None
        self._places: dict[int, Place] = {}
        self._left: int | None = None

    def put(self, record: Record) -> None:
        self._records.append(record)

    def arrive(self, rank: int, place: Place) -> None:
        self._places[rank] = place

    def leave(self, step: int) -> None:
        self._left = step

    def reason(self) -> str | None:
        return self._reason

    def exchange(self, reason: str | None) -> tuple[list[Record], dict[int, Place], int | None]:
        self._reason = reason
        taken, self._records = self._records, []
        return taken, self._places, self._left

    def renew(self) -> None:
        self._reason, self._places, self._left = None, {}, None


class Left(NamedTuple):
    """The workers left on request, with a checkpoint of `step` committed, `at` a time of time.monotonic()."""

    step: int
    at: float


class Mailbox:
    """The driver's end.

    Attributes:
        actor: what workers get; its `put.remote(record)` never blocks.
        places: rank -> where it is, of the workers that train now.
        left: set once the workers of this attempt left on request.
    """

    def __init__(self, actor: Any, show: Callable[[Record], None], reason: Callable[[], str | None]) -> None:
        self.actor = actor
        self.places: dict[int, Place] = {}
        self.left: Left | None = None
        self._show, self._reason = show, reason

    def renew(self) -> None:
        """Before an attempt."""
        self.places, self.left = {}, None
        ray.get(self.actor.renew.remote())

    def exchange(self) -> None:
        """Show what the workers reported, and hand them the reason to leave where there is one."""
        # The cluster may be going down under us; what it still held is in metrics.jsonl.
        with contextlib.suppress(ray.exceptions.RayError):
            records, self.places, left = ray.get(self.actor.exchange.remote(self._reason()), timeout=10)
            if left is not None and self.left is None:
                self.left = Left(left, time.monotonic())
            for record in records:
                self._show(record)


@contextmanager
def board(show: Callable[[Record], None], reason: Callable[[], str | None]) -> Iterator[Mailbox]:
    """A board that is polled inside the block.

    Args:
        show: gets every record, in order, in this process.
        reason: why the workers should checkpoint and leave, once they should.
    """
    here = ray.get_runtime_context().get_node_id()
    actor = (
        ray.remote(_Actor)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))
        .remote()
    )
    ours = Mailbox(actor, show, reason)
    done = Event()

    def poll() -> None:
        while not done.wait(_POLL_S):
            ours.exchange()

    thread = Thread(target=poll, name="plca-board", daemon=True)
    thread.start()
    try:
        yield ours
    finally:
        done.set()
        thread.join()
        ours.exchange()
        ray.kill(actor)


def listen(actor: Any) -> Callable[[], str | None]:
    """A worker's `TrainContext.stop_reason`, which the driver gives. A thread asks until there is one."""
    heard: list[str] = []

    def poll() -> None:
        while not heard:
            with contextlib.suppress(ray.exceptions.RayError):
                if reason := ray.get(actor.reason.remote(), timeout=10):
                    heard.append(reason)
            time.sleep(_POLL_S)

    Thread(target=poll, name="plca-listen", daemon=True).start()
    return lambda: heard[0] if heard else None
