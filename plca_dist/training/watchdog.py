"""Ends the process of a rank whose step does not end.

A collective waits for a peer that hangs, or that died without closing its connections, for as long as its timeout says:
half an hour, or for ever. A thread of each rank watches the clock instead. That thread cannot run while a C extension
hangs and holds Python's global lock; for that case `faulthandler` has a timer, which needs no lock.
"""

import faulthandler
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType

from plca_dist.errors import TrainingFault, UserError
from plca_dist.run_files import stacks
from plca_dist.storage import Store

EXIT_CODE = 86
#: An evaluation or a save is not a step: it may take so many times as long.
_PATIENCE = 10
#: The store may be what does not answer, so the upload of the stacks may take only so long, in seconds.
_UPLOAD_S = 20.0
#: The timer gives the thread a tenth of the time more, and so many seconds, before it ends the process itself.
_TIMER_MARGIN_S = 5.0
_STDERR = 2
#: A month. torch counts the nanoseconds of a timeout in 64 bits.
_LONGEST_S = 2_600_000.0


def longest_wait(limit_s: float) -> timedelta:
    """How long a collective may wait for a peer, where a step may take `limit_s` seconds.

    The watchdog has ended a rank before: with stacks, which a timeout of NCCL or gloo would not leave. Their own are
    half an hour, and one rank may evaluate for longer than that.
    """
    return timedelta(seconds=min(_until_timer(limit_s * _PATIENCE) + _UPLOAD_S + 60, _LONGEST_S))


class Watchdog:
    """Ends this process when a step takes longer than `limit_s` seconds. One a process, as there is one timer.

    The stacks of all threads go to stderr and to `stacks-rank-R.txt` in the attempt's directory, and the process ends
    with `EXIT_CODE`. It ends at once and without cleaning up, because the code that would clean up is the code that
    hangs.

    Where the thread cannot run, the timer ends the process a little later. Then the stacks go to stderr alone, behind
    a line "Timeout (h:mm:ss)!", and the exit code is 1, which faulthandler does not let us choose. The driver sees
    the same in both cases: a rank whose process is gone, so that the run restarts from its newest checkpoint.

    Args:
        done: optimizer steps that are done.
    """

    def __init__(self, own: Store, rank: int, limit_s: float, done: int) -> None:
        self._own, self._rank, self._limit_s = own, rank, limit_s
        self._doing = f"step {done + 1}"
        self._allowed_s = limit_s * _PATIENCE  # the first step compiles, and waits for the slowest rank to get here
        self._since = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        _set_timer(self._allowed_s)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        self._thread.join()
        _cancel_timer()

    def step(self, done: int) -> None:
        """So many steps are done: the next one begins. Takes about 15 µs, most of them to set the timer anew."""
        self._begin(f"step {done + 1}", self._limit_s)

    @contextmanager
    def patient(self, doing: str) -> Iterator[None]:
        """Allow the block, which is called `doing` and is no step, ten times as long as a step."""
        before = self._doing
        self._begin(f"{doing} before {before}", self._limit_s * _PATIENCE)
        yield
        self._begin(before, self._limit_s)

    def _begin(self, doing: str, allowed_s: float) -> None:
        self._doing, self._allowed_s, self._since = doing, allowed_s, time.monotonic()
        _set_timer(allowed_s)

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit_s / 4)):
            if time.monotonic() - self._since > self._allowed_s:
                self._end()

    def _end(self) -> None:
        _set_timer(_UPLOAD_S)  # what follows may hang too
        message = (
            f"{self._doing} did not end within {self._allowed_s:g} s on rank {self._rank} "
            f"(cluster.step_timeout_s = {self._limit_s:g}); the stacks of all threads follow. "
            "A peer that hangs or is gone, or a step that needs longer: raise the limit.\n"
        )
        with tempfile.TemporaryFile("w+") as file:
            file.write(message)
            file.flush()
            faulthandler.dump_traceback(file)
            file.seek(0)
            text = file.read()
        sys.stderr.write(text)
        sys.stderr.flush()
        upload = threading.Thread(target=self._upload, args=(text,), daemon=True)
        upload.start()
        upload.join(_UPLOAD_S)
        os._exit(EXIT_CODE)

    def _upload(self, text: str) -> None:
        try:
            self._own.write(stacks(self._rank), text.encode())
        except (UserError, TrainingFault) as error:
            sys.stderr.write(f"{error}\n")


def _set_timer(allowed_s: float) -> None:
    """Have faulthandler end this process if the thread has not done so in time. Replaces the timer that was set."""
    seconds = min(_until_timer(allowed_s), threading.TIMEOUT_MAX)
    faulthandler.dump_traceback_later(seconds, file=_STDERR, exit=True)


def _until_timer(allowed_s: float) -> float:
    return 1.1 * allowed_s + _TIMER_MARGIN_S


def _cancel_timer() -> None:
    faulthandler.cancel_dump_traceback_later()
