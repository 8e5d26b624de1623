"""Eq. 7 and 8: spatial aggregation, in training on the target and at inference on what is to be predicted.

Shapes: B images, C channels or classes, N = H·W positions, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from plca_dist.errors import UserError
from plca_dist.method.similarity import embed
from plca_dist.ops import attend


def aggregate(
    x_BCHW: Tensor,
    ratio: float,
    similarity: str,
    *,
    contrast: bool | None = None,
    products: str = "float32",
    backend: str = "auto",
) -> Tensor:
    """x̂_j = (1 − α) x_j + α Σ_j' w_jj' x_j', with w_j· = softmax of the contrast-normalized D(x_j, x_·).

    `ratio` is the paper's α, which people who tune the method call λ: 0.5 in the paper, 0 returns `x` itself.
    The average is of `x` as it is (features are not normalized), j' includes j, and gradient flows through w and
    through x. Rows of a "kl" `x` that sum to one still do.

    `contrast=None` normalizes for "cosine" and not for "kl": so does the authors' code. The paper's text normalizes
    both: `contrast=True`. `products` and `backend` as in `ops.match`.

    Returns (B, C, H, W) in at least float32. Raises UserError for a ratio outside [0, 1) or an unknown similarity.
    """
    if check_ratio(ratio) == 0:
        return x_BCHW
    if contrast is None:
        contrast = similarity == "cosine"
    of_x = embed(x_BCHW, similarity)
    # Its query is x itself, as (B, N, C): for the operation to see that query and value are one tensor.
    aggregated_BNC = attend(
        of_x.query,
        of_x.key,
        of_x.query,
        ratio=ratio,
        contrast=contrast,
        cosine=of_x.cosine,
        products=products,
        backend=backend,
    )
    return aggregated_BNC.mT.unflatten(2, x_BCHW.shape[2:])


def aggregated_prediction(
    features_BCHW: Tensor,
    classify: Callable[[Tensor], Tensor],
    ratio: float,
    *,
    kl_aggregation_contrast: bool = False,
    products: str = "float32",
    backend: str = "auto",
) -> Tensor:
    """The paper's inference: aggregated features -> classifier -> softmax -> aggregated probabilities.

    `classify` takes features (B, C, H, W), in the dtype they came in, to logits (B, K, H, W). Returns probabilities
    (B, K, H, W) on the same grid, in at least float32; the caller upsamples *probabilities*, then takes the argmax.
    """
    aggregated_BCHW = aggregate(features_BCHW, ratio, "cosine", products=products, backend=backend)
    logits_BKHW = classify(aggregated_BCHW.to(features_BCHW.dtype))
    dtype = torch.promote_types(logits_BKHW.dtype, torch.float32)
    return aggregate(
        logits_BKHW.softmax(1, dtype=dtype),
        ratio,
        "kl",
        contrast=kl_aggregation_contrast,
        products=products,
        backend=backend,
    )


def check_ratio(ratio: float) -> float:
    """`ratio` itself. Raises UserError outside [0, 1)."""
    if not 0 <= ratio < 1:
        raise UserError(
            f"aggregation {ratio} is out of range: use at least 0 (no aggregation) and less than 1 (paper: 0.5)."
        )
    return ratio
