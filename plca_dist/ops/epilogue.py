"""The work on a block of scores between two matrix products: the elementwise half of `blocks.py`, in plain torch.

On CUDA `triton/epilogue.py` does the same in one pass each; both modules have the same functions with the same
signatures. A function whose name ends in an underscore uses its block as workspace: afterwards the block holds the
result that the docstring names, or nothing of use. Blocks may be slices of a larger matrix: rows at any stride, columns
at stride 1.

Shapes: R rows of the block (queries), M columns (keys).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from plca_dist.ops.certified import Best
from plca_dist.ops.dense import contrast_scale
from plca_dist.ops.rows import chunks, row_dot


class Softmax(NamedTuple):
    """The numbers kept of a contrast-normalized softmax over the scores D_j of a row (or, transposed, of a column).

    p_j = exp((D_j − best)·scale − log_sum), and log p of the best is −log_sum. Each is (R,): `best` = max_j D_j,
    `scale` = 1/(σ + ε), 0 where the row is flat, 1 without contrast; `log_sum` = log Σ_j exp((D_j − best)·scale).
    """

    best: Tensor
    scale: Tensor
    log_sum: Tensor

    def take(self, index: Tensor | slice) -> "Softmax":
        """The rows at `index`, an int64 tensor or a slice."""
        return Softmax(self.best[index], self.scale[index], self.log_sum[index])

    def put(self, index: Tensor | slice, rows: "Softmax") -> None:
        """Sets the rows at `index`."""
        for field, values in zip(self, rows, strict=True):
            field[index] = values


class Pull(NamedTuple):
    """One term of a block's gradient, that of Σ_i g_i log p_i[index_i] along the rows or along the columns.

    `softmax` of every row.  `index` (R,) int64: the column of its match in the block, or anything outside [0, M) where
    the match lies in another block.  `gradient` (R,): the g_i. Along the columns all are (M,), and `index` is a row.
    `pulling` int64: the rows in increasing order among which are all whose g_i is not 0; None: they are looked up.
    """

    softmax: Softmax
    index: Tensor  # type: ignore[assignment]  # as in `Match`
    gradient: Tensor
    pulling: Tensor | None = None

    def take(self, index: Tensor) -> "Pull":
        """The rows (or columns) at `index`, int64."""
        return Pull(self.softmax.take(index), self.index[index], self.gradient[index])

    def places(self) -> Tensor:
        """`pulling`. Where it has to be looked up the host waits for the device."""
        return self.gradient.nonzero().squeeze(1) if self.pulling is None else self.pulling


def softmax_(score_RM: Tensor, contrast: bool, dtype: torch.dtype | None) -> tuple[Tensor, Softmax, Tensor | None]:
    """Best column of every row (R,) int64, the lowest of equals; its `Softmax`; and the odds exp((D − best)·scale).

    The odds come in `dtype`, (R, M), not yet divided by their sum; in the block itself where its dtype is the same;
    not at all for None. The sum is taken in the block's own dtype. Rows hold all their keys: M is what σ is taken over.
    """
    best_R, index_R = score_RM.max(-1)
    scale_R = contrast_scale(score_RM).squeeze(-1) if contrast else torch.ones_like(best_R)
    odds_RM = score_RM.sub_(best_R[:, None]).mul_(scale_R[:, None]).exp_()
    softmax = Softmax(best_R, scale_R, odds_RM.sum(-1).log())
    return index_R, softmax, None if dtype is None else odds_RM.to(dtype)


def column_best_(score_RM: Tensor, start: int, best_M: Tensor, index_M: Tensor) -> None:
    """Best row of every column so far: updates `best` (M,) and `index` (M,) with rows numbered from `start`.

    Blocks come in increasing order of `start`, so that the first of equal rows stays. NaN wins, as in torch.max.
    """
    best_of_block_M, row_M = score_RM.max(0)
    better_M = (best_of_block_M > best_M) | (best_of_block_M.isnan() & ~best_M.isnan())
    torch.where(better_M, best_of_block_M, best_M, out=best_M)
    torch.where(better_M, row_M + start, index_M, out=index_M)


def settle(
    score_RM: Tensor, slack_R: Tensor, query_RC: Tensor, key_MC: Tensor, scale_M: Tensor, start: int, found: Best
) -> None:
    """Exact best column of every row so far: updates `found` (R,), with columns numbered from `start`.

    Columns come in increasing order. Those whose score is within `slack` of the row's largest so far are scored again:
    <query, key> · scale in float64. NaN wins, as in torch.max; the block stays as it is, and may be a transposed view.
    """
    largest_R, place_R = score_RM.max(1)
    larger_R = (largest_R > found.score) | (largest_R.isnan() & ~found.score.isnan())
    torch.where(larger_R, largest_R, found.score, out=found.score)
    finite_R = found.score.isfinite()
    torch.where(larger_R & ~finite_R, place_R + start, found.index, out=found.index)
    row_P, column_P = ((score_RM >= (found.score - slack_R)[:, None]) & finite_R[:, None]).nonzero(as_tuple=True)
    exact_RM = torch.full(score_RM.shape, -torch.inf, dtype=torch.float64, device=score_RM.device)
    for some in chunks(row_P):
        row, column = row_P[some], column_P[some]
        exact_RM[row, column] = row_dot(query_RC[row].double(), key_MC[column].double()) * scale_M[column]
    largest_R, place_R = exact_RM.max(1)
    larger_R = largest_R > found.exact
    torch.where(larger_R, largest_R, found.exact, out=found.exact)
    torch.where(larger_R, place_R + start, found.index, out=found.index)


def match_gradient_(score_RM: Tensor, rows: Pull | None, columns: Pull | None, dtype: torch.dtype) -> Tensor:
    """Gradient of the scores, (R, M) in `dtype`: the sum of the rows' and the columns' pulls.

    Along a row: G_j = g · scale · (1[j = index] − p_j), 0 where g · scale is 0; along a column likewise.
    """
    gradient_RM = None
    if columns is not None:
        # Transposed views: a column is a row of the transpose.
        source = score_RM if rows is None else score_RM.clone()
        gradient_RM = _pull_(source.mT, columns).mT
    if rows is not None:
        of_rows_RM = _pull_(score_RM, rows)
        gradient_RM = of_rows_RM if gradient_RM is None else gradient_RM.add_(of_rows_RM)
    assert gradient_RM is not None, "nothing pulls"
    return gradient_RM.to(dtype)


def attend_gradient_(
    score_RM: Tensor, dweight_RM: Tensor, softmax: Softmax, delta_R: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Weights p and the gradient of the scores, G = p (dp − δ) · scale, both (R, M) in `dtype`.

    `dweight` holds dp, the gradient of the weights, and `delta` (R,) is δ = Σ_j p_j dp_j. Both blocks are workspace.
    """
    weight_RM = _weights_(score_RM, softmax)
    gradient_RM = dweight_RM.sub_(delta_R[:, None]).mul_(weight_RM).mul_(softmax.scale[:, None])
    return weight_RM.to(dtype), gradient_RM.to(dtype)


