"""`attend` of one pair in blocks: the softmax average of the values, and its gradients.

Shapes: N queries, M keys, R rows of a block, L columns behind them, C channels of the score, D channels of the value.
"""

from collections.abc import Iterator

from torch import Tensor

from plca_dist.ops import multiply
from plca_dist.ops.blocks import Blocks
from plca_dist.ops.epilogue import Softmax


class Attending(Blocks):
    """Whatever `products` is, statistics and sums are exact."""

    def attend(self, query_NC: Tensor, key_MC: Tensor, value_MD: Tensor, contrast: bool, average_ND: Tensor) -> Softmax:
        """Writes the softmax average of the values to `average`; returns the softmax of every row."""
        softmax = self._softmax(query_NC)
        for rows in self._rows(query_NC, key_MC):
            score_RM = self._product(query_NC[rows], key_MC.mT)
            _, of_rows, odds_RM = self.epilogue.softmax_(score_RM, contrast, self.dtype)
            average_RD = average_ND[rows]
            multiply.mm_(average_RD, odds_RM, value_MD)
            average_RD.mul_(of_rows.log_sum.neg().exp()[:, None])
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
            multiply.add_mm_(dvalue_MD, weight_RM.mT, daverage_ND[rows])
            multiply.add_mm_(dquery_NC[rows], gradient_RM, key_MC)
            multiply.add_mm_(dkey_MC, gradient_RM.mT, query_NC[rows])

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
            multiply.add_mm_(dvalue_ND[rows], weight_RR.mT, daverage_RD)
            multiply.add_mm_(dquery_NC[rows], gradient_RR, query_RC)
            multiply.add_mm_(dquery_NC[rows], gradient_RR.mT, query_RC)
            for later in self._later(rows, len(query_NC)):
                weight_RL, mirrored_RL, gradient_RL = self.epilogue.attend_gradient_both_(
                    self._product(query_RC, query_NC[later].mT),
                    self._product(daverage_RD, value_ND[later].mT, "dweight"),
                    self._product(value_RD, daverage_ND[later].mT, "dweight of columns"),
                    of_rows,
                    (softmax.take(later), delta_N[later]),
                    self.dtype,
                )
                multiply.add_mm_(dvalue_ND[later], weight_RL.mT, daverage_RD)
                multiply.add_mm_(dvalue_ND[rows], mirrored_RL, daverage_ND[later])
                multiply.add_mm_(dquery_NC[rows], gradient_RL, query_NC[later])
                multiply.add_mm_(dquery_NC[later], gradient_RL.mT, query_RC)

    def _later(self, rows: slice, N: int) -> Iterator[slice]:
        """The columns after those of `rows`. On the CPU few widths occur, for oneDNN keeps memory for each width."""
        width = N if self.on_gpu else 4 * (rows.stop - rows.start)
        start = rows.stop
        while start < N:
            stop = min((start // width + 1) * width, N)
            yield slice(start, stop)
            start = stop
