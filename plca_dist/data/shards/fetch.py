"""Row groups of a shard directory, fetched on threads before they are needed, and kept while they are needed."""

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np

from plca_dist.data.shards import Damaged, ShardReader

#: Row groups in flight at once; each is one or two requests of a few MB.
_REQUESTS = 4


class RowGroups:
    """Row groups in memory: each from its first `hold` until there were as many calls of `release`.

    Attributes:
        first_rows: (G,) int64, the global row that each row group begins with.
        most_held: the largest number of row groups that were held at once.
    """

    def __init__(self, reader: ShardReader, columns: list[str]) -> None:
        self.first_rows = np.array([g.first_row for g in reader.manifest.row_groups], np.int64)
        self.most_held = 0
        self._reader, self._columns = reader, columns
        self._pool = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="plca-fetch")
        self._tables: dict[int, Future[Any]] = {}
        self._holds: dict[int, int] = {}
        self._damaged: dict[int, Damaged] = {}
        self._lock = Lock()

    def group_of(self, rows: Any) -> Any:
        """Row group numbers of global rows; arrays as well as single ones."""
        return np.searchsorted(self.first_rows, rows, side="right") - 1

    def hold(self, number: int) -> None:
        """Start fetching the row group, unless it is here already or being fetched, and keep it."""
        with self._lock:
            self._holds[number] = self._holds.get(number, 0) + 1
            if number not in self._tables:
                self._tables[number] = self._pool.submit(self._fetch, number)
                self.most_held = max(self.most_held, len(self._tables))

    def release(self, number: int) -> None:
        """Take one `hold` back."""
        with self._lock:
            self._holds[number] -= 1
            if not self._holds[number]:
                del self._holds[number]
                self._tables.pop(number).cancel()

    def row(self, index: int) -> dict[str, Any]:
        """The columns of global row `index`, once its row group has arrived.

        Raises:
            Damaged: when the row group is.
            UserError: when the store or the data set is at fault.
        """
        number = int(self.group_of(index))
        self.hold(number)
        try:
            table = self._tables[number].result()
            row = index - int(self.first_rows[number])
            return {name: table[name][row].as_py() for name in self._columns}
        finally:
            self.release(number)

    def close(self) -> None:
        """End the threads, including those that wait for a store that is away."""
        self._reader.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, number: int) -> Any:
        if known := self._damaged.get(number):
            raise known
        group = self._reader.manifest.row_groups[number]
        try:
            return self._reader.read_row_group(group.shard, group.group, self._columns)
        except Damaged as error:
            self._damaged[number] = error
            raise
