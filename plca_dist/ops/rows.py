"""Work on the rows of one matrix, a chunk of rows at a time, so that no second matrix of its size is made.

Shapes: N rows, C channels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from plca_dist.ops.dense import NORM_EPSILON, at_least_float32


def norms(x_NC: Tensor) -> Tensor:
    """Norms of the rows, (N, 1) in at least float32, at least `NORM_EPSILON`."""
    dtype = torch.promote_types(x_NC.dtype, torch.float32)
    return torch.linalg.vector_norm(x_NC, dim=1, keepdim=True, dtype=dtype).clamp_(min=NORM_EPSILON)


def unit_rows(x_NC: Tensor, dtype: torch.dtype, exact: torch.dtype) -> Tensor:
    """x̂ = x/‖x‖ of every row, computed in `exact` and returned in `dtype`; layout kept."""
    unit_NC = torch.empty_like(x_NC, dtype=dtype)
    norm_N1 = norms(x_NC)
    for rows in chunks(x_NC):
        torch.div(x_NC[rows].to(exact), norm_N1[rows], out=unit_NC[rows])
    return unit_NC


def unit_gradient_(gradient_NC: Tensor, x_NC: Tensor) -> None:
    """Gradient of x from that of x̂ = x/‖x‖, in its place: (g − <g, x̂> x̂)/‖x‖."""
    norm_N1 = norms(x_NC)
    for rows in chunks(x_NC):
        unit_RC = at_least_float32(x_NC[rows]) / norm_N1[rows]
        gradient_RC = gradient_NC[rows]
        along_R1 = (gradient_RC * unit_RC).sum(1, keepdim=True)
        gradient_RC.sub_(unit_RC.mul_(along_R1))
    gradient_NC.div_(norm_N1)


def row_dot(a_NC: Tensor, b_NC: Tensor) -> Tensor:
    """<a_i, b_i> of every row, (N,), without a product of the size of `a`."""
    return torch.cat([(a_NC[rows] * b_NC[rows]).sum(1) for rows in chunks(a_NC)])


def aligned(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty matrix whose rows begin at multiples of 16 elements, as a GPU's products of bfloat16 want them."""
    return torch.empty(rows, -(-columns // 16) * 16, dtype=dtype, device=device)[:, :columns]


def chunks(x_NC: Tensor) -> Iterator[slice]:
    """Slices of rows, in order: few on the CPU, so that they stay in its cache, and many where a launch costs more."""
    rows = 16384 if x_NC.is_cuda else 512
    return (slice(start, start + rows) for start in range(0, len(x_NC), rows))
