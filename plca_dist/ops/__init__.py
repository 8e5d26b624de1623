"""The N x N operations that carry the whole paper: `match`, `attend`, and the two matches of a `cycle`.

Both levels of association are bilinear scores D_ij = <q_i, k_j> (derivation in README.md); what q and k are is
`method/similarity.py`'s matter. `dense` is the definition, `streaming` gives the same in O(block x N) memory.

Under torch.compile they run as they are, outside the graph; `fullgraph=True` is refused by torch.
"""

from types import ModuleType

from torch import Tensor

from plca_dist.errors import UserError, nearest
from plca_dist.ops import dense, streaming
from plca_dist.ops.dense import Cycle, Match, at_least_float32
from plca_dist.ops.products import PRODUCTS, check_products

__all__ = [
    "BACKENDS", "PRODUCTS", "Cycle", "Match", "at_least_float32", "attend", "check_backend", "cycle", "match",
]  # fmt: skip

#: What `backend` may be. "auto" is "streaming", or "dense" where that is faster and small.
BACKENDS = ("auto", "dense", "streaming")
#: Scores of a batch up to which "auto" is dense: measured on the CPU, see README.md.
_SMALL = 1 << 20


def match(
    query_BNC: Tensor, key_BMC: Tensor, *, cosine: bool = False, products: str = "float32", backend: str = "auto"
) -> Match:
    """The best key of every query and its contrast-normalized log-probability; see `dense.match`.

    cosine     the score is the cosine of query and key instead of their inner product
    products   how matrix products are rounded, see `products.PRODUCTS`
    backend    one of `BACKENDS`

    Raises UserError for settings that are unknown or do not go together, ValueError for shapes.
    """
    if _implementation(backend, products, query_BNC, key_BMC) is dense:
        return dense.match(query_BNC, key_BMC, cosine=cosine)
    return streaming.match(query_BNC, key_BMC, cosine=cosine, products=products)


def attend(
    query_BNC: Tensor,
    key_BMC: Tensor,
    value_BMD: Tensor,
    *,
    ratio: float = 1.0,
    contrast: bool = True,
    cosine: bool = False,
    products: str = "float32",
    backend: str = "auto",
) -> Tensor:
    """Values mixed with their softmax average, (B, N, D); see `dense.attend`, and `match` for the rest."""
    inputs = query_BNC, key_BMC, value_BMD
    if _implementation(backend, products, query_BNC, key_BMC) is dense:
        return dense.attend(*inputs, ratio=ratio, contrast=contrast, cosine=cosine)
    return streaming.attend(*inputs, ratio=ratio, contrast=contrast, cosine=cosine, products=products)


def cycle(
    source_query_BNC: Tensor,
    source_key_BNC: Tensor,
    target_query_BMC: Tensor,
    target_key_BMC: Tensor,
    labels_BN: Tensor,
    *,
    cosine: bool = False,
    ignore_index: int = 255,
    products: str = "float32",
    backend: str = "auto",
) -> Cycle:
    """Cycles source -> target -> source and the log-probability of the consistent ones; see `dense.cycle`, `match`."""
    inputs = source_query_BNC, source_key_BNC, target_query_BMC, target_key_BMC, labels_BN
    if _implementation(backend, products, source_query_BNC, target_key_BMC) is dense:
        return dense.cycle(*inputs, cosine=cosine, ignore_index=ignore_index)
    return streaming.cycle(*inputs, cosine=cosine, ignore_index=ignore_index, products=products)


def check_backend(backend: str, products: str = "float32") -> None:
    """Raises UserError for an unknown backend or products, and for two that do not go together."""
    if backend not in BACKENDS:
        raise UserError(
            f"association backend {backend!r} is unknown; known: {', '.join(BACKENDS)}.{nearest(backend, BACKENDS)}"
        )
    if check_products(products) != "float32" and backend == "dense":
        raise UserError(f"backend 'dense' multiplies in float32 only, not in {products}: use 'auto' or 'streaming'.")


def _implementation(backend: str, products: str, query_BNC: Tensor, key_BMC: Tensor) -> ModuleType:
    check_backend(backend, products)
    if query_BNC.is_meta:
        if backend == "streaming":
            raise NotImplementedError("streaming looks at values, which meta tensors lack: use backend='dense'")
        return dense
    if backend != "auto":
        return dense if backend == "dense" else streaming
    small = query_BNC.shape[:-1].numel() * key_BMC.shape[-2] <= _SMALL
    return dense if small and products == "float32" else streaming
