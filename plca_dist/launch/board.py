"""How records travel from rank 0 to the person watching: an actor beside the driver, polled by a thread.

The actor's process imports this module, so it imports nothing heavy: torch would triple the actor's start.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Record = dict[str, Any]  # as in training.session

_POLL_S = 0.25


class _Board:
    def __init__(self) -> None:
        self._records: list[Record] = []

    def put(self, record: Record) -> None:
        self._records.append(record)

    def take(self) -> list[Record]:
        taken, self._records = self._records, []
        return taken


@contextmanager
def board(show: Callable[[Record], None]) -> Iterator[Any]:
    """An actor handle whose `put.remote(record)` never blocks; `show` gets every record, in order, in this process."""
    here = ray.get_runtime_context().get_node_id()
    actor = (
        ray.remote(_Board)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))
        .remote()
    )
    done = Event()

    def poll() -> None:
        while not done.wait(_POLL_S):
            _drain(actor, show)

    thread = Thread(target=poll, name="plca-board", daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        done.set()
        thread.join()
        _drain(actor, show)
        ray.kill(actor)


def _drain(actor: Any, show: Callable[[Record], None]) -> None:
    # The cluster may be going down under us; what it still held is in metrics.jsonl.
    with contextlib.suppress(ray.exceptions.RayError):
        for record in ray.get(actor.take.remote(), timeout=10):
            show(record)
