"""DeepLab-V2: a backbone at output stride 8 and one layer of parallel dilated convolutions (arXiv 1606.00915).

The backbone may also be one of timm's, the stride another, and the head the one of `multilevel.py`.

The method needs the features as well as the logits, so the network returns both. At inference the method classifies a
second time, after it has aggregated the features (Eq. 7), so the classifier can be called alone.

B: batch; H, W: image; h, w: the grid; C: feature channels; K: classes.
"""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from plca_dist.errors import UserError, nearest
from plca_dist.method.output import NetworkOutput
from plca_dist.models.any_backbone import AnyBackbone, any_backbone
from plca_dist.models.architecture import HEADS, OUTPUT_STRIDE, Style
from plca_dist.models.backbone import normalize
from plca_dist.models.multilevel import WIDTH, LevelFusion, multilevel_classifier
from plca_dist.models.sync_batch_norm import synchronized

#: Dilations of the head in the paper; a small grid wants smaller ones (24 cells exceed a 12 x 24 grid altogether).
PAPER_RATES = (6, 12, 18, 24)


class DeepLabHead(nn.Module):
    """Sum of 3x3 convolutions dilated by `rates`, without bias: (B, C, h, w) -> (B, K, h, w)."""

    def __init__(self, in_channels: int, num_classes: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate, bias=False) for rate in rates
        )
        for conv in self.convs:
            nn.init.normal_(cast(nn.Conv2d, conv).weight, std=0.01)

    def forward(self, features_BChw: Tensor) -> Tensor:
        logits_BKhw = self.convs[0](features_BChw)
        for conv in self.convs[1:]:
            logits_BKhw = logits_BKhw + conv(features_BChw)
        return logits_BKhw


class Network(nn.Module):
    """RGB images -> `NetworkOutput`; made by `build_network`.

    Parameters: `backbone.*`, `classifier.*` (`classifier.convs.{i}.weight` of DeepLab's head), and `fusion.*` of the
    multi-level head. The network normalizes its input itself, as its `style` says.

    Attributes:
        stride: the grid's step in pixels.
        multiple: an image whose sides are no multiples of this is resized, bilinearly, to the nearest inside the
            network: the backbone would leave its margins out. 1: every size is taken as it is.
        still: modules that stay in evaluation mode while the rest trains (`frozen.py`).
    """

    def __init__(self, backbone: AnyBackbone, num_classes: int, head: str, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone_name = backbone.name
        self.style, self.stride, self.multiple = backbone.style, backbone.stride, backbone.multiple
        self.num_classes = num_classes
        self.head = head
        self.rates = rates
        self.still: tuple[nn.Module, ...] = ()
        self.backbone = backbone.module
        self.fusion = LevelFusion(backbone.channels) if head == "multilevel" else None
        self.feature_channels = WIDTH if head == "multilevel" else backbone.channels[-1]
        self.classifier = (
            multilevel_classifier(num_classes)
            if head == "multilevel"
            else DeepLabHead(self.feature_channels, num_classes, rates)
        )

    def forward(self, image_B3HW: Tensor) -> NetworkOutput:
        """`image_B3HW`: RGB in 0-255, uint8 or float. Normalized in float32 and only then cast to the weights' type."""
        normalized_B3HW = self._fitted(normalize(image_B3HW, self.style)).to(next(self.backbone.parameters()).dtype)
        found = self.backbone(normalized_B3HW)
        levels = found if isinstance(found, list) else [found]
        features_BChw = levels[-1]
        if self.fusion is not None:
            # Rounded up, and of positive numbers: ONNX rounds quotients of negative ones towards 0.
            height, width = ((side + self.stride - 1) // self.stride for side in normalized_B3HW.shape[2:])
            features_BChw = self.fusion(levels, (height, width))
        return NetworkOutput(features_BChw, self.classify(features_BChw))

    def classify(self, features_BChw: Tensor) -> Tensor:
        """Logits (B, K, h, w) of features, which may have been aggregated after the backbone."""
        return self.classifier(features_BChw)

    def train(self, mode: bool = True) -> "Network":
        super().train(mode)
        for module in self.still:
            module.eval()
        return self

    def _fitted(self, normalized_B3HW: Tensor) -> Tensor:
        if self.multiple == 1:
            return normalized_B3HW
        sides = normalized_B3HW.shape[2:]
        height, width = (max((side + self.multiple // 2) // self.multiple, 1) * self.multiple for side in sides)
        if all(type(side) is int for side in sides) and (height, width) == tuple(
            sides
        ):  # else an ONNX file's free size
            return normalized_B3HW
        return F.interpolate(normalized_B3HW, size=(height, width), mode="bilinear", align_corners=False)


def build_network(
    backbone: str,
    num_classes: int,
    *,
    style: str | Style = "torchvision",
    rates: Sequence[int] = PAPER_RATES,
    head: str = "deeplab",
    stride: int = OUTPUT_STRIDE,
) -> Network:
    """A network with fresh weights (DeepLab's head: normal, std 0.01), drawn from torch's global generator.

    Args:
        backbone: one of `BACKBONES`, or timm/NAME.
        style: of a ResNet here; a network of timm has its own, and another `Style` in its place where one is given.
        rates: dilations of DeepLab's head.
        head: one of `HEADS`.
        stride: of the grid, in pixels.

    Raises UserError for an unknown backbone, style or head, fewer than one class, rates that are not positive integers,
    and a stride that the backbone cannot give.
    """
    if num_classes < 1:
        raise UserError(f"a network of {num_classes} classes cannot be built: give at least 1 class.")
    if not rates or any(not isinstance(rate, int) or rate < 1 for rate in rates):
        raise UserError(
            f"rates {list(rates)} are not dilations: give one or more integers of at least 1, e.g. {list(PAPER_RATES)}."
        )
    if head not in HEADS:
        raise UserError(f"head {head!r} is unknown; known: {', '.join(HEADS)}.{nearest(head, HEADS)}")
    return Network(any_backbone(backbone, style, head, stride), num_classes, head, tuple(rates))


def synchronize_batch_norm(network: Network) -> Network:
    """The same network with BN statistics taken over all ranks, as the authors train it.

    Parameter names and values are unchanged. Every rank must pass batches of one shape.
    """
    return cast(Network, synchronized(network))
