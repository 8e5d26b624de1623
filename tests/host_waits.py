"""Counts what would make the host wait for a GPU: operations whose result, or its shape, the host has to know."""

import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations that the host reads the result of, or sizes memory by.
_READS = (
    "aten._local_scalar_dense", "aten.nonzero.", "aten.masked_select", "aten._unique", "aten.unique", "aten.equal",
    "aten.is_nonzero", "aten.repeat_interleave.Tensor", "aten.bincount",
)  # fmt: skip
#: Methods that copy to the host without an operation of their own on a tensor that is there already.
_COPIES = ("tolist", "cpu", "numpy")


class HostWaits(TorchDispatchMode):
    """A context manager.

    Attributes:
        places: of each such operation, its name and where this project called it.
        operations: how many operations there were in all: on a GPU each is a launch or more, or a view.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self.operations = 0
        self._patches = ExitStack()

    def __enter__(self) -> "HostWaits":
        for name in _COPIES:
            self._patches.enter_context(mock.patch.object(Tensor, name, self._noted(name)))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(operation)
        self.operations += 1
        masked = name.startswith(("aten.index.", "aten.index_put")) and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if masked or name.startswith(_READS):
            self._note(name)
        return operation(*args, **(kwargs or {}))

    def _noted(self, name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def method(tensor: Tensor, *args: Any, **more: Any) -> Any:
            self._note(name)
            return original(tensor, *args, **more)

        return method

    def _note(self, name: str) -> None:
        ours = [f for f in traceback.extract_stack() if "/plca_dist/" in f.filename]
        where = f"{ours[-1].filename.rpartition('/plca_dist/')[2]}" if ours else "elsewhere"
        self.places.append(f"{name} in {where}")
