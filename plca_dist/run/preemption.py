"""Signals, drain notices and a growing cluster -> "checkpoint now"."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

import ray
from ray._private import state

from plca_dist.config import Config
from plca_dist.ray_cluster.capacity import next_width, width
from plca_dist.ray_cluster.mailbox import Mailbox
from plca_dist.run.lease import Lease

#: SIGTERM: Kubernetes, Slurm, a shell. SIGUSR2: Slurm's `--signal=USR2@120`.
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)

_POLL_S = 1.0
#: A node that comes may leave again; each change of width costs a restart.
_STEADY_S = 10.0


class StopRequest(NamedTuple):
    """Why the run should checkpoint and its workers leave.

    Attributes:
        at: time.monotonic() when the driver knew.
        final: the driver is to leave too, whatever the cluster could still hold.
    """

    reason: str
    at: float
    final: bool


class StopRequests:
    """The notice in force, if any: the first, unless a final one follows.

    Attributes:
        leaving: a signal came while no worker trained, so that there was nothing to wait for.
        followed: the run is on its way out; no signal hurries it.
    """

    def __init__(self) -> None:
        self.current: StopRequest | None = None
        self.leaving = self.followed = False

    @property
    def reason(self) -> str | None:
        return self.current.reason if self.current else None

    def give(self, reason: str, *, final: bool = False) -> None:
        if self.current is None or (final and not self.current.final):
            self.current = StopRequest(reason, time.monotonic(), final)

    def withdraw(self) -> None:
        """It was followed, and the run goes on; a signal stays in force."""
        if self.current and not self.current.final:
            self.current = None


@contextmanager
def signals(stop_requests: StopRequests, training: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Inside the block SIGTERM and SIGUSR2 are final stop_requests.

    One that finds no worker training, and any after the first, is a Ctrl-C. Only the main thread can be told.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop_requests.followed:
            return
        first = not (stop_requests.current and stop_requests.current.final)
        stop_requests.give(signal.Signals(number).name, final=True)
        if first and training():
            return
        stop_requests.leaving = first
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def watch(config: Config, board: Mailbox, lease: Lease, stop_requests: StopRequests) -> Iterator[None]:
    """Inside the block a thread notices a lost lease, a node of ours that drains, and room for more workers."""
    done = threading.Event()

    def poll() -> None:
        wider_since = None
        while not done.wait(_POLL_S):
            nodes = [place.node for place in board.places.values()]
            if not nodes or stop_requests.current:
                wider_since = None
                continue
            if lease.lost:
                stop_requests.give("another launch took over", final=True)
                continue
            # Asked while the cluster goes down under us, it has no answer; the workers' end then says enough.
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
                if drained := draining() & {*nodes, here}:
                    stop_requests.give(f"node {min(drained)[:8]} drains")
                    continue
                wider = (width(config, nodes) or 0) > len(nodes)
                now = time.monotonic()
                wider_since = (wider_since or now) if wider else None
                if wider_since and now - wider_since > _STEADY_S:
                    stop_requests.give("the cluster grew")

    here = ray.get_runtime_context().get_node_id()
    thread = threading.Thread(target=poll, name="plca-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def draining() -> set[str]:
    """Ids of the nodes that are about to go."""
    return set(state.state.get_draining_nodes())


def can_go_on(config: Config) -> bool:
    """Whether this process's node stays, and those that stay can hold the fewest workers."""
    return ray.get_runtime_context().get_node_id() not in draining() and next_width(config)[1]
