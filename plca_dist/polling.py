"""Doing something again: in a thread beside a block of work, and where what was read cannot be right."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from plca_dist.errors import first_line

log = logging.getLogger(__name__)

#: Seconds before what cannot be right is read again: its bytes may be lost on their way alone.
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)


def tries() -> Iterator[bool]:
    """For each try to read something, whether it is the last one. It sleeps between them, for 7.5 s in all."""
    for pause in _PAUSES_S:
        yield False
        time.sleep(pause)
    yield True


@contextmanager
def polling(name: str, every_s: float, *tasks: Callable[[], object]) -> Iterator[None]:
    """Inside the block a thread calls the tasks every `every_s` seconds, one after the other.

    A task that raises fails for itself alone: the error is warned of, each text once, and the task is called again
    the next time. Nothing ends the thread but the end of the block, which waits for the tasks that are under way.

    Args:
        name: of the thread; warnings begin with it.
    """
    done = Event()
    thread = start_polling(name, every_s, *tasks, until=done.is_set, pause=done.wait)
    try:
        yield
    finally:
        done.set()
        thread.join()


def start_polling(
    name: str,
    every_s: float,
    *tasks: Callable[[], object],
    until: Callable[[], bool],
    pause: Callable[[float], object] | None = None,
) -> Thread:
    """`polling` without a block: the thread ends once `until` is true, or with the process.

    Args:
        pause: waits for so many seconds, or less where waiting is over.
    """
    pause = pause or Event().wait
    warned = set[str]()

    def run() -> None:
        pause(every_s)
        while not until():
            for task in tasks:
                try:
                    task()
                except Exception as error:
                    _warn(name, error, warned)
            pause(every_s)

    thread = Thread(target=run, name=f"plca-{name}", daemon=True)
    thread.start()
    return thread


def _warn(name: str, error: Exception, warned: set[str]) -> None:
    text = first_line(error, with_type=True)
    if text in warned:
        return
    warned.add(text)
    with suppress(Exception):  # a terminal that is gone must not end the thread either
        log.warning("%s: %s", name, text)
