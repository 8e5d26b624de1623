"""Eq. 1 and 9: a similarity is a pair of embeddings, a query and a key, with D(i, j) = <query_i, key_j> or its cosine.

Shapes: B pairs, C channels (features) or classes (probabilities), N = H·W positions.
"""

from dataclasses import replace
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from plca_dist.method.settings import check_similarity
from plca_dist.ops.dense import at_least_float32
from plca_dist.ops.settings import Pairwise

#: The authors' guard in log(P + ε).
LOG_EPSILON = 1e-10


class Embedding(NamedTuple):
    """Every position's query and key: two tensors (B, N, C). D(i, j) compares the query of i with the key of j.

    `cosine`: query and key are one tensor, and D(i, j) is the cosine instead of the inner product. The operations
    normalize inside, so that no normalized copy is kept for the backward pass.
    """

    query: Tensor
    key: Tensor
    cosine: bool

    def computed(self, pairwise: Pairwise) -> Pairwise:
        """How operations on it are computed: as `pairwise` says, but with float32 products for "kl".

        Logarithms of probabilities reach −23, and rounding them to bfloat16 sends a quarter of the starts to another
        target; and products of so few channels cost little.
        """
        return pairwise if self.cosine else replace(pairwise, products="float32")


def embed(x_BCHW: Tensor, similarity: str) -> Embedding:
    """Embeddings of every position, in row-major order of the grid; those of "kl" in at least float32.

    "cosine" (Eq. 1), for features:       D(i, j) = <F_i/‖F_i‖, F_j/‖F_j‖>; a zero feature stays zero.
    "kl"     (Eq. 9), for probabilities:  D(i, j) = −KL(P_i ‖ P_j) is replaced by <P_i, log(P_j + ε)>. The two differ by
    the entropy of P_i, a constant of row i, which neither an argmax nor a softmax over the row sees. Not symmetric.

    Raises UserError for another similarity, ValueError where `x` is not (B, C, H, W).
    """
    if x_BCHW.ndim != 4:
        raise ValueError(f"expected (B, C, H, W) to embed, got {tuple(x_BCHW.shape)}")
    x_BNC = x_BCHW.flatten(2).mT
    if check_similarity(similarity) == "cosine":
        return Embedding(x_BNC, x_BNC, cosine=True)
    x_BNC = at_least_float32(x_BNC)
    return Embedding(x_BNC, (x_BNC + LOG_EPSILON).log(), cosine=False)


def aligned_similarity(i: Embedding, j: Embedding) -> Tensor:
    """D(i_n, j_n), (B, N), of embeddings already lined up position by position.

    Here "kl" is −KL(P_i ‖ P_j) itself, entropy included: its gradient matters where D is maximized directly.
    """
    if i.cosine:
        unit_i, unit_j = (F.normalize(at_least_float32(x), dim=-1) for x in (i.query, j.key))
        return (unit_i * unit_j).sum(-1)
    return (i.query * (j.key - i.key)).sum(-1)
