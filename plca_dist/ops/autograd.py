"""The parts that the autograd functions of the streaming form share: their blocks, saved tensors and gradients.

Shapes: B pairs, N positions, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plca_dist.ops.attending import Attending
from plca_dist.ops.matching import Matching
from plca_dist.ops.rows import unit_gradient_

#: Up to this many channels it costs less to make a score than to write it. On CUDA fused kernels do not write it.
FEW_CHANNELS = 128


def matching_for(like: Tensor, products: str) -> Matching:
    """What `match` is computed by for pairs like `like` (B, N, C)."""
    if _few(like, like.shape[-1]):
        from plca_dist.ops.triton.few_channels import FewMatching

        return FewMatching(like, products)
    return Matching(like, products)


def attending_for(like: Tensor, products: str, values: int) -> Attending:
    """What `attend` is computed by for pairs like `like` (B, N, C) and values of so many channels."""
    if _few(like, max(like.shape[-1], values)):
        from plca_dist.ops.triton.few_channels import FewAttending

        return FewAttending(like, products)
    return Attending(like, products)


def _few(like: Tensor, channels: int) -> bool:
    return like.is_cuda and like.dtype != torch.float64 and channels <= FEW_CHANNELS


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
