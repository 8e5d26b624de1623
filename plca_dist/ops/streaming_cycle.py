"""The autograd functions of `streaming.cycle`: both directions on one matrix of scores, or on a matrix each.

Shapes: B pairs, N source positions, M target positions, C channels; I starts and J targets that are chosen.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from plca_dist.ops import autograd
from plca_dist.ops.epilogue import Pull, Softmax
from plca_dist.ops.multiply import rounding


class SharedCycle(Function):
    """One matrix of scores, D(i, j) = D(j, i): its rows give the source's matches, its columns the target's."""

    @staticmethod
    def forward(
        ctx: Any, source_BNC: Tensor, target_BMC: Tensor, labels_BN: Tensor, ignore: int, cosine: bool, products: str
    ) -> tuple[Tensor, ...]:
        blocks = autograd.matching_for(source_BNC, products)
        found, sizes = [], []
        with rounding(source_BNC.device, products):
            for source_NC, target_MC, labels_N in zip(source_BNC, target_BMC, labels_BN, strict=True):
                source, target = blocks.side(source_NC, cosine), blocks.side(target_MC, cosine)
                target_index_N, of_source, back_M = blocks.match_both(source, target)
                consistent_N = _consistent(labels_N, back_M[target_index_N], ignore)
                # Only targets of consistent starts need the softmax of their column.
                used_M = _used(target_index_N, consistent_N, len(target_MC))
                sizes.append(_counts(consistent_N, used_M))
                used_J = _where(used_M, sizes[-1][1])
                of_target = _spread(blocks.softmax_of(used_J, target, source), used_J, len(target_MC))
                found.append((target_index_N, back_M, consistent_N, *of_source, *of_target))
        return _save_cycle(ctx, (source_BNC, target_BMC), found, sizes, (cosine, products))

    @staticmethod
    def backward(ctx: Any, *gradients_of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        source_BNC, target_BMC, *found = autograd.saved(ctx)
        sizes, cosine, products = ctx.settings
        blocks = autograd.matching_for(source_BNC, products)
        gradients = [blocks.zeros(source_BNC), blocks.zeros(target_BMC)]
        with rounding(source_BNC.device, products):
            for b, (dsource_NC, dtarget_MC) in enumerate(zip(*gradients, strict=True)):
                of_source, of_target = _pulls([x[b] for x in found], gradients_of_outputs[-1][b], sizes[b])
                operands = blocks.operand(source_BNC[b], cosine), blocks.operand(target_BMC[b], cosine)
                blocks.match_gradient(*operands, of_source, of_target, dsource_NC, dtarget_MC)
        return *autograd.input_gradients(gradients, (source_BNC, target_BMC), cosine), None, None, None, None


class SeparateCycle(Function):
    """Two matrices of scores, source query with target key and target query with source key."""

    @staticmethod
    def forward(
        ctx: Any,
        source_query_BNC: Tensor,
        source_key_BNC: Tensor,
        target_query_BMC: Tensor,
        target_key_BMC: Tensor,
        labels_BN: Tensor,
        ignore: int,
        cosine: bool,
        products: str,
    ) -> tuple[Tensor, ...]:
        inputs = source_query_BNC, source_key_BNC, target_query_BMC, target_key_BMC
        blocks = autograd.matching_for(source_query_BNC, products)
        found, sizes = [], []
        with rounding(source_query_BNC.device, products):
            for *pair, labels_N in zip(*inputs, labels_BN, strict=True):
                N, M = (len(x) for x in pair[1:3])
                source_query, source_key, target_query, target_key = (blocks.side(x, cosine) for x in pair)
                target_index_N = blocks.best(source_query, target_key)
                if blocks.on_gpu:  # to know which targets were met the host would have to wait
                    back_M, of_target = blocks.match(target_query, source_key)
                else:
                    met_M = _used(target_index_N, torch.ones_like(target_index_N, dtype=torch.bool), M)
                    met_J = _where(met_M, *_counts(met_M))
                    back_J, softmax_J = blocks.match(target_query.take(met_J), source_key)
                    back_M = torch.zeros_like(met_M, dtype=torch.int64).index_copy_(0, met_J, back_J)
                    of_target = _spread(softmax_J, met_J, M)
                consistent_N = _consistent(labels_N, back_M[target_index_N], ignore)
                sizes.append(_counts(consistent_N, _used(target_index_N, consistent_N, M)))
                start_I = _where(consistent_N, sizes[-1][0])
                of_source = _spread(blocks.softmax_of(start_I, source_query, target_key), start_I, N)
                found.append((target_index_N, back_M, consistent_N, *of_source, *of_target))
        return _save_cycle(ctx, inputs, found, sizes, (cosine, products))

    @staticmethod
    def backward(ctx: Any, *gradients_of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        saved = autograd.saved(ctx)
        inputs, found = saved[:4], saved[4:]
        sizes, cosine, products = ctx.settings
        blocks = autograd.matching_for(inputs[0], products)
        gradients = [blocks.zeros(x) for x in inputs]
        with rounding(inputs[0].device, products):
            for b, (dsource_query, dsource_key, dtarget_query, dtarget_key) in enumerate(zip(*gradients, strict=True)):
                of_source, of_target = _pulls([x[b] for x in found], gradients_of_outputs[-1][b], sizes[b])
                source_query, source_key, target_query, target_key = (blocks.operand(x[b], cosine) for x in inputs)
                blocks.match_gradient(source_query, target_key, of_source, None, dsource_query, dtarget_key)
                blocks.match_gradient(target_query, source_key, of_target, None, dtarget_query, dsource_key)
        return *autograd.input_gradients(gradients, inputs, cosine), None, None, None, None


def _save_cycle(
    ctx: Any,
    inputs: tuple[Tensor, ...],
    found: Sequence[tuple[Tensor, ...]],
    sizes: list[tuple[int, ...]],
    settings: tuple[bool, str],
) -> tuple[Tensor, ...]:
    """The outputs of `cycle`. `found`, of every pair: j*, the match of every target, Î and two softmaxes.

    `sizes`, of every pair: how many starts are consistent, and how many targets they use.
    """
    target_index_BN, back_BM, consistent_BN, *softmax = autograd.stack(found)
    ctx.save_for_backward(*inputs, target_index_BN, back_BM, consistent_BN, *softmax)
    ctx.settings = (sizes, *settings)
    source_index_BN = back_BM.gather(1, target_index_BN)
    log_probability_BN = -softmax[2] - softmax[5].gather(1, target_index_BN)
    log_probability_BN = torch.where(consistent_BN, log_probability_BN, 0)
    ctx.mark_non_differentiable(target_index_BN, source_index_BN, consistent_BN)
    return target_index_BN, source_index_BN, consistent_BN, log_probability_BN


def _pulls(found: list[Tensor], gradient_N: Tensor, sizes: tuple[int, ...]) -> tuple[Pull, Pull]:
    """The pulls of the source's rows and of the target's. `found` and `sizes`: what `_save_cycle` saved of a pair."""
    target_index_N, back_M, consistent_N, *softmax = found
    gradient_N = torch.where(consistent_N, gradient_N, 0)
    gradient_M = torch.zeros_like(softmax[3]).index_add_(0, target_index_N, gradient_N)
    used_M = _used(target_index_N, consistent_N, len(gradient_M))
    return (
        Pull(Softmax(*softmax[:3]), target_index_N, gradient_N, _where(consistent_N, sizes[0])),
        Pull(Softmax(*softmax[3:]), back_M, gradient_M, _where(used_M, sizes[1])),
    )


def _used(target_index_N: Tensor, consistent_N: Tensor, M: int) -> Tensor:
    """(M,) bool: the targets that starts in `consistent` have as their match."""
    count_M = torch.zeros(M, dtype=torch.int32, device=target_index_N.device)
    return count_M.index_add_(0, target_index_N, consistent_N.int()) > 0


def _counts(*chosen: Tensor) -> tuple[int, ...]:
    """How many of each are True. The host waits for the device, once: it has to know the sizes of what follows."""
    return tuple(torch.stack([of_N.sum() for of_N in chosen]).tolist())


def _where(chosen_N: Tensor, count: int) -> Tensor:
    """The places of the `count` that are True, in increasing order."""
    return torch.nonzero_static(chosen_N, size=count).squeeze(1)


def _consistent(labels_N: Tensor, source_index_N: Tensor, ignore: int) -> Tensor:
    return (labels_N != ignore) & (labels_N == labels_N[source_index_N])


def _spread(softmax: Softmax, index_I: Tensor, N: int) -> Softmax:
    """The softmaxes of the rows at `index`, among N rows; the other rows are zeros, which are never read."""
    return Softmax(*(s.new_zeros(N).index_copy_(0, index_I, s) for s in softmax))
