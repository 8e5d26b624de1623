"""`match`, `attend` and `cycle` of `dense.py`, the same numbers and gradients, in O(block x N) memory.

Pairs are computed one by one. The inputs and three numbers a row are kept for the backward pass. The work on a pair is
in `matching.py` and `attending.py`, and on CUDA with few channels in `triton/fused.py`. Gradients are of the first
order only.

Shapes: B pairs, N queries or source positions, M keys or target positions, C and D channels.
"""

from typing import Any

from torch import Tensor
from torch.autograd import Function

from plca_dist.ops import autograd
from plca_dist.ops.dense import Cycle, Match, check_cycle_shapes, check_shapes
from plca_dist.ops.epilogue import Pull, Softmax
from plca_dist.ops.multiply import rounding
from plca_dist.ops.rows import row_dot
from plca_dist.ops.streaming_cycle import SeparateCycle, SharedCycle


def match(query_BNC: Tensor, key_BMC: Tensor, *, cosine: bool = False, products: str = "float32") -> Match:
    """See `dense.match`. In the backward pass rows without a gradient cost nothing."""
    check_shapes(query_BNC, key_BMC)
    return Match(*_Match.apply(query_BNC, key_BMC, cosine, products))


def attend(
    query_BNC: Tensor,
    key_BMC: Tensor,
    value_BMD: Tensor,
    *,
    ratio: float = 1.0,
    contrast: bool = True,
    cosine: bool = False,
    products: str = "float32",
) -> Tensor:
    """See `dense.attend`. Where query and key are one tensor the backward pass makes half of their scores."""
    check_shapes(query_BNC, key_BMC, value_BMD, ratio)
    key = None if key_BMC is query_BNC else key_BMC
    value = None if value_BMD is query_BNC else value_BMD
    return _Attend.apply(query_BNC, key, value, ratio, contrast, cosine, products)


def cycle(
    source_query_BNC: Tensor,
    source_key_BNC: Tensor,
    target_query_BMC: Tensor,
    target_key_BMC: Tensor,
    labels_BN: Tensor,
    *,
    cosine: bool = False,
    ignore_index: int = 255,
    products: str = "float32",
) -> Cycle:
    """See `dense.cycle`. Only consistent starts and their targets cost more than an argmax.

    Where the queries are the keys, both directions read one matrix of scores.
    """
    check_cycle_shapes(source_query_BNC, source_key_BNC, target_query_BMC, target_key_BMC, labels_BN)
    settings = (labels_BN, ignore_index, cosine, products)
    if source_query_BNC is source_key_BNC and target_query_BMC is target_key_BMC:
        return Cycle(*SharedCycle.apply(source_query_BNC, target_key_BMC, *settings))
    return Cycle(*SeparateCycle.apply(source_query_BNC, source_key_BNC, target_query_BMC, target_key_BMC, *settings))


class _Match(Function):
    """`match`."""

    @staticmethod
    def forward(ctx: Any, query_BNC: Tensor, key_BMC: Tensor, cosine: bool, products: str) -> tuple[Tensor, Tensor]:
        blocks = autograd.matching_for(query_BNC, products)
        found = []
        with rounding(query_BNC.device, products):
            for query_NC, key_MC in zip(query_BNC, key_BMC, strict=True):
                index_N, softmax = blocks.match(blocks.side(query_NC, cosine), blocks.side(key_MC, cosine))
                found.append((index_N, *softmax))
        index_BN, *softmax_BN = autograd.stack(found)
        ctx.save_for_backward(query_BNC, key_BMC, index_BN, *softmax_BN)
        ctx.settings = cosine, products
        ctx.mark_non_differentiable(index_BN)
        return index_BN, -softmax_BN[-1]

    @staticmethod
    def backward(ctx: Any, _: Tensor, gradient_BN: Tensor) -> tuple[Tensor | None, ...]:
        query_BNC, key_BMC, index_BN, *softmax_BN = autograd.saved(ctx)
        cosine, products = ctx.settings
        blocks = autograd.matching_for(query_BNC, products)
        gradients = [blocks.zeros(query_BNC), blocks.zeros(key_BMC)]
        with rounding(query_BNC.device, products):
            for b, (dquery_NC, dkey_MC) in enumerate(zip(*gradients, strict=True)):
                pull = Pull(Softmax(*(s[b] for s in softmax_BN)), index_BN[b], gradient_BN[b])
                operands = blocks.operand(query_BNC[b], cosine), blocks.operand(key_BMC[b], cosine)
                blocks.match_gradient(*operands, pull, None, dquery_NC, dkey_MC)
        return *autograd.input_gradients(gradients, (query_BNC, key_BMC), cosine), None, None


