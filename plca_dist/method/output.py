"""A network's output for a batch, which the method works on.

Shapes: B images, C feature channels, K classes, h x w the network's grid.
"""

from typing import NamedTuple

from torch import Tensor


class NetworkOutput(NamedTuple):
    """Features (B, C, h, w) and logits (B, K, h, w), neither upsampled."""

    features: Tensor
    logits: Tensor
