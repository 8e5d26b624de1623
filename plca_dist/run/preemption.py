"""Signals, drain notices and a growing cluster -> "checkpoint now"."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Literal, NamedTuple

import ray

from plca_dist.config import Config
from plca_dist.polling import polling
from plca_dist.ray_cluster.capacity import next_world_size, possible_world_size
from plca_dist.ray_cluster.connect import not_ignored
from plca_dist.ray_cluster.internals.core import draining_nodes
from plca_dist.ray_cluster.mailbox import Mailbox
from plca_dist.run.lease import Lease
from plca_dist.training.context import LEASE_LOST

#: SIGTERM: Kubernetes, Slurm, a shell. SIGUSR2: Slurm's `--signal=USR2@120`. SIGHUP: a terminal that is gone.
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)

_POLL_S = 1.0
#: A node that comes may leave again; each change of width costs a restart.
_STEADY_S = 10.0

#: signal: to the driver. drain: of a node of the run. grew: the cluster holds more workers. lease lost: another launch
#: took the run over, and nothing is saved. search: the run is a trial, and its search wants it to end.
StopKind = Literal["signal", "drain", "grew", "lease lost", "search"]


class StopRequest(NamedTuple):
    """Why the run should checkpoint and its workers leave.

    Attributes:
        reason: as a person reads it.
        at: time.monotonic() when the driver knew.
        final: the driver is to leave too, whatever the cluster could still hold.
    """

    kind: StopKind
    reason: str
    at: float
    final: bool


class StopRequests:
    """The stop request in force, if any: the first one, unless a final one follows.

    Attributes:
        leave_at_once: a signal came while no worker trained; the run leaves at once.
        is_leaving: the run is leaving; further signals change nothing.
    """

    def __init__(self) -> None:
        self.current: StopRequest | None = None
        self.leave_at_once = self.is_leaving = False

    @property
    def reason(self) -> str | None:
        return self.current.reason if self.current else None

    def give(self, kind: StopKind, reason: str, *, final: bool = False) -> None:
        if self.current is None or (final and not self.current.final):
            self.current = StopRequest(kind, reason, time.monotonic(), final)

    def withdraw(self) -> None:
        """The workers followed the request, and the run goes on. A final request stays in force."""
        if self.current and not self.current.final:
            self.current = None


@contextmanager
def signals(requests: StopRequests, training: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Inside the block `SIGNALS` are final stop requests, but for one that is ignored, as `nohup` has SIGHUP ignored.

    A signal while no worker trains, and any but SIGHUP after the first, is a Ctrl-C. Only the main thread gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        first = not (requests.current and requests.current.final)
        # A shell and the system both tell of a terminal that is gone: that is no impatience.
        if requests.is_leaving or (number == signal.SIGHUP and not first):
            return
        requests.give("signal", signal.Signals(number).name, final=True)
        if first and training():
            return
        requests.leave_at_once = first
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in SIGNALS if not_ignored(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(config: Config, mailbox: Mailbox, lease: Lease, requests: StopRequests) -> AbstractContextManager[None]:
    """Inside the block a thread looks for a lost lease, a draining node of this run, and room for more workers."""
    watcher = _Watcher(config, mailbox, lease, requests)
    return polling("watch", _POLL_S, watcher.look)


class _Watcher:
    def __init__(self, config: Config, mailbox: Mailbox, lease: Lease, requests: StopRequests) -> None:
        self._config, self._mailbox, self._lease, self._requests = config, mailbox, lease, requests
        self._here = ray.get_runtime_context().get_node_id()
        self._room_since: float | None = None

    def look(self) -> None:
        nodes = [place.node for place in self._mailbox.places.values()]
        if not nodes or self._requests.current:
            self._room_since = None
        elif self._lease.lost:
            self._requests.give("lease lost", LEASE_LOST, final=True)
        elif draining := draining_nodes() & {*nodes, self._here}:
            self._requests.give("drain", f"node {min(draining)[:8]} drains")
        else:
            self._look_for_room(nodes)

    def _look_for_room(self, nodes: list[str]) -> None:
        now = time.monotonic()
        if (possible_world_size(self._config, nodes) or 0) <= len(nodes):
            self._room_since = None
        elif self._room_since is None:
            self._room_since = now
        elif now - self._room_since > _STEADY_S:
            self._requests.give("grew", "the cluster grew")


def can_go_on(config: Config) -> bool:
    """Whether this process's node stays, and those that stay can hold the fewest workers."""
    return ray.get_runtime_context().get_node_id() not in draining_nodes() and next_world_size(config)[1]
