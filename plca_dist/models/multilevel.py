"""A light head on features of several depths, as SegFormer has it (Xie et al. 2021, arXiv 2105.15203, Sec. 3.2).

Each level goes through a 1x1 convolution to a common width and is resized to the grid; a second 1x1 convolution mixes
the levels into the features, and a third classifies them. Two things differ from SegFormer. The grid is the network's
own and not always of stride 4, because the association compares all of its positions. The mixed features are
normalized by LayerNorm, position by position, and not by BatchNorm: an image's features do not depend on the others of
its batch, and so not on the number of ranks. There is no dropout either, for nothing here is random but the data.

B: batch; C_i, h_i, w_i: channels and grid of level i; D: WIDTH; h, w: the grid.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Channels of the features, SegFormer's for its smaller networks.
WIDTH = 256


class LevelFusion(nn.Module):
    """Levels (B, C_i, h_i, w_i) and a grid (h, w) -> features (B, D, h, w), not negative.

    `channels`: C_i of each level. Resizing is bilinear.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in channels)
        self.mix = nn.Conv2d(WIDTH * len(channels), WIDTH, 1, bias=False)
        self.norm = nn.LayerNorm(WIDTH)
        for conv in (*self.projections, self.mix):
            nn.init.kaiming_normal_(cast(nn.Conv2d, conv).weight, mode="fan_out", nonlinearity="relu")

    def forward(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        resized = [
            F.interpolate(project(level), size=grid, mode="bilinear", align_corners=False)
            for project, level in zip(self.projections, levels, strict=True)
        ]
        mixed_BhwD = self.norm(self.mix(torch.cat(resized, dim=1)).permute(0, 2, 3, 1))
        return F.relu(mixed_BhwD.permute(0, 3, 1, 2))


def multilevel_classifier(num_classes: int) -> nn.Conv2d:
    """(B, D, h, w) -> (B, K, h, w). It starts as small as DeepLab's head (normal, std 0.01; bias 0)."""
    classifier = nn.Conv2d(WIDTH, num_classes, 1)
    nn.init.normal_(classifier.weight, std=0.01)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)
    return classifier
