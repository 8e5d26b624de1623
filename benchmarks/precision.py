"""What each choice of the recipes for GPUs changes in the numbers, at small size, on the CPU.

    python -m benchmarks.precision [--steps 100]

The toytown recipe on one process, from fresh weights and after some steps in float32: the loss and the gradient of one
batch under each choice, against float32 with images as they are. On the CPU bfloat16 autocast is torch's own;
`products: bf16` is done as CUDA does it; TF32 is put in place by rounding what convolutions and matrix products take to
10 bits of mantissa, forward and backward. Differences are relative: of the loss; of the gradient of all weights, as the
root mean square of the difference over that of the gradient; and the share of source positions with the same j*.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.association_measure import lower_products
from benchmarks.common import save
from benchmarks.step_time import config_for
from plca_dist.data.prepare import prepare_toytown
from plca_dist.method import objective as method
from plca_dist.ops.settings import Pairwise
from plca_dist.storage import resolve
from plca_dist.training.build import build_objective
from plca_dist.training.dataloading import open_stream
from plca_dist.training.engine import TrainingModule
from plca_dist.training.trained import fresh_network


class TF32(TorchDispatchMode):
    """Rounds float32 operands of convolutions and matrix products to the nearest of 10 bits of mantissa."""

    _OPERANDS = {"convolution": 2, "convolution_backward": 3, "mm": 2, "bmm": 2}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        number = self._OPERANDS.get(str(operation).split(".")[1], 0)
        return operation(*(_tf32(x) for x in args[:number]), *args[number:], **(kwargs or {}))


def _tf32(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        return x
    bits = x.view(torch.int32)
    return (((bits + 0xFFF + ((bits >> 13) & 1)) >> 13) << 13).view(torch.float32)
