"""`metrics.jsonl`, continued across restarts without gaps or repeats, and TensorBoard's file beside it."""

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
    """The run's records, kept on rank 0. On other ranks (`keep=False`) it does nothing.

    Object stores cannot append, so the whole file is rewritten, at most every 15 seconds and at every checkpoint.
    Records of steps after `start_step` are dropped: a kill has undone that work.

    Args:
        report: shows a record to the person watching.
        start_step: the step that this launch continues from.
    """

    def __init__(self, run: Store, report: Callable[[RunEvent], None], *, start_step: int, keep: bool) -> None:
        self._run, self._report, self._keep = run, report, keep
        self._records: list[Record] = []
        self._events = EventFile(start_step)
        self._flushed = time.monotonic()
        self._writing = Lock()
        if keep and run.exists(METRICS):
            self._records = [r for r in read_records(run) if r[STEP] <= start_step]

    def add(self, record: Record) -> None:
        """Keep the record and show it. It replaces an earlier record of the same step with the same keys."""
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

    def show(self, kind: MessageKind, text: str, **values: float) -> None:
        """Show a message, which is not kept."""
        if self._keep:
            self._report(Message(kind, text, values))

    def flush(self) -> None:
        """Write everything so far. Any thread may call it; an earlier call never overwrites what a later one wrote."""
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
