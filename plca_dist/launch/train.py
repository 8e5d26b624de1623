"""A run from start to end, through failures: fit, and fit again from the newest checkpoint."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from plca_dist.config import Config
from plca_dist.launch.board import board
from plca_dist.launch.cluster import connection, logs
from plca_dist.launch.failure import RunFailed
from plca_dist.launch.fit import ControllerFailed, WorkersFailed, clear, fit
from plca_dist.launch.run import Run, open_run
from plca_dist.training.commits import committed
from plca_dist.training.health import TrainingFault
from plca_dist.training.session import Record


def train(config: Config, name: str, show: Callable[[Record], None]) -> Run:
    """Train the recipe as run `name`, or continue it; returns when the result stands in its directory.

    Args:
        config: the recipe; `storage.uri` says where runs are kept.
        name: of the run. The same name continues it, and a finished one is returned as it is.
        show: gets every record (metrics, or `{"message": …}`) while training goes on.

    Raises:
        UserError: bad input; nothing was started, or it could only be met on the way.
        RunFailed: a fault in training; names the newest checkpoint.
        KeyboardInterrupt: Ctrl-C; says where the run stands.
    """
    run = open_run(config, name)
    if run.finished:
        show({"message": f"run {run.store.uri} is finished; nothing to do"})
        return run
    with _warnings_shown(show):
        try:
            with connection(run.config.cluster, lambda message: show({"message": message})), board(show) as watcher:
                _persist(run, watcher, show)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_standing(run)) from None
        finally:
            clear(run)
    return run


@contextmanager
def _warnings_shown(show: Callable[[Record], None]) -> Iterator[None]:
    """What this package warns of in this process goes where messages go, and not across the progress line."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: show({"message": f"warning: {record.getMessage()}"})  # type: ignore[method-assign]
    logger = logging.getLogger("plca_dist")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def _persist(run: Run, watcher: Any, show: Callable[[Record], None]) -> None:
    """Fit, and fit again after a failure: from the newest checkpoint, while the budget for errors lasts.

    A lost worker spends none of it as long as the run got further since the last loss. Ray's own retries are off:
    they cannot tell bad input, which no retry mends, from a lost machine.
    """
    failures, reached = 0, _reached(run)
    workers = run.config.cluster.workers
    while True:
        show({"message": f"starting {workers} worker{'s' if workers > 1 else ''}"})
        try:
            fit(run, watcher)
            return
        except ControllerFailed as error:
            raise RunFailed(f"{_first_line(error)}; logs: {logs()}") from error
        except WorkersFailed as error:
            faults = [c for c in error.causes if isinstance(c, TrainingFault)]
            if faults:
                raise RunFailed(str(faults[0])) from error
            now = _reached(run)
            if not (error.lost and now > reached):
                failures += 1
            reached = now
            said = _first_line(error.causes[0])
            if failures > run.config.cluster.max_failures:
                raise RunFailed(
                    f"{said}; gave up after {failures} failure{'s' if failures > 1 else ''}. "
                    f"Newest checkpoint: step {now}; logs: {logs()}"
                ) from error
            show({"message": f"worker failed ({said}); restarting from step {now}"})


def _reached(run: Run) -> int:
    newest = next(iter(committed(run.store)), None)
    return newest.step if newest else 0


def _standing(run: Run) -> str:
    """Where an interrupted run stands, and how it goes on."""
    step = _reached(run)
    where = f"checkpoint at step {step} of {run.config.schedule.steps}" if step else "no checkpoint yet"
    return f"run {run.store.uri} has {where}; the same command continues it"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
