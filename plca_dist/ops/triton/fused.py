"""`match` and `attend` of one pair with few channels: scores are made in tiles, used at once and never written.

With 19 classes a score costs less to make than to write: the forward kernel makes them twice (statistics, then odds),
each gradient kernel once more. Queries' gradients come from programs along the rows, keys' and values' from programs
along the columns. No atomics: the same input gives the same bits.

`products` (see `ops/settings.py`) says how operands of products are rounded; statistics and sums are float32. Inputs
are float32, bfloat16 or float16 at any strides. An average is laid out as the values, a gradient as its tensor:
channels first, for views of maps.

Shapes: R queries, M keys, C channels of the score, D channels of the value, both at most `LIMIT`.
"""

# mypy: disable-error-code="import-untyped"

import torch
import triton
from torch import Tensor

from plca_dist.ops.epilogue import Pull, Softmax
from plca_dist.ops.settings import PRODUCTS
from plca_dist.ops.triton.common import OPTIONS, empty_softmax, matrix, packed
from plca_dist.ops.triton.fused_kernels import forward, key_gradient, query_gradient

#: Most channels of the score and of the value.
LIMIT = 128
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: By exactness of the products, tiles for up to so many channels. Each fits an H100 (227 KB of shared memory) and stays
#: in registers, or nearly so; none has been tuned on one yet. Exact products hold all channels of their operands in
#: registers: their tiles are small.
_TILES = {
    True: (
        (32, {"ROWS": 32, "COLUMNS": 32, "num_warps": 4, "num_stages": 2}),
        (64, {"ROWS": 32, "COLUMNS": 32, "num_warps": 8, "num_stages": 2}),
        (LIMIT, {"ROWS": 32, "COLUMNS": 16, "num_warps": 8, "num_stages": 2}),
    ),
    False: (
        (64, {"ROWS": 64, "COLUMNS": 64, "num_warps": 8, "num_stages": 2}),
        (LIMIT, {"ROWS": 64, "COLUMNS": 32, "num_warps": 8, "num_stages": 2}),
    ),
}


def best(query_RC: Tensor, key_MC: Tensor, *, products: str) -> Tensor:
    """Best key of every query, (R,) int64: the lowest index of equals; NaN wins."""
    index_R = torch.empty(len(query_RC), dtype=torch.int64, device=query_RC.device)
    _forward(query_RC, key_MC, None, None, index_R, None, False, products)
    return index_R


def match(query_RC: Tensor, key_MC: Tensor, *, products: str) -> tuple[Tensor, Softmax]:
    """`best`, and the contrast-normalized softmax of every row."""
    index_R = torch.empty(len(query_RC), dtype=torch.int64, device=query_RC.device)
    softmax = empty_softmax(len(query_RC), query_RC.device)
    _forward(query_RC, key_MC, None, None, index_R, softmax, True, products)
    return index_R, softmax


def match_gradient(query_RC: Tensor, key_MC: Tensor, pull: Pull, *, products: str) -> tuple[Tensor, Tensor]:
    """Gradients of Σ_i g_i log p_i[index_i] in query and key, float32. An index outside [0, M) is nowhere."""
    dquery_RC, dkey_MC = (torch.empty_like(x, dtype=torch.float32) for x in (query_RC, key_MC))
    scores = pull.softmax, pull.index, pull.gradient
    _backward(query_RC, key_MC, None, None, *scores, dquery_RC, dkey_MC, None, products)
    return dquery_RC, dkey_MC


def attend(
    query_RC: Tensor, key_MC: Tensor, value_MD: Tensor, contrast: bool, *, products: str
) -> tuple[Tensor, Softmax]:
    """The softmax average of the values, (R, D) float32, and the softmax of every row."""
    R, D = len(query_RC), value_MD.shape[1]
    channels_first = value_MD.stride(0) < value_MD.stride(1)
    average = torch.empty((D, R) if channels_first else (R, D), dtype=torch.float32, device=query_RC.device)
    average_RD = average.mT if channels_first else average
    softmax = empty_softmax(R, query_RC.device)
    _forward(query_RC, key_MC, value_MD, average_RD, None, softmax, contrast, products)
    return average_RD, softmax


def attend_gradient(
    query_RC: Tensor,
    key_MC: Tensor,
    value_MD: Tensor,
    daverage_RD: Tensor,
    delta_R: Tensor,
    softmax: Softmax,
    *,
    products: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, float32, given that of the average and δ_i = Σ_d daverage_id · average_id."""
    dquery_RC, dkey_MC, dvalue_MD = (torch.empty_like(x, dtype=torch.float32) for x in (query_RC, key_MC, value_MD))
    scores = softmax, None, delta_R
    _backward(query_RC, key_MC, value_MD, daverage_RD, *scores, dquery_RC, dkey_MC, dvalue_MD, products)
    return dquery_RC, dkey_MC, dvalue_MD


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    average: Tensor | None,
    index: Tensor | None,
    softmax: Softmax | None,
    contrast: bool,
    products: str,
) -> None:
    C, D = _channels(query, key, value, products)
    tile = _tile(C, D, products)
    views = (None if x is None else matrix(x) for x in (query, key, value, average))
    forward[(triton.cdiv(len(query), tile["ROWS"]),)](
        *views, index, softmax, len(query), len(key), C, D, contrast, products, **tile, **OPTIONS
    )


def _backward(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    daverage: Tensor | None,
    softmax: Softmax,
    index: Tensor | None,
    gradient: Tensor,
    dquery: Tensor,
    dkey: Tensor,
    dvalue: Tensor | None,
    products: str,
) -> None:
    C, D = _channels(query, key, value, products)
    tile = _tile(C, D, products)
    views = (None if x is None else matrix(x) for x in (query, key, value, daverage))
    scores = packed(softmax), None if index is None else index.contiguous(), gradient.contiguous()
    arguments = *views, *scores, len(query), len(key), C, D, products
    query_gradient[(triton.cdiv(len(query), tile["ROWS"]),)](matrix(dquery), *arguments, **tile, **OPTIONS)
    of_value = None if dvalue is None else matrix(dvalue)
    key_gradient[(triton.cdiv(len(key), tile["ROWS"]),)](matrix(dkey), of_value, *arguments, **tile, **OPTIONS)


def _tile(C: int, D: int, products: str) -> dict[str, int]:
    return next(tile for most, tile in _TILES[products == "float32"] if most >= max(C, D))


def _channels(query: Tensor, key: Tensor, value: Tensor | None, products: str) -> tuple[int, int]:
    """C and D, or 0. Raises ValueError for what the kernels do not take."""
    if products not in PRODUCTS:
        raise ValueError(f"expected products to be one of {', '.join(PRODUCTS)}, got {products!r}")
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x is not None and (x.dtype not in _DTYPES or x.shape[1] > LIMIT):
            raise ValueError(
                f"expected {name} in float32, bfloat16 or float16 with at most {LIMIT} channels, "
                f"got {x.dtype} with {x.shape[1]}"
            )
    if query.shape[1] != key.shape[1] or len(key) == 0 or (value is not None and len(value) != len(key)):
        shapes = [None if x is None else tuple(x.shape) for x in (query, key, value)]
        raise ValueError(f"expected query (R, C), key (M, C) with M > 0 and value (M, D), got {shapes}")
    return query.shape[1], 0 if value is None else value.shape[1]
