"""A run's figures for Prometheus: what its driver knows, handed to the metrics agent of Ray's node.

`GAUGES` lists what there is; Ray puts `ray_` before every name. All are gauges, also what only ever grows: the agent
forgets a gauge that nobody sets for half a minute, and counters never. So a thread sets what stands again and again,
until the driver leaves the run. What must outlive a launch, because the next one is another process, is kept in the
run's directory.

The driver of a search's trial is a process of the search; its figures say which search they are of.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from numbers import Real
from typing import Literal, NamedTuple

from ray.util.metrics import Gauge

from plca_dist.errors import UserError
from plca_dist.launch.preemption import SIGNALS, Notices
from plca_dist.launch.run import Run
from plca_dist.storage import Store
from plca_dist.training import metrics
from plca_dist.training.session import Record

log = logging.getLogger(__name__)

INTERRUPTIONS = "interruptions.json"
_TRIALS = "trials"  # the folder of a search that holds its runs; launch.search is too heavy to import for it
#: Ray's nodes take gauges every 10 s, those alone that were set since, and forget them after 20 s.
_AGAIN_S = 4.0
Kind = Literal["restarts", "preemptions"]


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


class Telemetry:
    """The figures of one launch of a run.

    Args:
        launch: its number: the generation of its lease.
        search: name of the search that the run is a trial of, else "".
        show: gets every record that `show` gets.
    """

    def __init__(self, run: Run, launch: int, search: str, show: Callable[[Record], None]) -> None:
        self._run, self._show = run, show
        self._tags = {"run": run.name, "search": search}
        self._standing: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._skipped = 0
        self._interruptions = _interruptions(run.store)
        self.set("plca_active", 1)
        self.set("plca_launches", launch)
        self.set("plca_steps_wanted", run.config.schedule.steps)
        self.set("plca_checkpoint_timestamp_seconds", time.time())
        self.set("plca_data_skipped", 0)
        for kind, times in self._interruptions.items():
            self.set(f"plca_{kind}", times)

    def set(self, name: str, value: float, tag: str = "") -> None:
        """What one of `GAUGES` stands at, with the value of its own tag where it has one."""
        with self._lock:
            self._standing[name, tag] = value
            self._export(name, tag)

    def again(self) -> None:
        """Everything that was set, once more."""
        with self._lock:
            for name, tag in self._standing:
                self._export(name, tag)

    def _export(self, name: str, tag: str) -> None:
        own = GAUGES[name].tag
        _gauge(name).set(self._standing[name, tag], {**self._tags, own: tag} if own else self._tags)

    def show(self, record: Record) -> None:
        """Take from a record or a message what it measures, and hand it on."""
        for key, value in record.items():
            if isinstance(value, Real):
                self._take(key, float(value))
        self._show(record)

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

    def preempted(self, reason: str) -> None:
        """The workers followed a notice; it counts where it came from outside of the run and its search."""
        if reason in {s.name for s in SIGNALS} or reason.endswith(" drains"):
            self.count("preemptions")

    def count(self, kind: Kind) -> None:
        """One more, kept in the run's directory."""
        self._interruptions[kind] += 1
        self.set(f"plca_{kind}", self._interruptions[kind])
        try:
            self._run.store.write(INTERRUPTIONS, json.dumps(self._interruptions).encode())
        except UserError as error:  # the run itself matters more
            log.warning("%s could not be written: %s", INTERRUPTIONS, error)


@contextmanager
def telemetry(run: Run, launch: int, show: Callable[[Record], None], notices: Notices) -> Iterator[Telemetry]:
    """The figures of a launch, inside a connection to Ray. A notice that ends the block before workers train counts."""
    parts = run.store.uri.split("/")
    told = Telemetry(run, launch, parts[-3] if parts[-2] == _TRIALS else "", show)
    done = threading.Event()

    def again() -> None:
        while not done.wait(_AGAIN_S):
            told.again()

    thread = threading.Thread(target=again, name="plca-telemetry", daemon=True)
    thread.start()
    try:
        yield told
    except KeyboardInterrupt:
        if notices.leaving:
            told.preempted(notices.reason or "")
        raise
    finally:
        done.set()
        thread.join()
        told.set("plca_active", 0)
        told.set("plca_workers", 0)


def _interruptions(store: Store) -> dict[Kind, int]:
    found = json.loads(store.read(INTERRUPTIONS)) if store.exists(INTERRUPTIONS) else {}
    return {"restarts": found.get("restarts", 0), "preemptions": found.get("preemptions", 0)}


@cache
def _gauge(name: str) -> Gauge:
    own = GAUGES[name].tag
    return Gauge(name, description=GAUGES[name].description, tag_keys=("run", "search", *([own] if own else [])))