class _Attend(Function):
    """`attend`. A key or a value of None is the query itself."""

    @staticmethod
    def forward(
        ctx: Any,
        query_BNC: Tensor,
        key_BMC: Tensor | None,
        value_BMD: Tensor | None,
        ratio: float,
        contrast: bool,
        cosine: bool,
        products: str,
    ) -> Tensor:
        value = _or(value_BMD, query_BNC)
        blocks = autograd.attending_for(query_BNC, products, value.shape[-1])
        mixed_BND = value.new_empty((*query_BNC.shape[:2], value.shape[2]), dtype=blocks.exact)
        found = []
        with rounding(query_BNC.device, products):
            for b, mixed_ND in enumerate(mixed_BND):
                query_NC = blocks.operand(query_BNC[b], cosine)
                key_MC = query_NC if key_BMC is None else blocks.operand(key_BMC[b], cosine)
                found.append(blocks.attend(query_NC, key_MC, blocks.operand(value[b]), contrast, mixed_ND))
        if ratio != 1:
            mixed_BND.mul_(ratio).add_(value, alpha=1 - ratio)
        ctx.save_for_backward(query_BNC, key_BMC, value_BMD, mixed_BND, *autograd.stack(found))
        ctx.settings = ratio, cosine, products
        return mixed_BND

    @staticmethod
    def backward(ctx: Any, gradient_BND: Tensor) -> tuple[Tensor | None, ...]:
        query_BNC, key_BMC, value_BMD, mixed_BND, *softmax_BN = autograd.saved(ctx)
        ratio, cosine, products = ctx.settings
        value = _or(value_BMD, query_BNC)
        blocks = autograd.attending_for(query_BNC, products, value.shape[-1])
        key = _or(key_BMC, query_BNC)
        dquery, dvalue = blocks.zeros(query_BNC), blocks.zeros(value)
        dkey = dquery if key_BMC is None else blocks.zeros(key)
        with rounding(query_BNC.device, products):
            for b, gradient_ND in enumerate(gradient_BND):
                query_NC, value_MD = blocks.operand(query_BNC[b], cosine), blocks.operand(value[b])
                # Everything is linear in the average's gradient, `ratio` times that of the mixture: it comes last.
                delta_N = row_dot(gradient_ND, mixed_BND[b])
                if ratio != 1:
                    delta_N = (delta_N - (1 - ratio) * row_dot(gradient_ND, value[b])) / ratio
                rest = blocks.operand(gradient_ND), delta_N, Softmax(*(s[b] for s in softmax_BN))
                if key_BMC is None:
                    blocks.attend_itself_gradient(query_NC, value_MD, *rest, (dquery[b], dvalue[b]))
                else:
                    key_MC = blocks.operand(key[b], cosine)
                    blocks.attend_gradient(query_NC, key_MC, value_MD, *rest, (dquery[b], dkey[b], dvalue[b]))
        if ratio != 1:
            dvalue.mul_(ratio).add_(gradient_BND, alpha=1 - ratio)
            dquery.mul_(ratio)
            if key_BMC is not None:
                dkey.mul_(ratio)
        if cosine:
            autograd.through_norms([dquery], [query_BNC])
            if key_BMC is not None:
                autograd.through_norms([dkey], [key])
        if value_BMD is None:
            dquery += dvalue
        given = zip((query_BNC, key_BMC, value_BMD), (dquery, dkey, dvalue), strict=True)
        return *(None if x is None else gradient.to(x.dtype) for x, gradient in given), None, None, None, None


def _or(x: Tensor | None, other: Tensor) -> Tensor:
    return other if x is None else x
