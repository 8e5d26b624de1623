"""The functions of `ops/epilogue.py` as Triton kernels: each reads a block once, a softmax twice.

Signatures and results are the same. Blocks are float32, and a float32 result takes the place of the block that it is
made from. No atomics: the same input gives the same bits. Nothing here has been tuned on a GPU yet.

Shapes: R rows of the block (queries), M columns (keys).
"""

# Triton is untyped, and reads the annotations of a kernel's arguments as types of its own.
# mypy: allow-untyped-defs, disable-error-code="import-untyped"

import torch
import triton
import triton.language as tl
from torch import Tensor

from plca_dist.ops.epilogue import Pull, Softmax
from plca_dist.ops.rows import aligned
from plca_dist.ops.triton.common import (
    OPTIONS,
    at,
    beats,
    contrast_scale,
    empty_softmax,
    first_best,
    load_softmax,
    matrix,
    packed,
    packed_pull,
    pulled,
    weights,
)
from plca_dist.ops.triton.settle import settle as settle

#: A row of up to so many columns: how many of them are in flight at once, held by how many warps.
_ROW_TILES = ((1024, 1024, 4), (32768, 2048, 8), (1 << 31, 8192, 16))
#: Rows and columns of a tile that runs down the block. Narrow: 92 x 92 columns are as many programs as an H100's SMs.
_COLUMN_TILE = (32, 64)
#: Rows and columns of a tile of an elementwise kernel.
_TILE = (8, 256)


def softmax_(score_RM: Tensor, contrast: bool, dtype: torch.dtype | None) -> tuple[Tensor, Softmax, Tensor | None]:
    """See `ops/epilogue.py`. One pass for best and σ, by Welford's recurrence in every lane, and one for the odds."""
    R, M = score_RM.shape
    odds_RM = None if dtype is None else _result(score_RM, dtype)
    index_R = torch.empty(R, dtype=torch.int64, device=score_RM.device)
    softmax = empty_softmax(R, score_RM.device)
    tile, warps = next((tile, warps) for most, tile, warps in _ROW_TILES if most >= M)
    odds = None if odds_RM is None else matrix(odds_RM)
    _softmax[(R,)](matrix(score_RM), odds, index_R, softmax, M, contrast, tile, num_warps=warps, **OPTIONS)
    return index_R, softmax, odds_RM


def column_best_(score_RM: Tensor, start: int, best_M: Tensor, index_M: Tensor) -> None:
    """See `ops/epilogue.py`."""
    R, M = score_RM.shape
    _column_best[(triton.cdiv(M, _COLUMN_TILE[1]),)](
        matrix(score_RM), start, matrix(best_M), matrix(index_M), R, M, *_COLUMN_TILE, num_warps=8, **OPTIONS
    )


def match_gradient_(score_RM: Tensor, rows: Pull | None, columns: Pull | None, dtype: torch.dtype) -> Tensor:
    """See `ops/epilogue.py`."""
    assert rows is not None or columns is not None, "nothing pulls"
    gradient_RM = _result(score_RM, dtype)
    pulls = [None if pull is None else packed_pull(pull) for pull in (rows, columns)]
    _match_gradient[_tiles(score_RM)](
        matrix(score_RM), matrix(gradient_RM), *pulls, *score_RM.shape, *_TILE, num_warps=8, **OPTIONS
    )
    return gradient_RM


