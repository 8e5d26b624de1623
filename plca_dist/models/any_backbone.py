"""A backbone of either kind, a ResNet from here or a network of timm, and what the network around it needs to know."""

from typing import NamedTuple

from torch import nn

from plca_dist.errors import UserError
from plca_dist.models.architecture import OUTPUT_STRIDE, TIMM, Style
from plca_dist.models.backbone import build_backbone
from plca_dist.models.timm_backbone import build_timm


class AnyBackbone(NamedTuple):
    """A backbone as a module that takes normalized images (B, 3, H, W).

    Attributes:
        name: `resnet101`, or `timm/NAME`.
        module: it gives features (B, C, h, w), or a list of such, finest first.
        style: how images are normalized for it.
        channels: of the features that it gives, in their order.
        stride: of the grid of the network that it is for.
        multiple: see `Network`.
    """

    name: str
    module: nn.Module
    style: Style
    channels: tuple[int, ...]
    stride: int
    multiple: int


def any_backbone(name: str, style: str | Style, head: str, stride: int) -> AnyBackbone:
    """The backbone called `name`, freshly initialized, for a network with this head and stride.

    Raises UserError for an unknown name or style, and for a stride that it cannot give.
    """
    if name.startswith(TIMM):
        module, facts = build_timm(name, head, stride)
        own_style = style if isinstance(style, Style) else facts.style
        return AnyBackbone(name, module, own_style, facts.channels, stride, facts.multiple)
    every_stage = head == "multilevel"
    resnet = build_backbone(name, style if isinstance(style, str) else style.name, every_stage=every_stage)
    if stride != OUTPUT_STRIDE:
        raise UserError(f"stride = {stride}: backbone {name!r} has stride {OUTPUT_STRIDE} only.")
    channels = resnet.stage_channels if every_stage else (resnet.out_channels,)
    return AnyBackbone(name, resnet, resnet.style, channels, stride, 1)
