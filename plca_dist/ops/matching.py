"""`match` of one pair in blocks: the best key of every query, its softmax, and their gradient.

Shapes: N queries, M keys, R rows of a block, C channels; I rows and J columns that pull.
"""

import torch
from torch import Tensor

from plca_dist.ops import multiply
from plca_dist.ops.blocks import Blocks
from plca_dist.ops.certified import Certificate, Operand
from plca_dist.ops.epilogue import Pull, Softmax


class Matching(Blocks):
    """The best keys do not depend on `products` further than float32 does: see `certified.py`."""

    def side(self, x_NC: Tensor, unit: bool) -> Operand:
        """`x` as scores are made of it."""
        rounded = self.dtype not in (torch.float32, torch.float64)
        return Operand(self.operand(x_NC, unit), x_NC if rounded else None, unit)

    def best(self, query: Operand, key: Operand) -> Tensor:
        """Best key of every query, (N,) int64, the lowest index of equals."""
        query_NC, key_MC = query.rounded, key.rounded
        certificate = self._certificate(query, key)
        index_N = torch.empty(len(query_NC), dtype=torch.int64, device=query_NC.device)
        for rows in self._rows(query_NC, key_MC):
            score_RM = self._product(query_NC[rows], key_MC.mT)
            index_N[rows] = certificate.rows(score_RM, rows) if certificate else score_RM.max(1).indices
        return index_N

    def match(self, query: Operand, key: Operand) -> tuple[Tensor, Softmax]:
        """Best key of every query, (N,) int64, and the contrast-normalized softmax of its row."""
        index_N, softmax, _ = self._match(query, key, columns=False)
        return index_N, softmax

    def softmax_of(self, index_I: Tensor, query: Operand, key: Operand) -> Softmax:
        """The softmax of the rows at `index`, int64, without their best keys."""
        return self.match(Operand(query.rounded[index_I], None, query.unit), key)[1]

    def match_both(self, query: Operand, key: Operand) -> tuple[Tensor, Softmax, Tensor]:
        """`match`, and the best query of every key, (M,) int64, from the same blocks: where D(i, j) = D(j, i)."""
        return self._match(query, key, columns=True)

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

    def _match(self, query: Operand, key: Operand, columns: bool) -> tuple[Tensor, Softmax, Tensor]:
        query_NC, key_MC = query.rounded, key.rounded
        certificate = self._certificate(query, key)
        best_M = torch.full((len(key_MC),), -torch.inf, dtype=self.exact, device=key_MC.device)
        index_M = torch.zeros_like(best_M, dtype=torch.int64)
        index_N, softmax = torch.empty(len(query_NC), dtype=torch.int64, device=key_MC.device), self._softmax(query_NC)
        for rows in self._rows(query_NC, key_MC):
            score_RM = self._product(query_NC[rows], key_MC.mT)
            settled_R = certificate.rows(score_RM, rows) if certificate else None
            if columns and certificate:
                index_M = certificate.columns(score_RM, rows)
            elif columns:
                self.epilogue.column_best_(score_RM, rows.start, best_M, index_M)
            index_R, of_rows, _ = self.epilogue.softmax_(score_RM, True, None)
            index_N[rows] = index_R if settled_R is None else settled_R
            softmax.put(rows, of_rows)
        return index_N, softmax, index_M

    def _certificate(self, query: Operand, key: Operand) -> Certificate | None:
        if query.given is None or len(query.given) == 0:
            return None
        return Certificate(query, key, self.epilogue.settle)

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
            dquery_NC[index_R] += multiply.mm(gradient_RM, key_MC)
            multiply.add_mm_(dkey_MC, gradient_RM.mT, query_RC)
