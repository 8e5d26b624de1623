"""How the products of float32 tensors are rounded on a GPU, where cuDNN's convolutions would take TF32 by default."""

from typing import Any

import torch


def set_products(precision: str) -> None:
    """Have this process multiply as the recipe's `precision` says: TF32 under "tf32", else float32 as it is.

    bfloat16 is autocast, and says nothing of the products that stay float32. The association has settings of its own.
    """
    backends: Any = torch.backends
    for products in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        products.fp32_precision = "tf32" if precision == "tf32" else "ieee"
