"""Networks without storage: what they are made of can be asked, and nothing is computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

#: Those of torch.nn.init call the others with all modes off.
_DRAWING = (Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_)


class _NothingDrawn(TorchFunctionMode):
    """Leaves tensors as they are where an initialization would draw their numbers.

    On tensors without storage torch does that in Python, and imports its compiler for it: over a second.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function in _DRAWING:
            return args[0] if args else given["tensor"]
        return function(*args, **given)


@contextmanager
def without_storage() -> Iterator[None]:
    """Modules that are made within it have parameters of shapes and dtypes alone."""
    with torch.device("meta"), _NothingDrawn():
        yield
