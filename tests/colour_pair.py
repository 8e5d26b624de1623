"""A pair of images of a few coloured cells, and a network whose features are the colours.

Its cycles can be worked out by hand.
"""

import torch
from torch import Tensor, nn

from plca_dist.data.labels import IGNORE
from plca_dist.data.whole_images import Pair
from plca_dist.method.output import NetworkOutput

CELL = 8
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class Colours(nn.Module):
    """Features are the mean colours of cells; logits are the same values over 20."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))  # gives the network a device

    def forward(self, image_B3HW: Tensor) -> NetworkOutput:
        features_B3hw = nn.functional.avg_pool2d(image_B3HW.float(), CELL)
        return NetworkOutput(features_B3hw, features_B3hw / 20)


def cells(rows: list[list]) -> Tensor:
    """Values (or colours) of cells -> an image in which each cell is CELL x CELL pixels."""
    tensor = torch.tensor(rows, dtype=torch.uint8)
    image = tensor.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
    return image if image.ndim == 2 else image.permute(2, 0, 1)


#: Cycles from cells 0, 1, 2 and 3 end at their own label; cell 4 is ignored; the cycle from cell 5 ends at another
#: label, through red.
PAIR = Pair(
    cells([[RED, RED, GREEN], [BLUE, RED, (255, 200, 0)]]),
    cells([[0, 0, 1], [2, IGNORE, 1]]),
    cells([[RED, GREEN], [BLUE, (60, 0, 255)]]),
)
#: Labels of the pair's target; two of the four cells have one.
TRUTH = cells([[0, 2], [IGNORE, IGNORE]])
