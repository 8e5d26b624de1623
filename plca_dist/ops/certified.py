"""Best matches that do not depend on how the operands of products were rounded.

A score made of rounded operands q̃, k̃ is close to that of the vectors themselves. By Cauchy and Schwarz

    |⟨q, k⟩ − computed ⟨q̃, k̃⟩|  ≤  ‖q − q̃‖ ‖k‖ + ‖q̃‖ ‖k − k̃‖ + C·2⁻²³ ‖q̃‖ ‖k̃‖,

the last term for sums of C numbers in float32, in any order. So the best key of a row is among those whose computed
score is within twice that bound of the largest one: mostly one key alone. Where there are more, each is scored again,
from the vectors as they were given, in float64; the lowest index of equals wins, as everywhere.

Shapes: N queries, M keys, R rows of a block, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from plca_dist.ops.dense import NORM_EPSILON
from plca_dist.ops.rows import chunks, norms

#: The bound is itself computed in float32.
_MARGIN = 1.001


class Operand(NamedTuple):
    """The rows of one side as scores are made of them.

    `rounded` (N, C), in the dtype of products, divided by their norms for `unit`. `given` (N, C): the rows as they
    came, where rounding may decide which key is the best; None where scores are float32 or float64.
    """

    rounded: Tensor
    given: Tensor | None
    unit: bool

    def take(self, index: Tensor) -> "Operand":
        """The rows at `index`, int64."""
        return Operand(self.rounded[index], None if self.given is None else self.given[index], self.unit)


class Best(NamedTuple):
    """The best found so far for every row, or column, of blocks that come in order.

    `score` float32: the largest computed score. `exact` float64: the largest exact one, up to a positive factor of the
    row's own. `index` int64: where that is, the lowest of equals; where `score` is not finite, where that is.
    """

    score: Tensor
    exact: Tensor
    index: Tensor  # type: ignore[assignment]  # as in `Match`

    @classmethod
    def of_none(cls, rows: int, device: torch.device) -> "Best":
        score, exact = (torch.full((rows,), -torch.inf, dtype=d, device=device) for d in (torch.float32, torch.float64))
        return cls(score, exact, torch.zeros(rows, dtype=torch.int64, device=device))


class Certificate:
    """Finds the exact best of every row, and of every column, of the blocks of two operands with `given` rows.

    `settle` is that of an epilogue.
    """

    def __init__(self, query: Operand, key: Operand, settle: Callable[..., None]) -> None:
        self._settle = settle
        self._query, self._key = _Side.of(query), _Side.of(key)
        self._slack_N, self._slack_M = self._query.slack(self._key), self._key.slack(self._query)
        self._columns = Best.of_none(len(self._key.given), self._key.given.device)

    def rows(self, score_RM: Tensor, rows: slice) -> Tensor:
        """The best key of every row of a block, (R,) int64."""
        found = Best.of_none(len(score_RM), score_RM.device)
        self._settle(score_RM, self._slack_N[rows], self._query.given[rows], self._key.given, self._key.scale, 0, found)
        return found.index

    def columns(self, score_RM: Tensor, rows: slice) -> Tensor:
        """The best query of every column, (M,) int64, among this block's and those before it."""
        given_RC, scale_R = self._query.given[rows], self._query.scale[rows]
        self._settle(score_RM.mT, self._slack_M, self._key.given, given_RC, scale_R, rows.start, self._columns)
        return self._columns.index


@dataclass(frozen=True)
class _Side:
    """Of every row: itself as given, what ⟨·, given⟩ is multiplied by, ‖x − x̃‖, and the larger of ‖x‖ and ‖x̃‖."""

    given: Tensor
    scale: Tensor
    error: Tensor
    size: Tensor

    @classmethod
    def of(cls, operand: Operand) -> "_Side":
        given_NC, rounded_NC = operand.given, operand.rounded
        assert given_NC is not None
        error_N, size_N = torch.empty(2, len(given_NC), device=given_NC.device)
        scale_N = torch.ones(len(given_NC), dtype=torch.float64, device=given_NC.device)
        for rows in chunks(given_NC):
            exact_RC = given_NC[rows].float()
            if operand.unit:
                scale_N[rows] = 1 / torch.linalg.vector_norm(given_NC[rows].double(), dim=1).clamp_(min=NORM_EPSILON)
                exact_RC = exact_RC / norms(exact_RC)
            error_N[rows] = torch.linalg.vector_norm(exact_RC - rounded_NC[rows], dim=1)
            of_exact_R, of_rounded_R = (
                torch.linalg.vector_norm(x, dim=1, dtype=torch.float32) for x in (exact_RC, rounded_NC[rows])
            )
            torch.maximum(of_exact_R, of_rounded_R, out=size_N[rows])
        return cls(given_NC, scale_N, error_N, size_N)

    def slack(self, other: "_Side") -> Tensor:
        """(N,): twice the bound of a score of every row with any of the other side.

        A few roundings more than sums make stand for what float32 cuts off of x/‖x‖. Where a vector is not finite it
        is infinite: all scores are made again.
        """
        error, size = other.error.max(), other.size.max()
        of_sums = (self.given.shape[1] + 8) * 2**-23
        slack_N = 2 * _MARGIN * (self.error * size + self.size * (error + size * of_sums))
        return slack_N.nan_to_num(nan=torch.inf, posinf=torch.inf)
