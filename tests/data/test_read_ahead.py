"""Things made ahead are the same things, and no more of them than asked for."""

import threading
from collections.abc import Iterator

import pytest

from plca_dist.data.read_ahead import read_ahead


class Numbers:
    """Counts what was made; the generator of them notes that it was closed."""

    def __init__(self, until: int, error: Exception | None = None) -> None:
        self.until, self.error, self.made, self.closed = until, error, 0, False

    def generate(self) -> Iterator[int]:
        try:
            for number in range(self.until):
                self.made += 1
                yield number
            if self.error:
                raise self.error
        finally:
            self.closed = True


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_all_of_them_in_order(count: int) -> None:
    numbers = Numbers(count)
    assert list(read_ahead(numbers.generate())) == list(range(count))
    assert numbers.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("plca-read-ahead")]


def test_few_are_made_ahead_and_closing_ends_it() -> None:
    numbers = Numbers(100)
    ahead = read_ahead(numbers.generate(), 2)
    assert next(ahead) == 0
    ahead.close()
    assert numbers.made <= 3
    assert numbers.closed


def test_an_error_comes_in_its_place() -> None:
    ahead = read_ahead(Numbers(3, ZeroDivisionError()).generate())
    assert [next(ahead), next(ahead), next(ahead)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(ahead)
