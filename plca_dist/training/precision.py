"""How the products of float32 tensors are rounded on a GPU, where cuDNN's convolutions would take TF32 by default."""

import torch


def set_products(precision: str) -> None:
    """Have this process multiply as the recipe's `precision` says: TF32 under "tf32", else float32 as it is.

    bfloat16 is autocast, and says nothing of the products that stay float32. The association has settings of its own.
    """
    # Not fp32_precision: after that torch.export, which asks for these, ends with an error.
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
