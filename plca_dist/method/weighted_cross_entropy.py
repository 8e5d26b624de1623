"""Cross-entropy in which every pixel has a weight: the loss of self-training.

Shapes: B images, K classes, h x w the network's grid, H x W the labels' size.
"""

import torch.nn.functional as F
from torch import Tensor

from plca_dist.method.cross_entropy import upsampled_log_softmax


def weighted_cross_entropy(
    logits_BKhw: Tensor, labels_BHW: Tensor, weight_BHW: Tensor, ignore_index: int = 255
) -> Tensor:
    """−Σ_i w_i log P_i(y_i) / HW over all pixels of an image, then the mean over images.

    The sum is divided by the number of all pixels, not by that of the labelled ones or by the weights: an image that
    the teacher is unsure of teaches less. `ignore_index` has weight 0.
    """
    log_probability_BKHW = upsampled_log_softmax(logits_BKhw, labels_BHW)
    loss_BHW = F.nll_loss(log_probability_BKHW, labels_BHW, ignore_index=ignore_index, reduction="none")
    return (weight_BHW * loss_BHW).mean((1, 2)).mean()
