"""Eq. 7 and 8: spatial aggregation, in training on the target and at inference on what is to be predicted.

Shapes: B images, C channels or classes, N = H·W positions, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from plca_dist.method.settings import InferenceSettings, check_ratio
from plca_dist.method.similarity import embed
from plca_dist.ops.operations import attend
from plca_dist.ops.settings import Pairwise


def aggregate(
    x_BCHW: Tensor,
    ratio: float,
    similarity: str,
    *,
    contrast: bool | None = None,
    pairwise: Pairwise = Pairwise(),
) -> Tensor:
    """x̂_j = (1 − α) x_j + α Σ_j' w_jj' x_j', with w_j· = softmax of the contrast-normalized D(x_j, x_·).

    `ratio` is the paper's α, which people who tune the method call λ: 0.5 in the paper, 0 returns `x` itself.
    The average is of `x` as it is (features are not normalized), j' includes j, and gradient flows through w and
    through x. Rows of a "kl" `x` that sum to one still do.

    `contrast=None` normalizes for "cosine" and not for "kl": so does the authors' code. The paper's text normalizes
    both: `contrast=True`. `pairwise` says how the N x N operation is computed; products of "kl" are float32
    under every setting.

    Returns (B, C, H, W) in at least float32. Raises UserError for a ratio outside [0, 1) or an unknown similarity.
    """
    if check_ratio(ratio) == 0:
        return x_BCHW
    if contrast is None:
        contrast = similarity == "cosine"
    of_x = embed(x_BCHW, similarity)
    # The query is x itself as (B, N, C). It is passed as the value too, so that the operation sees one tensor.
    aggregated_BNC = attend(
        of_x.query,
        of_x.key,
        of_x.query,
        ratio=ratio,
        contrast=contrast,
        cosine=of_x.cosine,
        pairwise=of_x.computed(pairwise),
    )
    return aggregated_BNC.mT.unflatten(2, x_BCHW.shape[2:])


def aggregated_prediction(
    features_BCHW: Tensor,
    classify: Callable[[Tensor], Tensor],
    ratio: float,
    settings: InferenceSettings = InferenceSettings(),
) -> Tensor:
    """The paper's inference: aggregated features -> classifier -> softmax -> aggregated probabilities.

    `classify` takes features (B, C, H, W), in the dtype they came in, to logits (B, K, H, W). Returns probabilities
    (B, K, H, W) on the same grid, in at least float32. The caller upsamples *probabilities*, then takes the argmax.
    """
    aggregated_BCHW = aggregate(features_BCHW, ratio, "cosine", pairwise=settings.pairwise)
    logits_BKHW = classify(aggregated_BCHW.to(features_BCHW.dtype))
    dtype = torch.promote_types(logits_BKHW.dtype, torch.float32)
    return aggregate(
        logits_BKHW.softmax(1, dtype=dtype),
        ratio,
        "kl",
        contrast=settings.kl_aggregation_contrast,
        pairwise=settings.pairwise,
    )
