"""The parts that the autograd functions of the streaming form share: their blocks, saved tensors and gradients.

Shapes: B pairs, N positions, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plca_dist.ops.blocks import Blocks
from plca_dist.ops.rows import unit_gradient_

#: Up to this many channels it costs less to make a score than to write it. On CUDA fused kernels do not write it.
FEW_CHANNELS = 128


def blocks_for(like: Tensor, products: str, *channels: int) -> Blocks:
    """The blocks for pairs like `like`; `channels` are those of the score, and of the value if there is one."""
    if like.is_cuda and like.dtype != torch.float64 and max(channels) <= FEW_CHANNELS:
        from plca_dist.ops.triton.few_channels import FewChannels

        return FewChannels(like, products)
    return Blocks(like, products)


def saved(ctx: Any) -> tuple[Tensor, ...]:
    """The saved tensors. Raises RuntimeError for a derivative of the gradient, which would come out wrong."""
    if torch.is_grad_enabled():
        raise RuntimeError("streaming has first derivatives only: without create_graph, or with backend='dense'")
    return ctx.saved_tensors


def stack(by_pair: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Batches (B, …) of the tensors that were computed pair by pair."""
    return [torch.stack(column) for column in zip(*by_pair, strict=True)]


def input_gradients(gradients: list[Tensor], inputs: Sequence[Tensor], cosine: bool) -> list[Tensor]:
    """Gradients of the inputs, in their dtypes, from those of the operands."""
    if cosine:
        through_norms(gradients, inputs)
    return [gradient.to(x.dtype) for gradient, x in zip(gradients, inputs, strict=True)]


def through_norms(gradients: list[Tensor], inputs: Sequence[Tensor]) -> None:
    """Turns gradients of x/‖x‖ into those of x, in place."""
    for gradient_BNC, x_BNC in zip(gradients, inputs, strict=True):
        for gradient_NC, x_NC in zip(gradient_BNC, x_BNC, strict=True):
            unit_gradient_(gradient_NC, x_NC)
