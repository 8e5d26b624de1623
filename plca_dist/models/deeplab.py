"""DeepLab-V2: a backbone at output stride 8 and one layer of parallel dilated convolutions (arXiv 1606.00915).

The method needs the features as well as the logits, so the network returns both. At inference the method classifies a
second time, after it has aggregated the features (Eq. 7), so the classifier can be called alone.

B: batch; H, W: image; h, w: the stride-8 grid; C: feature channels; K: classes.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from plca_dist.errors import UserError
from plca_dist.method.output import NetworkOutput
from plca_dist.models.architecture import Style
from plca_dist.models.backbone import OUTPUT_STRIDE, build_backbone, normalize
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

    Parameters: `backbone.*` and `classifier.convs.{i}.weight`. `stride` is the grid's step in pixels. The network
    normalizes its input itself, as its `style` says.
    """

    stride = OUTPUT_STRIDE

    def __init__(self, backbone: str, num_classes: int, style: str, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone_name = backbone
        self.num_classes = num_classes
        self.rates = rates
        self.backbone = build_backbone(backbone, style)
        self.classifier = DeepLabHead(self.feature_channels, num_classes, rates)

    @property
    def feature_channels(self) -> int:
        return self.backbone.out_channels

    @property
    def style(self) -> Style:
        return self.backbone.style

    def forward(self, image_B3HW: Tensor) -> NetworkOutput:
        """`image_B3HW`: RGB in 0-255, uint8 or float. Normalized in float32 and only then cast to the weights' type."""
        normalized_B3HW = normalize(image_B3HW, self.style).to(self.backbone.conv1.weight.dtype)
        features_BChw = self.backbone(normalized_B3HW)
        return NetworkOutput(features_BChw, self.classify(features_BChw))

    def classify(self, features_BChw: Tensor) -> Tensor:
        """Logits (B, K, h, w) of features, which may have been aggregated after the backbone."""
        return self.classifier(features_BChw)


def build_network(
    backbone: str, num_classes: int, *, style: str = "torchvision", rates: Sequence[int] = PAPER_RATES
) -> Network:
    """A network with fresh weights (the head: normal, std 0.01), drawn from torch's global generator.

    Raises UserError for an unknown backbone or style, fewer than one class, or rates that are not positive integers.
    """
    if num_classes < 1:
        raise UserError(f"a network of {num_classes} classes cannot be built: give at least 1 class.")
    if not rates or any(not isinstance(rate, int) or rate < 1 for rate in rates):
        raise UserError(
            f"rates {list(rates)} are not dilations: give one or more integers of at least 1, e.g. {list(PAPER_RATES)}."
        )
    return Network(backbone, num_classes, style, tuple(rates))


def synchronize_batch_norm(network: Network) -> Network:
    """The same network with BN statistics taken over all ranks, as the authors train it.

    Parameter names and values are unchanged. Every rank must pass batches of one shape.
    """
    return cast(Network, synchronized(network))
