"""ResNets at output stride 8, with torchvision's parameter names, in the two styles pretrained weights come in.

He et al. 2015 (arXiv 1512.03385) at stride 32; the last stages trade stride for dilation (à trous, Chen et al., arXiv
1606.00915). One rule places every dilation: *the convolution that lost its stride, and all before it, keep the dilation
they had; all after it take the new one.* The features at every fourth position are then exactly those of the stride-32
network, so ImageNet weights keep their meaning. For bottlenecks the rule gives torchvision's
`replace_stride_with_dilation` in the one style and the authors' "dilated from the first block on" in the other; for
basic blocks, which torchvision does not dilate, conv1 of a stage's first block keeps the previous dilation.

B: batch; H, W: image; h, w: the stride-8 grid; C: channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from plca_dist.models.architecture import OUTPUT_STRIDE, Architecture, Style, architecture_named, style_named


def normalize(image_B3HW: Tensor, style: Style) -> Tensor:
    """The network's input, float32 (or the image's own float type), from RGB in 0-255, uint8 or float.

    The constants are numbers, not buffers: no dtype cast of the module can round them, and no weight file holds them.
    """
    image = image_B3HW if image_B3HW.is_floating_point() else image_B3HW.float()
    planes = zip(style.channels, style.mean, style.std, strict=True)
    return torch.stack([(image[:, c] - mean) / std for c, mean, std in planes], dim=1)


class BlockGeometry(NamedTuple):
    """One block's stride, and the dilation before and after the convolution that carries the stride."""

    stride: int
    dilation_before: int
    dilation: int


def _conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(_conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions. The first carries the stride in both styles, because there is no 1x1 convolution."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, geometry: BlockGeometry, style: Style) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, geometry.stride, geometry.dilation_before)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, 1, geometry.dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, width, geometry.stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return self.relu(residual + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; the stride sits in the 3x3 (torchvision) or in the first 1x1 (caffe)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, geometry: BlockGeometry, style: Style) -> None:
        super().__init__()
        in_first = style.stride_in_first_conv
        self.conv1 = _conv1x1(in_channels, width, geometry.stride if in_first else 1)
        self.bn1 = nn.BatchNorm2d(width)
        stride, dilation = (1, geometry.dilation) if in_first else (geometry.stride, geometry.dilation_before)
        self.conv2 = _conv3x3(width, width, stride, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv1x1(width, width * self.expansion)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, width * self.expansion, geometry.stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return self.relu(residual + (x if self.downsample is None else self.downsample(x)))


_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Normalized images (B, 3, H, W) -> features (B, C, h, w), C = `out_channels`, h = ⌈H/8⌉ (see `Style.ceil_pool`).

    With a ceil-mode pool an even half-size grid gains a row: an edge of 96 pixels gives 13 positions, not 12.

    With `every_stage` it gives a list of the features of all four stages, of `stage_channels`; only the first may have
    another stride than 8.
    """

    def __init__(self, architecture: Architecture, style: Style, *, every_stage: bool = False) -> None:
        super().__init__()
        width = architecture.widths[0]
        self.every_stage = every_stage
        self.stage_channels = tuple(w * _BLOCKS[architecture.block].expansion for w in architecture.widths)
        self.style = style
        kernel = architecture.stem_kernel
        self.conv1 = nn.Conv2d(3, width, kernel, stride=2, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=style.ceil_pool) if architecture.stem_pool else nn.Identity()
        first, second, third, fourth = _stage_geometry(stem_stride=4 if architecture.stem_pool else 2)
        self.out_channels = width
        self.layer1 = self._stage(architecture, 0, first)
        self.layer2 = self._stage(architecture, 1, second)
        self.layer3 = self._stage(architecture, 2, third)
        self.layer4 = self._stage(architecture, 3, fourth)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, architecture: Architecture, index: int, first: BlockGeometry) -> nn.Sequential:
        block, width = _BLOCKS[architecture.block], architecture.widths[index]
        rest = BlockGeometry(1, first.dilation, first.dilation)
        blocks = []
        for geometry in [first] + [rest] * (architecture.depths[index] - 1):
            blocks.append(block(self.out_channels, width, geometry, self.style))
            self.out_channels = width * block.expansion
        return nn.Sequential(*blocks)

    def forward(self, normalized_B3HW: Tensor) -> Tensor | list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(normalized_B3HW))))
        stages = [x]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            stages.append(layer(stages[-1]))
        return stages[1:] if self.every_stage else stages[-1]


def _stage_geometry(stem_stride: int) -> list[BlockGeometry]:
    """The first block of each stage: stages 2 to 4 halve the grid down to OUTPUT_STRIDE, then double the dilation."""
    geometries, reached, dilation = [BlockGeometry(1, 1, 1)], stem_stride, 1
    for _ in range(3):
        if reached < OUTPUT_STRIDE:
            reached *= 2
            geometries.append(BlockGeometry(2, dilation, dilation))
        else:
            geometries.append(BlockGeometry(1, dilation, 2 * dilation))
            dilation *= 2
    return geometries


def build_backbone(name: str, style: str = "torchvision", *, every_stage: bool = False) -> ResNet:
    """A freshly initialized backbone (Kaiming normal, fan-out; BN 1 and 0), drawn from torch's global generator.

    Raises UserError for an unknown name or style, with the nearest known one.
    """
    return ResNet(architecture_named(name), style_named(style), every_stage=every_stage)
