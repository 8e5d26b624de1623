"""An end to steps that do not end.

A collective waits for a peer that hangs, or that died without closing its connections, for as long as its timeout says:
half an hour, or for ever. A thread of each rank watches the clock instead.
"""

import faulthandler
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from plca_dist.errors import UserError
from plca_dist.run_files import stacks
from plca_dist.storage import Store

EXIT_CODE = 86
#: An evaluation or a save is not a step: it may take so many times as long.
_PATIENCE = 10
#: The store may be what does not answer, so its stacks are waited for only so long, in seconds.
_LAST_WORDS_S = 20.0


class Watchdog:
    """Ends this process, with its stacks said, when a step takes longer than `limit_s` seconds.

    The stacks of all threads go to stderr and to `stacks-rank-R.txt` in the run's directory. The process ends at once
    and without cleaning up, for what would clean up is what hangs; the launcher sees a lost rank.

    Args:
        done: optimizer steps that are done.
    """

    def __init__(self, run: Store, rank: int, limit_s: float, done: int) -> None:
        self._run, self._rank, self._limit_s = run, rank, limit_s
        self._doing = f"step {done + 1}"
        self._allowed_s = limit_s * _PATIENCE  # the first step compiles, and waits for the slowest rank to get here
        self._since = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        self._thread.join()

    def step(self, done: int) -> None:
        """So many steps are done: the next one begins."""
        self._begin(f"step {done + 1}", self._limit_s)

    @contextmanager
    def patient(self, doing: str) -> Iterator[None]:
        """What happens inside is called `doing`, is no step, and may take ten times as long as one."""
        before = self._doing
        self._begin(f"{doing} before {before}", self._limit_s * _PATIENCE)
        yield
        self._begin(before, self._limit_s)

    def _begin(self, doing: str, allowed_s: float) -> None:
        self._doing, self._allowed_s, self._since = doing, allowed_s, time.monotonic()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit_s / 4)):
            if time.monotonic() - self._since > self._allowed_s:
                self._end()

    def _end(self) -> None:
        said = (
            f"{self._doing} did not end within {self._allowed_s:g} s on rank {self._rank} "
            f"(cluster.step_timeout_s = {self._limit_s:g}); the stacks of all threads follow. "
            "A peer that hangs or is gone, or a step that needs longer: raise the limit.\n"
        )
        with tempfile.TemporaryFile("w+") as file:
            file.write(said)
            file.flush()
            faulthandler.dump_traceback(file)
            file.seek(0)
            text = file.read()
        sys.stderr.write(text)
        sys.stderr.flush()
        leave = threading.Thread(target=self._leave, args=(text,), daemon=True)
        leave.start()
        leave.join(_LAST_WORDS_S)
        os._exit(EXIT_CODE)

    def _leave(self, text: str) -> None:
        try:
            self._run.write(stacks(self._rank), text.encode())
        except UserError as error:
            sys.stderr.write(f"{error}\n")
