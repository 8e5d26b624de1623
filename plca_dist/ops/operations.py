"""The N x N operations as the method calls them: `match`, `attend`, and `cycle`, which is two matches.

Both levels of association are bilinear scores D_ij = <q_i, k_j> (derivation in README.md). `method/similarity.py` says
which tensors q and k are. `dense` is the definition; `streaming` gives the same in O(block x N) memory.

Under torch.compile the operations run as they are, outside the graph; torch refuses `fullgraph=True`.
"""

from types import ModuleType

from torch import Tensor

from plca_dist.ops import dense, streaming
from plca_dist.ops.dense import Cycle, Match
from plca_dist.ops.settings import Pairwise

#: Scores of a batch up to which backend "auto" is dense: measured on the CPU, see README.md.
_SMALL = 1 << 20


def match(query_BNC: Tensor, key_BMC: Tensor, *, cosine: bool = False, pairwise: Pairwise = Pairwise()) -> Match:
    """The best key of every query and its contrast-normalized log-probability; see `dense.match`.

    cosine     the score is the cosine of query and key instead of their inner product
    pairwise   how products are rounded, and the backend

    Raises ValueError where the shapes do not fit together.
    """
    if _implementation(pairwise, query_BNC, key_BMC) is dense:
        return dense.match(query_BNC, key_BMC, cosine=cosine)
    return streaming.match(query_BNC, key_BMC, cosine=cosine, products=pairwise.products)


def attend(
    query_BNC: Tensor,
    key_BMC: Tensor,
    value_BMD: Tensor,
    *,
    ratio: float = 1.0,
    contrast: bool = True,
    cosine: bool = False,
    pairwise: Pairwise = Pairwise(),
) -> Tensor:
    """Values mixed with their softmax average, (B, N, D); see `dense.attend`, and `match` for the rest."""
    inputs = query_BNC, key_BMC, value_BMD
    if _implementation(pairwise, query_BNC, key_BMC) is dense:
        return dense.attend(*inputs, ratio=ratio, contrast=contrast, cosine=cosine)
    return streaming.attend(*inputs, ratio=ratio, contrast=contrast, cosine=cosine, products=pairwise.products)


def cycle(
    source_query_BNC: Tensor,
    source_key_BNC: Tensor,
    target_query_BMC: Tensor,
    target_key_BMC: Tensor,
    labels_BN: Tensor,
    *,
    cosine: bool = False,
    ignore_index: int = 255,
    pairwise: Pairwise = Pairwise(),
) -> Cycle:
    """Cycles source -> target -> source and the log-probability of the consistent ones; see `dense.cycle`, `match`."""
    inputs = source_query_BNC, source_key_BNC, target_query_BMC, target_key_BMC, labels_BN
    if _implementation(pairwise, source_query_BNC, target_key_BMC) is dense:
        return dense.cycle(*inputs, cosine=cosine, ignore_index=ignore_index)
    return streaming.cycle(*inputs, cosine=cosine, ignore_index=ignore_index, products=pairwise.products)


def _implementation(pairwise: Pairwise, query_BNC: Tensor, key_BMC: Tensor) -> ModuleType:
    if query_BNC.is_meta:
        if pairwise.backend == "streaming":
            raise NotImplementedError("streaming looks at values, which meta tensors lack: use backend='dense'")
        return dense
    if pairwise.backend != "auto":
        return dense if pairwise.backend == "dense" else streaming
    small = query_BNC.shape[:-1].numel() * key_BMC.shape[-2] <= _SMALL
    return dense if small and pairwise.products == "float32" else streaming
