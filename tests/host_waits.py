"""Counts what would make the host wait for a GPU: operations whose result, or its shape, the host has to know."""

import traceback
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations whose results the host reads, or sizes from values.
_READS = (
    "aten._local_scalar_dense", "aten.nonzero.", "aten.masked_select", "aten._unique", "aten.unique", "aten.equal",
    "aten.is_nonzero", "aten.repeat_interleave.Tensor", "aten.bincount",
)  # fmt: skip


class HostWaits(TorchDispatchMode):
    """A context manager.

    Attributes:
        places: of each such operation, its name and where this project called it; in backward passes "?".
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(operation)
        self.operations += 1
        masked = name.startswith(("aten.index.", "aten.index_put")) and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if masked or name.startswith(_READS):
            ours = [f for f in traceback.extract_stack() if "/plca_dist/" in f.filename]
            where = f"{ours[-1].filename.rpartition('/plca_dist/')[2]}:{ours[-1].lineno}" if ours else "?"
            self.places.append(f"{name} {where}")
        return operation(*args, **(kwargs or {}))
