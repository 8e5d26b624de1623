"""The backbones and their styles as data; `backbone.py` builds them.

Without torch, so that the recipe's settings can be read quickly.
"""

from dataclasses import dataclass
from typing import Literal

from plca_dist.errors import UserError, nearest

#: A backbone called so and then by a name of timm's is one of timm's: `timm/convnext_tiny`.
TIMM = "timm/"
#: The heads. deeplab: DeepLab-V2's, on the last features. multilevel: on features of several depths.
HEADS = ("deeplab", "multilevel")
#: The step of the features' grid in pixels, of every backbone here; timm's are also built with others.
OUTPUT_STRIDE = 8
#: Strides that are of any use.
STRIDES = range(4, 33)

#: The head's dilations: how many, and the largest. The paper has four, up to 24.
MOST_RATES = 16
LARGEST_RATE = 1024


@dataclass(frozen=True)
class Architecture:
    """One ResNet: four stages of `depths` blocks of `widths`, behind a stem of stride 4, or 2 without `stem_pool`.

    `imagenet`: torchvision publishes ImageNet weights for it.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_kernel: int = 7
    stem_pool: bool = True
    imagenet: bool = True


BACKBONES: dict[str, Architecture] = {
    # For demonstrations on a CPU, from scratch: 1.3 M parameters; no pool in the stem keeps small images' detail.
    "tiny": Architecture("basic", (1, 1, 1, 1), (32, 64, 128, 256), stem_kernel=3, stem_pool=False, imagenet=False),
    "resnet18": Architecture("basic", (2, 2, 2, 2)),
    "resnet34": Architecture("basic", (3, 4, 6, 3)),
    "resnet50": Architecture("bottleneck", (3, 4, 6, 3)),
    "resnet101": Architecture("bottleneck", (3, 4, 23, 3)),
}


def architecture_named(name: str) -> Architecture:
    """The backbone called `name`. Raises UserError naming the known ones."""
    if name not in BACKBONES:
        raise UserError(
            f"backbone {name!r} is unknown; known: {', '.join(BACKBONES)}, {TIMM}NAME.{nearest(name, BACKBONES)}"
        )
    return BACKBONES[name]


@dataclass(frozen=True)
class Style:
    """What a family of ImageNet weights expects of the network around it.

    `mean` and `std` are in units of 0-255 and in the order of the network's input channels; `channels[i]` is the RGB
    channel that the network sees as its i-th.
    """

    name: str
    stride_in_first_conv: bool
    ceil_pool: bool
    channels: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


STYLES: dict[str, Style] = {
    "torchvision": Style(
        "torchvision",
        stride_in_first_conv=False,
        ceil_pool=False,
        channels=(0, 1, 2),
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
    ),
    "caffe": Style(
        "caffe",
        stride_in_first_conv=True,
        ceil_pool=True,
        channels=(2, 1, 0),
        mean=(104.00698793, 116.66876762, 122.67891434),
        std=(1.0, 1.0, 1.0),
    ),
}


def style_named(name: str) -> Style:
    """The style called `name`. Raises UserError naming the known ones."""
    if name not in STYLES:
        raise UserError(f"style {name!r} is unknown; known: {', '.join(STYLES)}.{nearest(name, STYLES)}")
    return STYLES[name]
