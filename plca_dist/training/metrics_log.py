"""`metrics.jsonl`, continued across restarts without gaps or repeats, and TensorBoard's file beside it."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any

from plca_dist.errors import UserError
from plca_dist.messages import Message, MessageKind, Record, RunEvent
from plca_dist.parsing import Unreadable, lines_as
from plca_dist.polling import tries
from plca_dist.run_files import METRICS, attempt, json_lines, numbers
from plca_dist.storage import Store
from plca_dist.training.attempts import current
from plca_dist.training.checkpoint.commit import Checkpoint
from plca_dist.training.metrics import STEP
from plca_dist.training.tensorboard import EventFile

log = logging.getLogger(__name__)

_FLUSH_S = 15.0


class MetricsLog:
    """The run's records, kept on rank 0. On other ranks (`keep=False`) it does nothing.

    Object stores cannot append, so the whole file is rewritten, at most every 15 seconds and at every checkpoint. It is
    in the attempt's own directory.

    Args:
        report: shows a record to the person watching.
        generation: the attempt's number.
        start_step: the step that the attempt continues from.
        before: the records that led there.
    """

    def __init__(
        self,
        run: Store,
        report: Callable[[RunEvent], None],
        *,
        generation: int,
        start_step: int,
        before: Sequence[Record] = (),
        keep: bool,
    ) -> None:
        self._run, self._report, self._keep = run, report, keep
        self._name = f"{attempt(generation)}/{METRICS}"
        self._records: list[Record] = list(before)
        self._events = EventFile(start_step, generation)
        self._flushed = time.monotonic()
        self._writing = Lock()

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
            self._run.write(self._name, self._encoded())
            self._flushed = time.monotonic()
            try:
                self._run.write(self._events.name, self._events.encoded())
            except UserError as error:  # no checkpoint should fail for it; the next flush writes it all
                log.warning("TensorBoard's file could not be written: %s", error)

    def count(self, step: int) -> int:
        """How many records are of this step and of those before it."""
        return sum(r[STEP] <= step for r in self._records)

    def leave(self) -> None:
        """Leave all records as part of the run's result, unless an attempt has done so before."""
        if self._keep:
            self._run.create(METRICS, self._encoded())

    def _encoded(self) -> bytes:
        return json_lines(self._records)


def read_records(run: Store) -> list[Record]:
    """The records of a run so far, oldest first; none where there is no file of them yet."""
    name = current(run, METRICS)
    return _records(run, name) if name else []


def records_until(run: Store, checkpoint: Checkpoint) -> list[Record]:
    """The records that led to a checkpoint. Its attempt wrote them before the commit, which has their number.

    A file that has fewer is read again: its bytes may be lost on their way. After that a warning tells of the loss.
    """
    name = f"{attempt(checkpoint.generation)}/{METRICS}" if checkpoint.generation else METRICS
    records: list[Record] = []
    for _ in tries():
        with suppress(Unreadable):
            found = _records(run, name) if run.exists(name) else []
            records = [r for r in found if r[STEP] <= checkpoint.step]
            if checkpoint.records in (None, len(records)):
                return records
    log.warning("%s/%s has %d of %s records up to %s", run.uri, name, len(records), checkpoint.records, checkpoint.name)
    return records


def _records(run: Store, name: str) -> list[Record]:
    """Raises UserError for a line that is no record. A record is a mapping of names to numbers, with the step."""
    fix = "put a sound copy there, or take it away to do without these records"
    return lines_as(run.read(name), _record, f"{run.uri}/{name}", fix)


def _record(kept: Any) -> Record:
    record = numbers(kept)
    if kept.get(STEP) is None or not all(isinstance(value, int | float) for value in record.values()):
        raise ValueError("it is no record of a step")
    return record
