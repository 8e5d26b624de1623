"""Cross-entropy of logits on the grid with labels of full size: the mean over the labelled pixels of an image.

Shapes: B images, K classes, h x w the grid, H x W the labels' size.
"""

import torch.nn.functional as F
from torch import Tensor

from plca_dist.ops.dense import at_least_float32


def upsampled_log_softmax(logits_BKhw: Tensor, labels_BHW: Tensor) -> Tensor:
    """(B, K, H, W) log probabilities of the logits upsampled to the labels, in at least float32.

    Raises ValueError for labels of another form.
    """
    if labels_BHW.ndim != 3 or labels_BHW.shape[0] != logits_BKhw.shape[0]:
        raise ValueError(
            f"expected labels (B, H, W) for logits {tuple(logits_BKhw.shape)}, got {tuple(labels_BHW.shape)}"
        )
    size = list(labels_BHW.shape[1:])
    logits_BKHW = F.interpolate(at_least_float32(logits_BKhw), size=size, mode="bilinear", align_corners=False)
    return logits_BKHW.log_softmax(1)


def cross_entropy(log_probability_BKHW: Tensor, labels_BHW: Tensor, ignore_index: int = 255) -> Tensor:
    """The mean over the labelled pixels of an image, then over images.

    An image without labelled pixels counts as a zero that keeps the graph. The authors average over all labelled pixels
    of a device's batch. That is the same for one pair, but depends on how a batch is split over devices.
    """
    loss_BHW = F.nll_loss(log_probability_BKHW, labels_BHW, ignore_index=ignore_index, reduction="none")
    labelled_B = (labels_BHW != ignore_index).sum((1, 2))
    return (loss_BHW.sum((1, 2)) / labelled_B.clamp(min=1)).mean()
