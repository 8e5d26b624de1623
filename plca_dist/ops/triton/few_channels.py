"""`Matching` and `Attending` for few channels on CUDA: whole passes in one kernel each."""

from torch import Tensor

from plca_dist.ops.attending import Attending
from plca_dist.ops.certified import Operand
from plca_dist.ops.epilogue import Pull, Softmax
from plca_dist.ops.matching import Matching
from plca_dist.ops.triton import fused


class FewMatching(Matching):
    """The same operations. Left to `Matching` are both directions of a shared matrix, where one product serves both,
    and best keys that rounding could change.
    """

    def best(self, query: Operand, key: Operand) -> Tensor:
        if query.given is not None:
            return super().best(query, key)
        return fused.best(query.rounded, key.rounded, products=self.products)

    def match(self, query: Operand, key: Operand) -> tuple[Tensor, Softmax]:
        if query.given is not None or len(query.rounded) == 0:  # a kernel needs a program
            return super().match(query, key)
        return fused.match(query.rounded, key.rounded, products=self.products)

    def match_gradient(
        self,
        query_NC: Tensor,
        key_MC: Tensor,
        rows: Pull,
        columns: Pull | None,
        dquery_NC: Tensor,
        dkey_MC: Tensor,
    ) -> None:
        if columns is not None:
            super().match_gradient(query_NC, key_MC, rows, columns, dquery_NC, dkey_MC)
            return
        pulling_I = rows.places()
        if len(pulling_I):
            of_query_IC, of_key_MC = fused.match_gradient(
                query_NC[pulling_I], key_MC, rows.take(pulling_I), products=self.products
            )
            dquery_NC[pulling_I] += of_query_IC
            dkey_MC += of_key_MC


class FewAttending(Attending):
    """The same operations."""

    def attend(self, query_NC: Tensor, key_MC: Tensor, value_MD: Tensor, contrast: bool, average_ND: Tensor) -> Softmax:
        found_ND, softmax = fused.attend(query_NC, key_MC, value_MD, contrast, products=self.products)
        average_ND.copy_(found_ND)
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
        found = fused.attend_gradient(query_NC, key_MC, value_MD, daverage_ND, delta_N, softmax, products=self.products)
        for total, gradient in zip(gradients, found, strict=True):
            total += gradient

    def attend_itself_gradient(
        self,
        query_NC: Tensor,
        value_ND: Tensor,
        daverage_ND: Tensor,
        delta_N: Tensor,
        softmax: Softmax,
        gradients: tuple[Tensor, Tensor],
    ) -> None:
        dquery_NC, dvalue_ND = gradients
        every = dquery_NC, dquery_NC, dvalue_ND  # query and key are one tensor
        self.attend_gradient(query_NC, query_NC, value_ND, daverage_ND, delta_N, softmax, every)
