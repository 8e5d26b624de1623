"""A run's figures for Prometheus. The run's driver hands them to the metrics agent of its Ray node.

`GAUGES` lists them; Ray puts `ray_` before every name. All are gauges, even those that only grow: the agent forgets a
gauge that nobody sets for half a minute, and it never forgets a counter. So a thread sets every gauge again and again
until the driver leaves the run. Counts over all launches come from the run's `history.json`.

The driver of a search's trial is a process of the search; its figures name the search.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from numbers import Real
from typing import NamedTuple

from ray.util.metrics import Gauge

from plca_dist.messages import Message, RunEvent
from plca_dist.polling import polling
from plca_dist.run.directory import Run
from plca_dist.run.history import End, History
from plca_dist.run.preemption import StopRequest, StopRequests
from plca_dist.run_files import TRIALS
from plca_dist.training import metrics
from plca_dist.versions import installed

#: Ray's nodes take gauges every 10 s, those alone that were set since, and forget them after 20 s.
_AGAIN_S = 4.0
#: Gauges of what interrupted a run -> how its attempts ended then.
_INTERRUPTIONS: dict[str, End] = {"plca_restarts": "restarted", "plca_preemptions": "preempted"}


class _Gauge(NamedTuple):
    description: str
    tag: str = ""  # beside "run" and "search"


GAUGES = {
    "plca_active": _Gauge("1 while a driver is at work on the run, 0 once it has left it"),
    "plca_workers": _Gauge("Workers that were started, or are waited for"),
    "plca_step": _Gauge("Optimizer steps that are done"),
    "plca_steps_wanted": _Gauge("Optimizer steps of the whole run"),
    "plca_loss": _Gauge("Loss by term, mean since the last record", "term"),
    "plca_consistent_ratio": _Gauge("Share of labelled source positions whose cycle is consistent", "level"),
    "plca_learning_rate": _Gauge("Learning rate of the backbone"),
    "plca_pairs_per_second": _Gauge("Image pairs trained on per second, without evaluations and checkpoints"),
    "plca_data_wait_ratio": _Gauge("Share of the time that rank 0 waited for data"),
    "plca_data_skipped": _Gauge("Damaged samples passed over in this launch"),
    "plca_gpu_memory_bytes": _Gauge("Peak memory of rank 0's GPU since the last record"),
    "plca_miou_percent": _Gauge("Mean IoU on labelled target images", "aggregation"),
    "plca_criterion": _Gauge("Label-free criteria on target images", "criterion"),
    "plca_checkpoint_timestamp_seconds": _Gauge(
        "Unix time of the newest commit of a checkpoint in this launch; before the first, of the launch"
    ),
    "plca_checkpoint_seconds": _Gauge("From the begin of the newest checkpoint's save to its commit"),
    "plca_launches": _Gauge("Drivers that the run has had"),
    "plca_restarts": _Gauge("Times that workers were started again after a failure, over all launches"),
    "plca_preemptions": _Gauge("Times that the run was told to leave, by a signal or a drain, over all launches"),
}

#: Keys of a record -> the gauge, and what the value is multiplied by.
_PLAIN = {
    metrics.STEP: ("plca_step", 1),
    metrics.LEARNING_RATE: ("plca_learning_rate", 1),
    metrics.PAIRS_PER_SECOND: ("plca_pairs_per_second", 1),
    metrics.DATA_WAIT: ("plca_data_wait_ratio", 1),
    metrics.GPU_MEMORY: ("plca_gpu_memory_bytes", 2**30),
    metrics.CHECKPOINT: ("plca_checkpoint_seconds", 1),
}
#: Keys, or how they begin -> the gauge, and the value of its tag; "" for the rest of the key.
_TAGGED = {
    metrics.LOSS_PREFIX: ("plca_loss", ""),
    metrics.CONSISTENT_PREFIX: ("plca_consistent_ratio", ""),
    metrics.MIOU_AGGREGATED: ("plca_miou_percent", "with"),
    metrics.MIOU: ("plca_miou_percent", "without"),
    metrics.CRITERIA_PREFIX: ("plca_criterion", ""),
}


class RunGauges:
    """The figures of one launch of a run.

    Args:
        search: name of the search that the run is a trial of, else "".
        show: gets every record that `show` gets.
    """

    def __init__(self, run: Run, search: str, show: Callable[[RunEvent], None]) -> None:
        self._show = show
        self._tags = {"run": run.name, "search": search}
        self._standing: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._skipped = 0
        self._history = History(run.store, installed())
        self.set("plca_active", 1)
        self.set("plca_launches", self._history.launch)
        self.set("plca_steps_wanted", run.config.schedule.steps)
        self.set("plca_checkpoint_timestamp_seconds", time.time())
        self.set("plca_data_skipped", 0)
        self._count()

    def set(self, name: str, value: float, tag: str = "") -> None:
        """Set one of `GAUGES`. `tag` is the value of its own tag, where it has one."""
        with self._lock:
            self._standing[name, tag] = value
            self._export(name, tag)

    def again(self) -> None:
        """Set every gauge once more, to its last value."""
        with self._lock:
            for name, tag in self._standing:
                self._export(name, tag)

    def _export(self, name: str, tag: str) -> None:
        own = GAUGES[name].tag
        _gauge(name).set(self._standing[name, tag], {**self._tags, own: tag} if own else self._tags)

    def show(self, event: RunEvent) -> None:
        """Set the gauges that a record or a message has values for, and hand the event on."""
        for key, value in (event.values if isinstance(event, Message) else event).items():
            if isinstance(value, Real):
                self._take(key, float(value))
        self._show(event)

    def _take(self, key: str, value: float) -> None:
        if key in _PLAIN:
            name, factor = _PLAIN[key]
            self.set(name, value * factor)
        for prefix, (name, tag) in _TAGGED.items():
            if key.startswith(prefix):
                self.set(name, value, tag or key.removeprefix(prefix))
                break
        if key == metrics.DATA_SKIPPED:
            self._skipped += int(value)
            self.set("plca_data_skipped", self._skipped)
        if key == metrics.CHECKPOINT:
            self.set("plca_checkpoint_timestamp_seconds", time.time())

    def begin(self, step: int, workers: int, generation: int) -> None:
        """The attempt of this number begins from `step`; the run's history keeps it."""
        self.set("plca_step", step)
        self.set("plca_workers", workers)
        self._history.begin(step, workers, generation)

    def reached(self, step: int) -> None:
        """So many steps are done and saved."""
        self.set("plca_step", step)

    def stopped(self, request: StopRequest) -> None:
        """The workers left on request; a preemption if the request came from outside of the run and its search."""
        self.end("preempted" if request.kind in ("signal", "drain") else "left", request.reason)

    def end(self, end: End, why: str = "") -> None:
        """The current attempt is over; without a current attempt this does nothing."""
        self._history.end(end, why, int(self._standing.get(("plca_step", ""), 0)))
        self._count()

    def _count(self) -> None:
        for name, end in _INTERRUPTIONS.items():
            self.set(name, self._history.count(end))


@contextmanager
def run_gauges(run: Run, show: Callable[[RunEvent], None], requests: StopRequests) -> Iterator[RunGauges]:
    """The figures of a launch, within a connection to Ray. An attempt that is current when the block ends, ends too."""
    parts = run.store.uri.split("/")
    gauges = RunGauges(run, parts[-3] if parts[-2] == TRIALS else "", show)
    try:
        with polling("gauges", _AGAIN_S, gauges.again):
            yield gauges
    except KeyboardInterrupt:
        if requests.leave_at_once and requests.current:
            gauges.stopped(requests.current)
        else:
            gauges.end("interrupted")
        raise
    except Exception as error:
        gauges.end("failed", str(error))
        raise
    finally:
        gauges.set("plca_active", 0)
        gauges.set("plca_workers", 0)


@cache
def _gauge(name: str) -> Gauge:
    own = GAUGES[name].tag
    return Gauge(name, description=GAUGES[name].description, tag_keys=("run", "search", *([own] if own else [])))
