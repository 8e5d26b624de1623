"""Maximum squares: Chen et al., "Domain Adaptation for Semantic Segmentation with Maximum Squares Loss", ICCV 2019.

arXiv 1909.13589. Shapes: B images, K classes, H x W pixels (N of an image), to which the logits have been upsampled.
"""

import torch
from torch import Tensor

from plca_dist.ops.dense import at_least_float32

#: The paper's α of the image-wise weights: 0 weights by nothing, 1 by the inverse frequency.
_ALPHA = 0.2


def max_square_loss(logits_BKHW: Tensor, *, image_weights: bool = False) -> Tensor:
    """−½ · mean over pixels and classes of p², a scalar. Its gradient grows linearly with p, unlike the entropy's.

    The paper divides by pixels alone, −1/(2N) Σ p², which is K times larger; its code, whose weight of 0.1 both quote,
    takes the mean over classes too, and so does this.

    With `image_weights` it is −1/K Σ_n Σ_k w p², with w = 1 / max(n_c^α N^(1−α), 1) for a pixel of the predicted class
    c, of which the image has n_c pixels, and α = 0.2: classes that fill little of an image weigh more. The code has no
    ½ there, nor has this. The weights carry no gradient. Either form is a mean over images of a value of the image.
    """
    p_BKHW = at_least_float32(logits_BKHW).softmax(1)
    square_BHW = p_BKHW.square().sum(1)
    classes = p_BKHW.shape[1]
    if not image_weights:
        return -0.5 * square_BHW.mean() / classes
    return -(square_BHW * _image_weights(p_BKHW.detach())).sum((1, 2)).mean() / classes


def _image_weights(p_BKHW: Tensor) -> Tensor:
    """w of every pixel, (B, H, W), from the class that is predicted there."""
    predicted_BN = p_BKHW.argmax(1).flatten(1)
    ones_BN = torch.ones_like(predicted_BN, dtype=p_BKHW.dtype)
    count_BK = p_BKHW.new_zeros(p_BKHW.shape[:2]).scatter_add_(1, predicted_BN, ones_BN)
    weight_BK = 1 / (count_BK**_ALPHA * predicted_BN.shape[1] ** (1 - _ALPHA)).clamp(min=1)
    return weight_BK.gather(1, predicted_BN).view(-1, *p_BKHW.shape[2:])
