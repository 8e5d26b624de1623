"""An averaged teacher: its weights follow those of the network that trains, and its predictions are pseudo-labels.

Tarvainen and Valpola 2017 (arXiv 1703.01780): θ' ← α θ' + (1 − α) θ once after each optimizer step, with
α = min(1 − 1/t, α_max) at the t-th step. So θ' is the mean of all weights so far, until the past counts α_max.

Shapes: B images, K classes, h x w the network's grid, H x W the images' size.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from plca_dist.method.output import NetworkOutput
from plca_dist.ops.dense import at_least_float32


class PseudoLabels(NamedTuple):
    """What a teacher says of B images.

    Attributes:
        labels_BHW: int64, the likeliest class of every pixel.
        weight_BHW: float, what the pixel counts: the share of the image's pixels that the teacher is sure of, and 0 in
            margins that are left out.
        confident: scalar, the mean over images of that share.
    """

    labels_BHW: Tensor
    weight_BHW: Tensor
    confident: Tensor


class Teacher:
    """A copy of the network as it is now, which then follows it. A `Companion`.

    It stays in evaluation mode: a pseudo-label depends on its image alone, not on the batch or on how it is split, and
    prediction leaves nothing behind. Batch norm uses the running statistics of the network that trains, which have been
    averaged over ranks. They have seen both domains, as they have when the network is evaluated.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """`decay`: α_max in [0, 1)."""
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._decay = decay

    def state_dict(self) -> dict[str, Any]:
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state)

    def after_step(self, network: nn.Module, done: int) -> None:
        """Parameters are averaged, buffers copied."""
        pairs = list(zip(self.network.parameters(), network.parameters(), strict=True))
        average_into([own.data for own, _ in pairs], [other.data for _, other in pairs], decay_at(done, self._decay))
        for own, other in zip(self.network.buffers(), network.buffers(), strict=True):
            own.copy_(other)

    @torch.no_grad()
    def logits(self, image_B3HW: Tensor) -> Tensor:
        """(B, K, h, w) of uint8 or float RGB images in 0-255."""
        output: NetworkOutput = self.network(image_B3HW)
        return output.logits


def decay_at(done: int, most: float) -> float:
    """α of the `done`-th optimizer step, which is the first at 1: min(1 − 1/done, most)."""
    return min(1 - 1 / done, most)


@torch.no_grad()
def average_into(averages: list[Tensor], values: list[Tensor], decay: float) -> None:
    """θ' ← α θ' + (1 − α) θ in place, tensor by tensor; α: `decay`."""
    get_ema_multi_avg_fn(decay)(averages, values, 0)


@torch.no_grad()
def pseudo_labels(
    logits_BKhw: Tensor, size: tuple[int, int], threshold: float, ignore_top: float = 0.0, ignore_bottom: float = 0.0
) -> PseudoLabels:
    """Pseudo-labels of `size` (H, W) from logits, which are upsampled bilinearly.

    DACS (arXiv 2007.08702) takes the share of sure pixels over the batch, so that an image's loss depends on the images
    beside it. Here it is the image's own.

    Args:
        threshold: least probability of the likeliest class at a pixel that the teacher is sure of.
        ignore_top, ignore_bottom: shares of the height that get weight 0.
    """
    logits_BKHW = F.interpolate(at_least_float32(logits_BKhw), size=list(size), mode="bilinear", align_corners=False)
    probability_BHW, labels_BHW = logits_BKHW.softmax(1).max(1)
    share_B = (probability_BHW >= threshold).to(probability_BHW.dtype).mean((1, 2))
    weight_BHW = share_B[:, None, None].expand_as(probability_BHW).clone()
    height = size[0]
    weight_BHW[:, : round(ignore_top * height)] = 0
    weight_BHW[:, height - round(ignore_bottom * height) :] = 0
    return PseudoLabels(labels_BHW, weight_BHW, share_B.mean())


#: Gives the pseudo-labels of a scene's target images; terms share it, and `Scene.once` has it made once.
Labelling = Callable[[Tensor], PseudoLabels]
