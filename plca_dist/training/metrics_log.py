"""`metrics.jsonl`: one JSON object a line, continued across restarts without gaps or repeats; TensorBoard's file."""

import json
import logging
import time
from collections.abc import Callable
from threading import Lock

from plca_dist.errors import UserError
from plca_dist.messages import Message, MessageKind, Record, RunEvent
from plca_dist.run_files import METRICS
from plca_dist.storage import Store
from plca_dist.training.metrics import STEP
from plca_dist.training.tensorboard import EventFile

log = logging.getLogger(__name__)

_FLUSH_S = 15.0


class MetricsLog:
    """Rank 0's record of the run; on other ranks (`keep=False`) it does nothing.

    Object stores cannot append, so the whole file is rewritten, at most every 15 seconds and at every checkpoint.
    Records past step `upto` belong to work that a kill has undone and are dropped.
    """

    def __init__(self, run: Store, report: Callable[[RunEvent], None], *, upto: int, keep: bool) -> None:
        self._run, self._report, self._keep = run, report, keep
        self._records: list[Record] = []
        self._events = EventFile(upto)
        self._flushed = time.monotonic()
        self._writing = Lock()
        if keep and run.exists(METRICS):
            self._records = [r for r in read_records(run) if r[STEP] <= upto]

    def add(self, record: Record) -> None:
        """Keep the record, and show it to the person watching; it takes the place of one of its step and kind."""
        if not self._keep:
            return
        self._records = [r for r in self._records if (r[STEP], r.keys()) != (record[STEP], record.keys())]
        self._records.append(record)
        self._events.add(record)
        self._report(record)
        if time.monotonic() - self._flushed > _FLUSH_S and not self._writing.locked():
            try:
                self.flush()
            except UserError as error:  # nothing is lost: the next one writes it all
                log.warning("metrics could not be written: %s", error)
                self._flushed = time.monotonic()

    def say(self, kind: MessageKind, text: str, **values: float) -> None:
        """Show a message, which is not kept."""
        if self._keep:
            self._report(Message(kind, text, values))

    def flush(self) -> None:
        """Write everything so far. Any thread may; a later call never ends up below an earlier one."""
        if not self._keep:
            return
        with self._writing:
            self._run.write(METRICS, "".join(json.dumps(r) + "\n" for r in self._records).encode())
            self._flushed = time.monotonic()
            try:
                self._run.write(self._events.name, self._events.encoded())
            except UserError as error:  # no checkpoint should fail for it; the next flush writes it all
                log.warning("TensorBoard's file could not be written: %s", error)


def read_records(run: Store) -> list[Record]:
    """The records of a run so far, oldest first."""
    return [json.loads(line) for line in run.read(METRICS).decode().splitlines()]
