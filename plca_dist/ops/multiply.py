"""Matrix products, rounded as `settings.PRODUCTS` says; the blocks are made of these forms of product.

Everything around a product (statistics, log-sum-exp, accumulation over blocks) is float32 under every setting.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from plca_dist.ops.dense import without_autocast


def operand_dtype(x: Tensor, products: str) -> torch.dtype:
    """The dtype in which `x` enters a product."""
    if x.dtype == torch.float64:
        return torch.float64
    return torch.bfloat16 if products == "bf16" and x.is_cuda else torch.float32


@contextmanager
def rounding(device: torch.device, products: str) -> Iterator[None]:
    """Within it float32 products are rounded as `products` says, whatever autocast and process-wide settings are.

    A GPU is the current one within it: Triton launches its kernels there, wherever their tensors are.
    """
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    setting = backend.matmul
    here = {("cuda", "tf32"): "tf32", ("cpu", "bf16"): "bf16"}.get((device.type, products), "ieee")
    before = setting.fp32_precision
    setting.fp32_precision = here
    try:
        with without_autocast(device), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield
    finally:
        setting.fp32_precision = before


def mm(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of two matrices, float32 out of bfloat16 operands, accumulated in float32."""
    return _low_mm(a, b) if a.dtype == torch.bfloat16 else torch.mm(a, b)


def mm_(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out = a @ b, `out` being float32 or float64."""
    if a.dtype == torch.bfloat16:
        _low_mm(a, b, out)
    else:
        torch.mm(a, b, out=out)


def add_mm_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, `total` being float32 or float64."""
    if total.stride(0) == 1:  # oneDNN copies a result that is not row-major
        total, a, b = total.mT, b.mT, a.mT
    if a.dtype == torch.bfloat16:
        _low_addmm_(total, a, b)
    else:
        total.addmm_(a, b)


def _low_mm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """On CUDA alone: a product of lower operands whose result is never rounded to their precision."""
    return torch.mm(a, b, out_dtype=torch.float32, out=out)


def _low_addmm_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """As `_low_mm`, without a matrix for the product itself."""
    torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
