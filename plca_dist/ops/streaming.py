"""`match`, `attend` and `cycle` of `dense.py`, the same numbers and gradients, in O(block x N) memory.

Pair by pair; what is kept for the backward pass is the inputs and three numbers a row. The work on a pair is in
`blocks.py`, and on CUDA, where the channels are few, in `triton/fused.py`. Gradients are of the first order.

Shapes: B pairs, N queries or source positions, M keys or target positions, C and D channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from plca_dist.ops.blocks import Blocks, row_dot, unit_gradient_
from plca_dist.ops.dense import Cycle, Match, check_cycle_shapes, check_shapes
from plca_dist.ops.epilogue import Pull, Softmax
from plca_dist.ops.products import rounding

#: Up to this many channels a score costs less to make than to write: on CUDA fused kernels do not write it.
FEW_CHANNELS = 128


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
        return Cycle(*_SharedCycle.apply(source_query_BNC, target_key_BMC, *settings))
    return Cycle(*_Cycle.apply(source_query_BNC, source_key_BNC, target_query_BMC, target_key_BMC, *settings))


class _Match(Function):
    @staticmethod
    def forward(ctx: Any, query_BNC: Tensor, key_BMC: Tensor, cosine: bool, products: str) -> tuple[Tensor, Tensor]:
        blocks = _blocks(query_BNC, products, query_BNC.shape[-1])
        found = []
        with rounding(query_BNC.device, products):
            for query_NC, key_MC in zip(query_BNC, key_BMC, strict=True):
                index_N, softmax = blocks.match(blocks.operand(query_NC, cosine), blocks.operand(key_MC, cosine))
                found.append((index_N, *softmax))
        index_BN, *softmax_BN = _stack(found)
        ctx.save_for_backward(query_BNC, key_BMC, index_BN, *softmax_BN)
        ctx.settings = cosine, products
        ctx.mark_non_differentiable(index_BN)
        return index_BN, -softmax_BN[-1]

    @staticmethod
    def backward(ctx: Any, _: Tensor, gradient_BN: Tensor) -> tuple[Tensor | None, ...]:
        query_BNC, key_BMC, index_BN, *softmax_BN = _saved(ctx)
        cosine, products = ctx.settings
        blocks = _blocks(query_BNC, products, query_BNC.shape[-1])
        gradients = [blocks.zeros(query_BNC), blocks.zeros(key_BMC)]
        with rounding(query_BNC.device, products):
            for b, (dquery_NC, dkey_MC) in enumerate(zip(*gradients, strict=True)):
                pull = Pull(Softmax(*(s[b] for s in softmax_BN)), index_BN[b], gradient_BN[b])
                operands = blocks.operand(query_BNC[b], cosine), blocks.operand(key_BMC[b], cosine)
                blocks.match_gradient(*operands, pull, None, dquery_NC, dkey_MC)
        return *_finish(gradients, (query_BNC, key_BMC), cosine), None, None


class _Attend(Function):
    """A key or a value of None is the query itself."""

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
        blocks = _blocks(query_BNC, products, query_BNC.shape[-1], value.shape[-1])
        mixed_BND = value.new_empty((*query_BNC.shape[:2], value.shape[2]), dtype=blocks.exact)
        found = []
        with rounding(query_BNC.device, products):
            for b, mixed_ND in enumerate(mixed_BND):
                query_NC = blocks.operand(query_BNC[b], cosine)
                key_MC = query_NC if key_BMC is None else blocks.operand(key_BMC[b], cosine)
                found.append(blocks.attend(query_NC, key_MC, blocks.operand(value[b]), contrast, mixed_ND))
        if ratio != 1:
            mixed_BND.mul_(ratio).add_(value, alpha=1 - ratio)
        ctx.save_for_backward(query_BNC, key_BMC, value_BMD, mixed_BND, *_stack(found))
        ctx.settings = ratio, cosine, products
        return mixed_BND

    @staticmethod
    def backward(ctx: Any, gradient_BND: Tensor) -> tuple[Tensor | None, ...]:
        query_BNC, key_BMC, value_BMD, mixed_BND, *softmax_BN = _saved(ctx)
        ratio, cosine, products = ctx.settings
        value = _or(value_BMD, query_BNC)
        blocks = _blocks(query_BNC, products, query_BNC.shape[-1], value.shape[-1])
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
            _through_norms([dquery], [query_BNC])
            if key_BMC is not None:
                _through_norms([dkey], [key])
        if value_BMD is None:
            dquery += dvalue
        given = zip((query_BNC, key_BMC, value_BMD), (dquery, dkey, dvalue), strict=True)
        return *(None if x is None else gradient.to(x.dtype) for x, gradient in given), None, None, None, None


class _SharedCycle(Function):
    """One matrix of scores, D(i, j) = D(j, i): its rows are the matches of the source, its columns of the target."""

    @staticmethod
    def forward(
        ctx: Any, source_BNC: Tensor, target_BMC: Tensor, labels_BN: Tensor, ignore: int, cosine: bool, products: str
    ) -> tuple[Tensor, ...]:
        blocks = _blocks(source_BNC, products, source_BNC.shape[-1])
        found = []
        with rounding(source_BNC.device, products):
            for source_NC, target_MC, labels_N in zip(source_BNC, target_BMC, labels_BN, strict=True):
                source_NC, target_MC = blocks.operand(source_NC, cosine), blocks.operand(target_MC, cosine)
                target_index_N, of_source, back_M = blocks.match_both(source_NC, target_MC)
                consistent_N = _consistent(labels_N, back_M[target_index_N], ignore)
                # Only targets of consistent starts need the softmax of their column.
                used_J = target_index_N[consistent_N].unique()
                of_target = _spread(blocks.match(target_MC[used_J], source_NC)[1], used_J, len(target_MC))
                found.append((target_index_N, back_M, consistent_N, *of_source, *of_target))
        return _save_cycle(ctx, (source_BNC, target_BMC), found, (cosine, products))

    @staticmethod
    def backward(ctx: Any, *gradients_of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        source_BNC, target_BMC, *found = _saved(ctx)
        cosine, products = ctx.settings
        blocks = _blocks(source_BNC, products, source_BNC.shape[-1])
        gradients = [blocks.zeros(source_BNC), blocks.zeros(target_BMC)]
        with rounding(source_BNC.device, products):
            for b, (dsource_NC, dtarget_MC) in enumerate(zip(*gradients, strict=True)):
                of_source, of_target = _pulls([x[b] for x in found], gradients_of_outputs[-1][b])
                operands = blocks.operand(source_BNC[b], cosine), blocks.operand(target_BMC[b], cosine)
                blocks.match_gradient(*operands, of_source, of_target, dsource_NC, dtarget_MC)
        return *_finish(gradients, (source_BNC, target_BMC), cosine), None, None, None, None


class _Cycle(Function):
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
        blocks = _blocks(source_query_BNC, products, source_query_BNC.shape[-1])
        found = []
        with rounding(source_query_BNC.device, products):
            for *pair, labels_N in zip(*inputs, labels_BN, strict=True):
                source_query_NC, source_key_NC, target_query_MC, target_key_MC = (
                    blocks.operand(x, cosine) for x in pair
                )
                target_index_N = blocks.best(source_query_NC, target_key_MC)
                used_J = target_index_N.unique()
                back_J, softmax_J = blocks.match(target_query_MC[used_J], source_key_NC)
                back_M = torch.zeros(len(target_query_MC), dtype=torch.int64, device=back_J.device)
                back_M[used_J] = back_J
                consistent_N = _consistent(labels_N, back_M[target_index_N], ignore)
                start_I = consistent_N.nonzero().squeeze(1)
                _, softmax_I = blocks.match(source_query_NC[start_I], target_key_MC)
                of_source = _spread(softmax_I, start_I, len(source_query_NC))
                of_target = _spread(softmax_J, used_J, len(target_query_MC))
                found.append((target_index_N, back_M, consistent_N, *of_source, *of_target))
        return _save_cycle(ctx, inputs, found, (cosine, products))

    @staticmethod
    def backward(ctx: Any, *gradients_of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        saved = _saved(ctx)
        inputs, found = saved[:4], saved[4:]
        cosine, products = ctx.settings
        blocks = _blocks(inputs[0], products, inputs[0].shape[-1])
        gradients = [blocks.zeros(x) for x in inputs]
        with rounding(inputs[0].device, products):
            for b, (dsource_query, dsource_key, dtarget_query, dtarget_key) in enumerate(zip(*gradients, strict=True)):
                of_source, of_target = _pulls([x[b] for x in found], gradients_of_outputs[-1][b])
                source_query, source_key, target_query, target_key = (blocks.operand(x[b], cosine) for x in inputs)
                blocks.match_gradient(source_query, target_key, of_source, None, dsource_query, dtarget_key)
                blocks.match_gradient(target_query, source_key, of_target, None, dtarget_query, dsource_key)
        return *_finish(gradients, inputs, cosine), None, None, None, None


def _saved(ctx: Any) -> tuple[Tensor, ...]:
    """The saved tensors. Raises RuntimeError where a derivative of the gradient is wanted: it would come out wrong."""
    if torch.is_grad_enabled():
        raise RuntimeError("streaming has first derivatives only: without create_graph, or with backend='dense'")
    return ctx.saved_tensors


def _save_cycle(
    ctx: Any, inputs: tuple[Tensor, ...], found: Sequence[tuple[Tensor, ...]], settings: tuple[bool, str]
) -> tuple[Tensor, ...]:
    """The outputs of `cycle` from what was found of every pair: j*, the match of every target, Î and two softmaxes."""
    target_index_BN, back_BM, consistent_BN, *softmax = _stack(found)
    ctx.save_for_backward(*inputs, target_index_BN, back_BM, consistent_BN, *softmax)
    ctx.settings = settings
    source_index_BN = back_BM.gather(1, target_index_BN)
    log_probability_BN = -softmax[2] - softmax[5].gather(1, target_index_BN)
    log_probability_BN = torch.where(consistent_BN, log_probability_BN, 0)
    ctx.mark_non_differentiable(target_index_BN, source_index_BN, consistent_BN)
    return target_index_BN, source_index_BN, consistent_BN, log_probability_BN


def _pulls(found: list[Tensor], gradient_N: Tensor) -> tuple[Pull, Pull]:
    """What the source's rows and the target's pull, from what `_save_cycle` saved of a pair."""
    target_index_N, back_M, consistent_N, *softmax = found
    gradient_N = torch.where(consistent_N, gradient_N, 0)
    gradient_M = torch.zeros_like(softmax[3]).index_add_(0, target_index_N, gradient_N)
    return Pull(Softmax(*softmax[:3]), target_index_N, gradient_N), Pull(Softmax(*softmax[3:]), back_M, gradient_M)


def _blocks(like: Tensor, products: str, *channels: int) -> Blocks:
    """How to compute on pairs like this, whose score, and whose value if there is one, have these `channels`."""
    if like.is_cuda and like.dtype != torch.float64 and max(channels) <= FEW_CHANNELS:
        from plca_dist.ops.triton.few_channels import FewChannels

        return FewChannels(like, products)
    return Blocks(like, products)


def _consistent(labels_N: Tensor, source_index_N: Tensor, ignore: int) -> Tensor:
    return (labels_N != ignore) & (labels_N == labels_N[source_index_N])


def _spread(softmax: Softmax, index_I: Tensor, N: int) -> Softmax:
    """The softmaxes of the rows at `index`, among N rows; the others are zeros that nobody reads."""
    return Softmax(*(s.new_zeros(N).index_copy_(0, index_I, s) for s in softmax))


def _stack(found: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*found, strict=True)]


def _finish(gradients: list[Tensor], inputs: Sequence[Tensor], cosine: bool) -> list[Tensor]:
    """Gradients of the inputs, in their dtypes, from those of the operands."""
    if cosine:
        _through_norms(gradients, inputs)
    return [gradient.to(x.dtype) for gradient, x in zip(gradients, inputs, strict=True)]


def _through_norms(gradients: list[Tensor], inputs: Sequence[Tensor]) -> None:
    for gradient_BNC, x_BNC in zip(gradients, inputs, strict=True):
        for gradient_NC, x_NC in zip(gradient_BNC, x_BNC, strict=True):
            unit_gradient_(gradient_NC, x_NC)


def _or(x: Tensor | None, other: Tensor) -> Tensor:
    return other if x is None else x