def attend_gradient_(
    score_RM: Tensor, dweight_RM: Tensor, softmax: Softmax, delta_R: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `ops/epilogue.py`."""
    weight_RM, gradient_RM = _result(score_RM, dtype), _result(dweight_RM, dtype)
    views = [matrix(x) for x in (score_RM, dweight_RM, weight_RM, gradient_RM)]
    _attend_gradient[_tiles(score_RM)](
        *views, packed(softmax), delta_R.contiguous(), *score_RM.shape, *_TILE, num_warps=8, **OPTIONS
    )
    return weight_RM, gradient_RM


def attend_gradient_both_(
    score_RM: Tensor,
    dweight_RM: Tensor,
    dweight_of_columns_RM: Tensor,
    rows: tuple[Softmax, Tensor],
    columns: tuple[Softmax, Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `ops/epilogue.py`."""
    blocks = score_RM, dweight_of_columns_RM, dweight_RM
    weight_RM, mirrored_RM, gradient_RM = (_result(block, dtype) for block in blocks)
    views = [matrix(x) for x in (*blocks, weight_RM, mirrored_RM, gradient_RM)]
    sides = [x for softmax, delta in (rows, columns) for x in (packed(softmax), delta.contiguous())]
    _attend_gradient_both[_tiles(score_RM)](*views, *sides, *score_RM.shape, *_TILE, num_warps=8, **OPTIONS)
    return weight_RM, mirrored_RM, gradient_RM


def _result(block_RM: Tensor, dtype: torch.dtype) -> Tensor:
    R, M = block_RM.shape
    return block_RM if block_RM.dtype == dtype else aligned(R, M, dtype, block_RM.device)


def _tiles(block_RM: Tensor) -> tuple[int]:
    """One dimension: CUDA allows 65 535 programs along the others."""
    return (triton.cdiv(block_RM.shape[0], _TILE[0]) * triton.cdiv(block_RM.shape[1], _TILE[1]),)


@triton.jit
def _of_tile(M, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows and columns of this program's tile; tiles that follow each other lie in one stripe of rows."""
    across = tl.cdiv(M, COLUMNS)
    row = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)[:, None]
    return row, tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def _softmax(scores, odds, index, softmax, M, CONTRAST: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0) + tl.zeros([1, 1], tl.int32)
    lane = tl.arange(0, TILE)[None, :]
    best = tl.full([1, TILE], float("-inf"), tl.float32)
    found = lane
    mean = tl.zeros([1, TILE], tl.float32)
    squares = tl.zeros([1, TILE], tl.float32)
    count = 0.0
    for start in range(0, M, TILE):
        column = start + lane
        inside = column < M
        score = tl.load(at(scores, row, column), mask=inside, other=float("-inf"))
        better = beats(score, best)
        best = tl.where(better, score, best)
        found = tl.where(better, column, found)
        if CONTRAST:
            count += 1.0
            before = score - mean
            mean = tl.where(inside, mean + before * (1 / count), mean)
            squares = tl.where(inside, squares + before * (score - mean), squares)
    best, found = first_best(best, found, 1)
    scale = tl.full([1, 1], 1.0, tl.float32)
    if CONTRAST:  # what the lanes have found, by Chan's formula: their own squares, and those of their means
        counts = ((M - lane + TILE - 1) // TILE).to(tl.float32)
        off = mean - tl.sum(counts * mean, 1, keep_dims=True) / M
        scale = contrast_scale(best, tl.sum(squares + counts * off * off, 1, keep_dims=True), M)
    total = tl.zeros([1, TILE], tl.float32)
    for start in range(0, M, TILE):
        column = start + lane
        score = tl.load(at(scores, row, column), mask=column < M, other=float("-inf"))
        odd = tl.where(column < M, tl.exp((score - best) * scale), 0.0)
        total += odd
        if odds is not None:
            tl.store(at(odds, row, column), odd.to(odds.data.dtype.element_ty), mask=column < M)
    tl.store(index + row, found.to(tl.int64))
    tl.store(softmax.best + row, best)
    tl.store(softmax.scale + row, scale)
    tl.store(softmax.log_sum + row, tl.log(tl.sum(total, 1, keep_dims=True)))


@triton.jit(do_not_specialize=["start"])
def _column_best(scores, start, bests, indices, R, M, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    lane = tl.arange(0, ROWS)[:, None]
    best = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
    found = lane + tl.zeros([ROWS, COLUMNS], tl.int32)
    for first in range(0, R, ROWS):
        row = first + lane
        score = tl.load(at(scores, row, column), mask=(row < R) & (column < M), other=float("-inf"))
        better = beats(score, best)
        best = tl.where(better, score, best)
        found = tl.where(better, row, found)
    best, found = first_best(best, found, 0)
    zero = tl.zeros([1, COLUMNS], tl.int32)
    best_before = tl.load(at(bests, zero, column), mask=column < M)
    found_before = tl.load(at(indices, zero, column), mask=column < M)
    better = beats(best, best_before)
    # Threads share columns: none may read what another has already replaced.
    tl.debug_barrier()
    tl.store(at(bests, zero, column), tl.where(better, best, best_before), mask=column < M)
    tl.store(at(indices, zero, column), tl.where(better, start + found.to(tl.int64), found_before), mask=column < M)


@triton.jit
def _match_gradient(scores, gradients, rows, columns, R, M, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column = _of_tile(M, ROWS, COLUMNS)
    inside = (row < R) & (column < M)
    score = tl.load(at(scores, row, column), mask=inside, other=0.0)
    gradient = tl.zeros([ROWS, COLUMNS], tl.float32)
    if rows is not None:
        best, scale, log_sum = load_softmax(rows.softmax, row, R)
        index = tl.load(rows.index + row, mask=row < R, other=-1)
        pull = tl.load(rows.gradient + row, mask=row < R, other=0.0)
        gradient += pulled(score, best, scale, log_sum, index, pull, column)
    if columns is not None:
        best, scale, log_sum = load_softmax(columns.softmax, column, M)
        index = tl.load(columns.index + column, mask=column < M, other=-1)
        pull = tl.load(columns.gradient + column, mask=column < M, other=0.0)
        gradient += pulled(score, best, scale, log_sum, index, pull, row)
    tl.store(at(gradients, row, column), gradient.to(gradients.data.dtype.element_ty), mask=inside)


@triton.jit
def _attend_gradient(
    scores, dweights, weights_out, gradients, softmax, delta, R, M, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row, column = _of_tile(M, ROWS, COLUMNS)
    inside = (row < R) & (column < M)
    best, scale, log_sum = load_softmax(softmax, row, R)
    weight = weights(tl.load(at(scores, row, column), mask=inside, other=0.0), best, scale, log_sum)
    dweight = tl.load(at(dweights, row, column), mask=inside, other=0.0)
    gradient = weight * (dweight - tl.load(delta + row, mask=row < R, other=0.0)) * scale
    tl.store(at(weights_out, row, column), weight.to(weights_out.data.dtype.element_ty), mask=inside)
    tl.store(at(gradients, row, column), gradient.to(gradients.data.dtype.element_ty), mask=inside)


@triton.jit
def _attend_gradient_both(
    scores, dweights_of_columns, dweights, weights_out, mirrored_out, gradients, row_softmax, row_delta, column_softmax,
    column_delta, R, M, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, column = _of_tile(M, ROWS, COLUMNS)
    inside = (row < R) & (column < M)
    score = tl.load(at(scores, row, column), mask=inside, other=0.0)
    best, scale, log_sum = load_softmax(row_softmax, row, R)
    weight = weights(score, best, scale, log_sum)
    dweight = tl.load(at(dweights, row, column), mask=inside, other=0.0)
    gradient = weight * (dweight - tl.load(row_delta + row, mask=row < R, other=0.0)) * scale
    best, scale, log_sum = load_softmax(column_softmax, column, M)
    mirrored = weights(score, best, scale, log_sum)
    dweight = tl.load(at(dweights_of_columns, row, column), mask=inside, other=0.0)
    gradient += mirrored * (dweight - tl.load(column_delta + column, mask=column < M, other=0.0)) * scale
    # The mirrored weights take the place of a block they are not made from: all of it has to be read by now.
    tl.debug_barrier()
    tl.store(at(weights_out, row, column), weight.to(weights_out.data.dtype.element_ty), mask=inside)
    tl.store(at(mirrored_out, row, column), mirrored.to(mirrored_out.data.dtype.element_ty), mask=inside)
    tl.store(at(gradients, row, column), gradient.to(gradients.data.dtype.element_ty), mask=inside)
