"""Adversarial adaptation of outputs: a discriminator learns to tell the domains apart, the segmenter to fool it.

AdaptSeg: Tsai et al., "Learning to Adapt Structured Output Space for Semantic Segmentation", CVPR 2018 (arXiv
1802.10349). AdvEnt: Vu et al., CVPR 2019 (arXiv 1811.12833). Both at a single level: on the network's only output.

Shapes: B images, K classes, H x W pixels, to which the logits have been upsampled.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from plca_dist.errors import UserError
from plca_dist.method.entropy import weighted_information
from plca_dist.method.settings import SMALLEST_SEEN
from plca_dist.ops.dense import at_least_float32

_CHANNELS = (64, 128, 256, 512, 1)
#: What the discriminator is to say of each domain.
SOURCE, TARGET = 0.0, 1.0


class Discriminator(nn.Module):
    """Maps (B, K, H, W) -> logits (B, 1, H/32, W/32) that a patch is of the target; both sides at least 32.

    Five convolutions with kernel 4, stride 2 and padding 1, LeakyReLU 0.2 between them, no normalization. So what it
    says of an image does not depend on the others of a batch.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out in zip((classes, *_CHANNELS), _CHANNELS, strict=False):
            layers += [nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, maps_BKHW: Tensor) -> Tensor:
        return self.layers(maps_BKHW)


def seen_by_discriminator(logits_BKHW: Tensor, sees: str) -> Tensor:
    """What the discriminator sees: class probabilities (AdaptSeg), or I = −p log p / log K (AdvEnt)."""
    if sees == "entropy":
        return weighted_information(logits_BKHW)
    return at_least_float32(logits_BKHW).softmax(1)


def fooling_loss(discriminator: Discriminator, target_BKHW: Tensor) -> Tensor:
    """The segmenter's term: −mean log(1 − σ(D(target))), a scalar: small where D takes the target for the source.

    No gradient reaches the discriminator: it is called with weights that are cut off.
    """
    fixed = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    return _said(functional_call(discriminator, fixed, (_checked(target_BKHW),)), SOURCE)


def discriminator_loss(discriminator: Discriminator, source_BKHW: Tensor, target_BKHW: Tensor) -> Tensor:
    """The discriminator's own loss: half the cross-entropy on the source, and half that on the target, a scalar.

    No gradient reaches the segmenter: the maps are cut off. The two domains pass one by one, as sizes may differ.
    """
    on_source = _said(discriminator(_checked(source_BKHW.detach())), SOURCE)
    return (on_source + _said(discriminator(_checked(target_BKHW.detach())), TARGET)) / 2


def _said(logits_B1hw: Tensor, domain: float) -> Tensor:
    logits_B1hw = at_least_float32(logits_B1hw)
    return F.binary_cross_entropy_with_logits(logits_B1hw, torch.full_like(logits_B1hw, domain))


def _checked(maps_BKHW: Tensor) -> Tensor:
    if min(maps_BKHW.shape[2:]) < SMALLEST_SEEN:
        raise UserError(
            f"a discriminator halves an image five times and needs {SMALLEST_SEEN} pixels a side; got "
            f"{' x '.join(map(str, maps_BKHW.shape[2:]))}: take larger crops."
        )
    return maps_BKHW