def attend_gradient_both_(
    score_RM: Tensor,
    dweight_RM: Tensor,
    dweight_of_columns_RM: Tensor,
    rows: tuple[Softmax, Tensor],
    columns: tuple[Softmax, Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend_gradient_` of a block of a symmetric score matrix and of its mirror image at once.

    `rows` are softmax and δ (R,) of the block's rows. In the mirror image its columns are rows: `columns` are their
    softmax and δ (M,). Returns the weights p_ij, the mirrored weights p_ji, and G_ij + G_ji, all (R, M) in `dtype`.
    """
    mirrored_RM = score_RM.clone()
    weight_RM, gradient_RM = attend_gradient_(score_RM, dweight_RM, *rows, dweight_RM.dtype)
    weight_MR, gradient_MR = attend_gradient_(mirrored_RM.mT, dweight_of_columns_RM.mT, *columns, dweight_RM.dtype)
    return weight_RM.to(dtype), weight_MR.mT.to(dtype), gradient_RM.add_(gradient_MR.mT).to(dtype)


def _weights_(score_RM: Tensor, softmax: Softmax) -> Tensor:
    """p in place of the scores. The best is subtracted first, because scaled scores would lose digits."""
    best_R1, scale_R1, log_sum_R1 = (s[:, None] for s in softmax)
    return score_RM.sub_(best_R1).mul_(scale_R1).sub_(log_sum_R1).exp_()


def _pull_(score_RM: Tensor, pull: Pull) -> Tensor:
    factor_R = pull.gradient * pull.softmax.scale
    gradient_RM = _weights_(score_RM, pull.softmax).mul_(-factor_R[:, None])
    # In rows without a gradient the softmax may be infinite or missing.
    gradient_RM.masked_fill_((factor_R == 0)[:, None], 0)
    here_R = ((pull.index >= 0) & (pull.index < score_RM.shape[1])).nonzero().squeeze(1)
    gradient_RM[here_R, pull.index[here_R]] += factor_R[here_R]
    return gradient_RM
