"""Entropy of the target's predictions: MinEnt, and the robust form of FDA.

Vu et al., "ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation", CVPR 2019 (arXiv
1811.12833); Yang and Soatto, "FDA: Fourier Domain Adaptation for Semantic Segmentation", CVPR 2020 (arXiv 2004.05498).

Shapes: B images, K classes, H x W pixels, to which the logits have been upsampled.
"""

import math

from torch import Tensor

from plca_dist.method.settings import check_penalty
from plca_dist.ops.dense import at_least_float32

#: FDA's penalty of a pixel's entropy h is (h² + ε)^η, a Charbonnier function: it leaves certain pixels alone.
_EPSILON, _ETA = 1e-8, 2


def weighted_information(logits_BKHW: Tensor) -> Tensor:
    """ADVENT's I = −p log p / log K, (B, K, H, W): its sum over classes is the entropy, 0 (certain) to 1 (even)."""
    log_BKHW = at_least_float32(logits_BKHW).log_softmax(1)
    return -log_BKHW.exp() * log_BKHW / math.log(max(logits_BKHW.shape[1], 2))


def entropy_loss(logits_BKHW: Tensor, penalty: str = "linear") -> Tensor:
    """Mean over pixels of the penalty of their entropy h = −Σ_k p_k log p_k / log K, a scalar.

    "linear" is h: MinEnt. ADVENT's text sums over pixels; its code, and this, take the mean, for which its weight of
    0.001 is meant. "robust" is (h² + 1e-8)², which FDA minimizes with the weight 0.005: pixels that are certain have
    next to no gradient. All images have equally many pixels: the mean is one over images of a value of the image alone.

    Raises UserError for another penalty.
    """
    entropy_BHW = weighted_information(logits_BKHW).sum(1)
    if check_penalty(penalty) == "robust":
        entropy_BHW = (entropy_BHW.square() + _EPSILON) ** _ETA
    return entropy_BHW.mean()
