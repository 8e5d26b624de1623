"""`settle` of `ops/epilogue.py` as a Triton kernel: the exact best of every row of a block of rounded scores.

Shapes: R rows of the block, M columns, C channels.
"""

# Triton is untyped, and reads the annotations of a kernel's arguments as types of its own.
# mypy: allow-untyped-defs, disable-error-code="import-untyped"

import triton
import triton.language as tl
from torch import Tensor

from plca_dist.ops.certified import Best
from plca_dist.ops.triton.common import FAR, OPTIONS, at, beats, first_best, matrix

#: Rows and columns of a tile in which the best are settled, by whether columns lie side by side in memory; and how many
#: channels are multiplied at once.
_TILES, _CHANNELS = {True: (1, 2048), False: (8, 128)}, 1024


def settle(
    score_RM: Tensor, slack_R: Tensor, query_RC: Tensor, key_MC: Tensor, scale_M: Tensor, start: int, found: Best
) -> None:
    """See `ops/epilogue.py`. One pass looks for what has to be scored again and does it: the host need not know."""
    R, M = score_RM.shape
    tile = _TILES[score_RM.stride(1) == 1]
    views = matrix(score_RM), slack_R, matrix(query_RC), matrix(key_MC), scale_M
    _settle[(triton.cdiv(R, tile[0]),)](
        *views, found, start, R, M, query_RC.shape[1], *tile, _CHANNELS, num_warps=4, **OPTIONS
    )


@triton.jit(do_not_specialize=["start"])
def _settle(
    scores, slack, query, key, scale, found, start, R, M, C,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, ROWS)[:, None]
    row = tl.program_id(0) * ROWS + lane
    place = lane * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    width = tl.load(slack + row, mask=row < R, other=0.0)
    largest = tl.load(found.score + row, mask=row < R, other=0.0)
    exact = tl.load(found.exact + row, mask=row < R, other=0.0)
    index = tl.load(found.index + row, mask=row < R, other=0)
    for first in range(0, M, COLUMNS):
        column = first + tl.arange(0, COLUMNS)[None, :]
        inside = (row < R) & (column < M)
        score = tl.load(at(scores, row, column), mask=inside, other=float("-inf"))
        here, where = first_best(score, column + tl.zeros([ROWS, COLUMNS], tl.int32), 1)
        larger = beats(here, largest)
        largest = tl.where(larger, here, largest)
        finite = tl.abs(largest) < float("inf")
        index = tl.where(larger & (finite == 0), start + where.to(tl.int64), index)
        waiting = tl.where(inside & finite & (score >= largest - width), place, FAR)
        next = tl.min(tl.reshape(waiting, [ROWS * COLUMNS]), 0)
        while next < FAR:
            one, other = tl.program_id(0) * ROWS + next // COLUMNS, first + next % COLUMNS
            total = tl.zeros([CHANNELS], tl.float64)
            for channel in range(0, C, CHANNELS):
                c = channel + tl.arange(0, CHANNELS)
                of_query = tl.load(at(query, one, c), mask=c < C, other=0.0)
                of_key = tl.load(at(key, other, c), mask=c < C, other=0.0)
                total += of_query.to(tl.float64) * of_key.to(tl.float64)
            value = tl.sum(total, 0) * tl.load(scale + other)
            larger = (row == one) & (value > exact)
            exact = tl.where(larger, value, exact)
            index = tl.where(larger, start + other.to(tl.int64), index)
            waiting = tl.where(place == next, FAR, waiting)
            next = tl.min(tl.reshape(waiting, [ROWS * COLUMNS]), 0)
    tl.store(found.score + row, largest, mask=row < R)
    tl.store(found.exact + row, exact, mask=row < R)
    tl.store(found.index + row, index, mask=row < R)
