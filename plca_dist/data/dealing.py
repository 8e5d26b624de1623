"""Row groups dealt out to slots, so that few are read by more than one of them; and the order inside a slot.

Both are pure functions of numbers: `order.Order` gives them keyed random ones.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple


class Piece(NamedTuple):
    """Rows [start, stop) of a row group, by its number in the sequence that was dealt."""

    group: int
    start: int
    stop: int


class Share(NamedTuple):
    """What one slot reads in an epoch. `shared`: pieces of groups that its neighbours read too; `whole`: all others."""

    shared: list[Piece]
    whole: list[Piece]


def deal(sizes: Sequence[int], slots: int, share: int) -> list[Share]:
    """Row groups of `sizes` rows, slots·share rows in all, as one share of exactly `share` rows for each slot.

    A slot takes groups in their sequence. Its last one or two are looked for further on, so that they fill it exactly.
    Only where none do, a group is cut, and its rest goes to the next slot. So a group is read by several slots only if
    they are neighbours, which one rank may own.
    """
    assert sum(sizes) == slots * share, (sum(sizes), slots, share)
    left = _Left(sizes)
    rest: Piece | None = None
    shares = []
    for _ in range(slots):
        shared: list[Piece] = []
        whole: list[Piece] = []
        need = share
        if rest:
            part, rest = _cut(rest, need)
            shared.append(part)
            need -= part.stop - part.start
        while need:
            group = left.take(left.fitting(need))
            part, rest = _cut(Piece(group, 0, sizes[group]), need)
            (shared if rest else whole).append(part)
            need -= part.stop - part.start
        shares.append(Share(shared, whole))
    return shares


def draw(groups: Sequence[Sequence[int]], window: int, bits: Sequence[int]) -> list[int]:
    """The rows of `groups` in an order in which at most `window` groups are begun and not used up at any time.

    So many groups are open. The next row is any of theirs, each as likely as another. Where a group is used up, the
    next one is opened.

    Args:
        bits: a random integer of 64 bits for each row.
    """
    waiting = iter([(number, row) for row in group] for number, group in enumerate(groups))
    unused = [len(group) for group in groups]
    open_rows = [pair for group in islice(waiting, window) for pair in group]
    rows = []
    for random in bits:
        at = random * len(open_rows) >> 64
        number, row = open_rows[at]
        rows.append(row)
        last = open_rows.pop()
        if at < len(open_rows):
            open_rows[at] = last
        unused[number] -= 1
        if not unused[number]:
            open_rows += next(waiting, [])
    return rows


class _Left:
    """The groups that are not dealt yet, in their sequence and by size."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._used = [not size for size in sizes]
        self._by_size: dict[int, deque[int]] = {size: deque() for size in sorted(set(sizes) - {0}, reverse=True)}
        for group, size in enumerate(sizes):
            if size:
                self._by_size[size].append(group)
        self._largest = max(sizes)
        self._next = 0

    def take(self, group: int) -> int:
        self._used[group] = True
        return group

    def fitting(self, need: int) -> int:
        """The group that a slot takes next which needs so many rows."""
        while self._used[self._next]:
            self._next += 1
        if need >= self._sizes[self._next] + self._largest:
            return self._next
        smaller = [size for size in self._by_size if size <= need and self._count(size, 1)]
        exact = (s for s in smaller if s == need or self._count(need - s, 2 if need == 2 * s else 1))
        size = next(exact, smaller[0] if smaller else None)
        return self._by_size[size][0] if size else self._next

    def _count(self, size: int, least: int) -> bool:
        """Whether there are at least so many unused groups of this size, `least` being 1 or 2."""
        queue = self._by_size.get(size, deque())
        while queue and self._used[queue[0]]:
            queue.popleft()
        while len(queue) > 1 and self._used[queue[1]]:
            del queue[1]
        return len(queue) >= least


def _cut(piece: Piece, need: int) -> tuple[Piece, Piece | None]:
    """The first `need` rows of a piece, and the rest, None where there is none."""
    middle = piece.start + need
    return (piece, None) if middle >= piece.stop else (piece._replace(stop=middle), piece._replace(start=middle))
