"""Whether a run is finished: its weight file is there, and whole."""

from typing import Any

from plca_dist.errors import UserError
from plca_dist.models.state import RESTORE
from plca_dist.parsing import Unreadable, json_as
from plca_dist.run_files import WEIGHTS
from plca_dist.storage import Store

#: One request gets the header of most networks.
_FIRST = 1 << 17


def has_result(run: Store) -> bool:
    """Whether the run has left its weights.

    The file's size is compared with what its header says, not its hash: two small requests. Whoever loads the weights
    compares the hash.

    Raises:
        UserError: the file is empty, cut short or no weight file. It is no result, and nothing is written over it.
    """
    size = run.size_or_none(WEIGHTS)
    if size is None:
        return False
    wanted = _size_by_header(run, size)
    if size != wanted:
        problem = f"it has {size} bytes, and its header says {wanted}" if wanted else f"{size} bytes without a header"
        raise UserError(f"{run.uri}/{WEIGHTS} is damaged ({problem}): {RESTORE}.")
    return True


def _size_by_header(run: Store, size: int) -> int | None:
    """The size of a safetensors file, as its header says: 8 bytes of length, JSON, tensors. None without a header."""
    if size <= 8:
        return None
    data = run.read_range(WEIGHTS, 0, min(size, _FIRST))
    end = 8 + int.from_bytes(data[:8], "little")
    if end > size:
        return None
    if end > len(data):
        data += run.read_range(WEIGHTS, len(data), end)
    try:
        return json_as(data[8:end], lambda header: end + _tensors_end(header), WEIGHTS, "read another")
    except Unreadable:
        return None


def _tensors_end(header: Any) -> int:
    return max((int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0)
