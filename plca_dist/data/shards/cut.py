"""Where row groups end. A row group is what is fetched at once, and what the order of training deals out to slots."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

Row = TypeVar("Row", bound=dict[str, Any])

#: At most so much is fetched at once. The rows give a small data set of small images several groups to shuffle.
ROW_GROUP_BYTES = 8 << 20
ROW_GROUP_ROWS = 64
#: A small data set has about so many row groups, and not fewer but larger ones: else many ranks, each with a few
#: samples an epoch, would read large groups for them.
_ROW_GROUPS = 4096
#: Less is not worth a request of its own.
_LEAST_BYTES = 1 << 20


@dataclass(frozen=True)
class RowGroupCut:
    """A row group ends before it has more than the most rows or bytes; or once it has enough rows and a MiB.

    `enough_rows` None: of data sets written before there was such a number.
    """

    most_rows: int = ROW_GROUP_ROWS
    most_bytes: int = ROW_GROUP_BYTES
    enough_rows: int | None = None

    @classmethod
    def of(cls, samples: int, most_rows: int = ROW_GROUP_ROWS, most_bytes: int = ROW_GROUP_BYTES) -> "RowGroupCut":
        """The cut of a data set of so many samples."""
        return cls(most_rows, most_bytes, max(1, samples // _ROW_GROUPS))

    def grouped(self, rows: Iterator[Row]) -> Iterator[list[Row]]:
        """The rows, each a dictionary with `image` and perhaps `label`, as one list for each row group."""
        group: list[Row] = []
        weight = 0
        for row in rows:
            size = len(row["image"]) + len(row.get("label", b""))
            full = len(group) == self.most_rows or weight + size > self.most_bytes or self._enough(group, weight)
            if group and full:
                yield group
                group, weight = [], 0
            group.append(row)
            weight += size
        if group:
            yield group

    def _enough(self, group: Sized, weight: int) -> bool:
        return self.enough_rows is not None and len(group) >= self.enough_rows and weight >= _LEAST_BYTES
