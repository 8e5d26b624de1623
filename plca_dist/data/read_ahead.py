"""Making the next things in a thread while this one is used."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


def read_ahead(things: Iterator[T], most: int = 2) -> Generator[T, None, None]:
    """The same things in the same order; a thread makes up to `most` of them ahead.

    An error comes where the thing would have come. When this generator is closed, so is `things`, if it can be.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="plca-read-ahead") as thread:

        def ask() -> Future[T]:
            return thread.submit(next, things, _END)

        waiting = deque(ask() for _ in range(most))
        try:
            while (thing := waiting.popleft().result()) is not _END:
                waiting.append(ask())
                yield thing
        finally:
            for future in waiting:
                future.cancel()
            if isinstance(things, Generator):
                thread.submit(things.close).result()  # behind the one that is being made
