"""The N x N computations of one pair in blocks of whole rows: the matrix library multiplies, an epilogue does the rest.

A block holds all keys of its rows: a row's maximum, σ and log-sum-exp come from the block itself, and nothing larger
than a block is ever made. The backward pass makes the scores again. Work and memory: README.md.

Shapes: N queries, M keys, R rows of a block, C channels of the score, D channels of the value. Operands are matrices in
the dtype of `Blocks`; what is accumulated over blocks is float32 (float64 for float64).
"""

from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor

from plca_dist.ops import epilogue
from plca_dist.ops.epilogue import Pull, Softmax
from plca_dist.ops.products import add_mm_, mm, operand_dtype
from plca_dist.ops.rows import unit_rows

#: Bytes of a block on the CPU, part of an L3; measured best from 4 to 8 MiB, for few channels and for many.
_CPU_BLOCK = 8 << 20
#: Rows with which the matrix library is at its speed, and beyond which more rows gain nothing on the CPU.
_FEWEST_ROWS, _MOST_ROWS = 128, 256
#: Share of a GPU's L2 that a float32 block may take; its products' operands pass through the rest.
_L2_SHARE = 0.5


class Blocks:
    """The computations of one pair on one device: the dtype of operands, the rows of a block, and the epilogue.

    like       a tensor of the pair: its device, and float64 or not
    products   see `settings.PRODUCTS`
    """

    def __init__(self, like: Tensor, products: str) -> None:
        self.products = products
        self.dtype = operand_dtype(like, products)
        self.exact = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.bytes, self.most_rows = _CPU_BLOCK, _MOST_ROWS
        self.on_cuda = like.is_cuda
        if self.on_cuda:
            self.bytes = int(torch.cuda.get_device_properties(like.device).L2_cache_size * _L2_SHARE)
            self.most_rows = self.bytes  # no limit: a launch costs more than rows do
        self.epilogue = epilogue_of(like)
        self._workspace: dict[str, Tensor] = {}

    def operand(self, x_NC: Tensor, unit: bool = False) -> Tensor:
        """`x` as it enters products, its rows divided by their norms for `unit`; layout kept."""
        return unit_rows(x_NC, self.dtype, self.exact) if unit else x_NC.to(self.dtype)

    def zeros(self, like_BNC: Tensor) -> Tensor:
        """An accumulator in the layout of `like`."""
        return torch.zeros_like(like_BNC, dtype=self.exact)

    def best(self, query_NC: Tensor, key_MC: Tensor) -> Tensor:
        """Best key of every query, (N,) int64, the lowest index of equals."""
        index_N = torch.empty(len(query_NC), dtype=torch.int64, device=query_NC.device)
        for rows in self._rows(query_NC, key_MC):
            index_N[rows] = self._product(query_NC[rows], key_MC.mT).max(1).indices
        return index_N

    def match(self, query_NC: Tensor, key_MC: Tensor) -> tuple[Tensor, Softmax]:
        """Best key of every query, (N,) int64, and the contrast-normalized softmax of its row."""
        index_N, softmax, _ = self._match(query_NC, key_MC, columns=False)
        return index_N, softmax

    def match_both(self, query_NC: Tensor, key_MC: Tensor) -> tuple[Tensor, Softmax, Tensor]:
        """`match`, and the best query of every key, (M,) int64, from the same blocks: where D(i, j) = D(j, i)."""
        return self._match(query_NC, key_MC, columns=True)

    def match_gradient(
        self,
        query_NC: Tensor,
        key_MC: Tensor,
        rows: Pull,
        columns: Pull | None,
        dquery_NC: Tensor,
        dkey_MC: Tensor,
    ) -> None:
        """Adds the gradient of Σ_i g_i log p_i[index_i], over rows and over columns, to those of query and key.

        Both directions meet in one gradient block: two products for both. Rows that pull meet all columns; the other
        rows meet only the columns that pull, if any.
        """
        pulling_I = rows.places()
        pulling_J = None if columns is None else columns.places()
        if columns is None or pulling_J is None or len(pulling_J) == 0:
            self._strip(query_NC, key_MC, pulling_I, rows, None, dquery_NC, dkey_MC)
            return
        self._strip(query_NC, key_MC, pulling_I, rows, columns, dquery_NC, dkey_MC)
        rest_N = torch.ones_like(rows.gradient, dtype=torch.bool).index_fill_(0, pulling_I, False)
        rest_I = torch.nonzero_static(rest_N, size=len(query_NC) - len(pulling_I)).squeeze(1)
        dkey_JC = self.zeros(key_JC := key_MC[pulling_J])
        self._strip(query_NC, key_JC, rest_I, None, columns.take(pulling_J), dquery_NC, dkey_JC)
        dkey_MC[pulling_J] += dkey_JC

    def attend(self, query_NC: Tensor, key_MC: Tensor, value_MD: Tensor, contrast: bool, average_ND: Tensor) -> Softmax:
        """Writes the softmax average of the values to `average`; returns the softmax of every row."""
        softmax = self._softmax(query_NC)
        for rows in self._rows(query_NC, key_MC):
            score_RM = self._product(query_NC[rows], key_MC.mT)
            _, of_rows, odds_RM = self.epilogue.softmax_(score_RM, contrast, self.dtype)
            average_ND[rows] = mm(odds_RM, value_MD).mul_(of_rows.log_sum.neg().exp()[:, None])
            softmax.put(rows, of_rows)
        return softmax

    def attend_gradient(
        self,
        query_NC: Tensor,
        key_MC: Tensor,
        value_MD: Tensor,
        daverage_ND: Tensor,
        delta_N: Tensor,
        softmax: Softmax,
        gradients: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        """Adds to the `gradients` of query, key and value, given that of the average. Five products.

        δ_i = Σ_d daverage_id · average_id, which is Σ_j p_ij dp_ij.
        """
        dquery_NC, dkey_MC, dvalue_MD = gradients
        for rows in self._rows(query_NC, key_MC):
            weight_RM, gradient_RM = self.epilogue.attend_gradient_(
                self._product(query_NC[rows], key_MC.mT),
                self._product(daverage_ND[rows], value_MD.mT, "dweight"),
                softmax.take(rows),
                delta_N[rows],
                self.dtype,
            )
            add_mm_(dvalue_MD, weight_RM.mT, daverage_ND[rows])
            add_mm_(dquery_NC[rows], gradient_RM, key_MC)
            add_mm_(dkey_MC, gradient_RM.mT, query_NC[rows])

    def attend_itself_gradient(
        self,
        query_NC: Tensor,
        value_ND: Tensor,
        daverage_ND: Tensor,
        delta_N: Tensor,
        softmax: Softmax,
        gradients: tuple[Tensor, Tensor],
    ) -> None:
        """`attend_gradient` where the key is the query: adds to the `gradients` of both and of the value. 3.5 products.

        D is symmetric: a block of rows meets only the columns from its own on, and does the work of its mirror image
        too. G_ij + G_ji then multiplies the queries of both sides: one product where query and key apart take two.
        """
        dquery_NC, dvalue_ND = gradients
        for rows in self._rows(query_NC, query_NC):
            query_RC, value_RD, daverage_RD = query_NC[rows], value_ND[rows], daverage_ND[rows]
            of_rows = (softmax.take(rows), delta_N[rows])
            weight_RR, gradient_RR = self.epilogue.attend_gradient_(
                self._product(query_RC, query_RC.mT),
                self._product(daverage_RD, value_RD.mT, "dweight"),
                *of_rows,
                self.dtype,
            )
            add_mm_(dvalue_ND[rows], weight_RR.mT, daverage_RD)
            add_mm_(dquery_NC[rows], gradient_RR, query_RC)
            add_mm_(dquery_NC[rows], gradient_RR.mT, query_RC)
            for later in self._later(rows, len(query_NC)):
                weight_RL, mirrored_RL, gradient_RL = self.epilogue.attend_gradient_both_(
                    self._product(query_RC, query_NC[later].mT),
                    self._product(daverage_RD, value_ND[later].mT, "dweight"),
                    self._product(value_RD, daverage_ND[later].mT, "dweight of columns"),
                    of_rows,
                    (softmax.take(later), delta_N[later]),
                    self.dtype,
                )
                add_mm_(dvalue_ND[later], weight_RL.mT, daverage_RD)
                add_mm_(dvalue_ND[rows], mirrored_RL, daverage_ND[later])
                add_mm_(dquery_NC[rows], gradient_RL, query_NC[later])
                add_mm_(dquery_NC[later], gradient_RL.mT, query_RC)

    def _match(self, query_NC: Tensor, key_MC: Tensor, columns: bool) -> tuple[Tensor, Softmax, Tensor]:
        best_M = torch.full((len(key_MC),), -torch.inf, dtype=self.exact, device=key_MC.device)
        index_M = torch.zeros_like(best_M, dtype=torch.int64)
        index_N, softmax = torch.empty(len(query_NC), dtype=torch.int64, device=key_MC.device), self._softmax(query_NC)
        for rows in self._rows(query_NC, key_MC):
            score_RM = self._product(query_NC[rows], key_MC.mT)
            if columns:
                self.epilogue.column_best_(score_RM, rows.start, best_M, index_M)
            index_N[rows], of_rows, _ = self.epilogue.softmax_(score_RM, True, score_RM.dtype)
            softmax.put(rows, of_rows)
        return index_N, softmax, index_M

    def _strip(
        self,
        query_NC: Tensor,
        key_MC: Tensor,
        rows_I: Tensor,
        rows: Pull | None,
        columns: Pull | None,
        dquery_NC: Tensor,
        dkey_MC: Tensor,
    ) -> None:
        """`match_gradient` of the queries at `rows_I`, gathered, against all of `key`."""
        # Where in the strip a query lies; far before it for those that are not in it.
        place_N = torch.full((len(query_NC),), -len(query_NC), device=query_NC.device)
        place_N[rows_I] = torch.arange(len(rows_I), device=query_NC.device)
        for block in self._rows(rows_I, key_MC):
            index_R = rows_I[block]
            query_RC = query_NC[index_R]
            gradient_RM = self.epilogue.match_gradient_(
                self._product(query_RC, key_MC.mT),
                None if rows is None else rows.take(index_R),
                None if columns is None else columns._replace(index=place_N[columns.index] - block.start),
                self.dtype,
            )
            dquery_NC[index_R] += mm(gradient_RM, key_MC)
            add_mm_(dkey_MC, gradient_RM.mT, query_RC)

    def _later(self, rows: slice, N: int) -> Iterator[slice]:
        """The columns after those of `rows`. On the CPU few widths occur, for oneDNN keeps memory for each width."""
        width = N if self.on_cuda else 4 * (rows.stop - rows.start)
        start = rows.stop
        while start < N:
            stop = min((start // width + 1) * width, N)
            yield slice(start, stop)
            start = stop

    def _product(self, a_RC: Tensor, b_CM: Tensor, name: str = "score") -> Tensor:
        """A block, in memory that the next block of that name reuses.

        Large and small allocations in turn would leave the CPU's heap in pieces that are too small for the next block.
        """
        if a_RC.is_cuda:
            return mm(a_RC, b_CM)  # torch reuses freed memory there
        size = len(a_RC) * b_CM.shape[1]
        if name not in self._workspace or len(self._workspace[name]) < size:
            self._workspace[name] = torch.empty(size, dtype=self.exact)
        return torch.mm(a_RC, b_CM, out=self._workspace[name][:size].view(len(a_RC), -1))

    def _softmax(self, query_N: Tensor) -> Softmax:
        return Softmax(*(torch.empty(len(query_N), dtype=self.exact, device=query_N.device) for _ in Softmax._fields))

    def _rows(self, query_N: Tensor, key_M: Tensor) -> Iterator[slice]:
        """Slices of the queries, in increasing order, whose blocks of scores have the right size."""
        N, M = len(query_N), len(key_M)
        step = max(min(self.bytes // (self.exact.itemsize * M) // 16 * 16, self.most_rows), _FEWEST_ROWS)
        return (slice(start, min(start + step, N)) for start in range(0, N, step))


def epilogue_of(x: Tensor) -> ModuleType:
    """The module that works on the score blocks of `x`: Triton kernels on CUDA (float32), plain torch elsewhere."""
    if x.is_cuda and x.dtype != torch.float64:
        from plca_dist.ops.triton import epilogue as kernels

        return kernels
    return epilogue
