"""The parts that the kernels share: their view of a matrix, and the formulas of `dense.py` and `epilogue.py` on tiles.

A tile is (rows, columns). A value of every row is (rows, 1), a value of every column (1, columns).
"""

# Triton is untyped, and reads the annotations of a kernel's arguments as types of its own.
# mypy: allow-untyped-defs, disable-error-code="import-untyped"

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from plca_dist.ops.dense import EPSILON, FLAT_ROUNDINGS
from plca_dist.ops.epilogue import Pull, Softmax

#: How every kernel is compiled. Triton's own default for contracting a·b + c differs from version to version.
OPTIONS = {"enable_fp_fusion": True}

_EPSILON = tl.constexpr(EPSILON)
_FLAT = tl.constexpr(FLAT_ROUNDINGS * torch.finfo(torch.float32).eps)
#: A place behind all others.
FAR = tl.constexpr(2**31 - 1)


class Matrix(NamedTuple):
    """A matrix as a kernel takes it. Strides of 1 and multiples of 16 are known when the kernel is compiled."""

    data: Tensor
    row_stride: int
    column_stride: int


def matrix(x: Tensor) -> Matrix:
    """`x` (rows, columns), or one row of columns."""
    return Matrix(x, *x.stride()) if x.ndim == 2 else Matrix(x, 0, x.stride(0))


def packed(softmax: Softmax) -> Softmax:
    """The same at stride 1, as kernels take it."""
    return Softmax(*(s.contiguous() for s in softmax))


def packed_pull(pull: Pull) -> Pull:
    """The same at stride 1, as kernels take it."""
    return Pull(packed(pull.softmax), pull.index.contiguous(), pull.gradient.contiguous())


def empty_softmax(rows: int, device: torch.device) -> Softmax:
    """Room for the softmax of every row."""
    return Softmax(*(torch.empty(rows, dtype=torch.float32, device=device) for _ in range(3)))


@triton.jit
def at(matrix, row, column):
    """Pointers; rows are multiplied in 64 bits."""
    return matrix.data + row.to(tl.int64) * matrix.row_stride + column * matrix.column_stride


@triton.jit
def first_best(x, position, axis: tl.constexpr):
    """Largest of `x` along an axis, and the lowest `position` (int32) where it is found. NaN wins, as in torch.max."""
    best = tl.max(x, axis, keep_dims=True)  # of what is a number
    first = tl.min(tl.where(x == best, position, FAR), axis, keep_dims=True)
    missing = tl.min(tl.where(x != x, position, FAR), axis, keep_dims=True)
    broken = missing < FAR
    return tl.where(broken, float("nan"), best), tl.where(broken, missing, first)


@triton.jit
def beats(x, best):
    """Where `x` takes the place of a `best` that came before it."""
    return (x > best) | ((x != x) & (best == best))


@triton.jit
def contrast_scale(best, squares, M):
    """1/(σ + ε), 0 for a flat row (`dense.contrast_scale`); `squares` is Σ (D − μ)² over the row's M columns."""
    std = tl.sqrt(squares / tl.maximum(M - 1, 1).to(tl.float32))
    return tl.where(std <= _FLAT * tl.abs(best), 0.0, 1 / (std + _EPSILON))


@triton.jit
def load_softmax(softmax, row, rows):
    """best, scale and log_sum of every row; 0 past the last row, where all weights are then 1."""
    best = tl.load(softmax.best + row, mask=row < rows, other=0.0)
    scale = tl.load(softmax.scale + row, mask=row < rows, other=0.0)
    return best, scale, tl.load(softmax.log_sum + row, mask=row < rows, other=0.0)


@triton.jit
def weights(score, best, scale, log_sum):
    """p. The best is subtracted first, because scaled scores would lose digits."""
    return tl.exp((score - best) * scale - log_sum)


@triton.jit
def pulled(score, best, scale, log_sum, index, gradient, position):
    """G = g · scale · (1[position = index] − p), 0 where g · scale is 0, whatever its softmax is."""
    factor = gradient * scale
    toward = tl.where(position == index, 1.0, 0.0) - weights(score, best, scale, log_sum)
    return tl.where(factor == 0, 0.0, factor * toward)
