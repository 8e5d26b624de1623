"""Feature distance (DAFormer, Hoyer et al. 2022, arXiv 2111.14887).

On source images the features of countable things stay near those that the run's starting weights give: ImageNet knows
such things, and synthetic images let a network forget them. It helps ResNets and MiT from ImageNet weights with rare
classes; it harms plain ViTs. It costs a forward pass of the frozen backbone.

Shapes: B images, C channels, h x w the grid, H x W the labels' size, T classes that are things.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from plca_dist.method.terms import Scene
from plca_dist.ops.dense import at_least_float32


def cells_of_things(labels_BHW: Tensor, things: Sequence[int], size: Sequence[int], share: float) -> Tensor:
    """(B, h, w) bool: the cells of a grid of `size` of whose pixels at least `share` are of one of the classes."""
    of_class_BTHW = torch.stack([labels_BHW == k for k in things], 1).float()
    share_BThw = F.adaptive_avg_pool2d(of_class_BTHW, (size[0], size[1]))
    return share_BThw.amax(1) >= share


def feature_distance(features_BChw: Tensor, fixed_BChw: Tensor, counted_Bhw: Tensor) -> Tensor:
    """The mean of ‖F − F_0‖₂ over the counted cells of an image, then over images; an image without any counts 0."""
    difference_BChw = at_least_float32(features_BChw) - at_least_float32(fixed_BChw)
    distance_Bhw = torch.linalg.vector_norm(difference_BChw, dim=1)
    sum_B = torch.where(counted_Bhw, distance_Bhw, 0.0).sum((1, 2))
    return (sum_B / counted_Bhw.sum((1, 2)).clamp(min=1)).mean()


class FeatureDistance:
    """The term `feature_distance`.

    Args:
        fixed_features: uint8 images -> (B, C, h, w), the features of the starting weights.
        things: train ids of the classes that count.
        share: as in `cells_of_things`.
    """

    name = "feature_distance"

    def __init__(self, fixed_features: Callable[[Tensor], Tensor], things: Sequence[int], share: float) -> None:
        self._fixed_features, self._things, self._share = fixed_features, tuple(things), share

    def __call__(self, scene: Scene) -> dict[str, Tensor]:
        features_BChw = scene.source.features
        with torch.no_grad():
            fixed_BChw = self._fixed_features(scene.source_image_B3HW)
            counted_Bhw = cells_of_things(scene.labels_BHW, self._things, features_BChw.shape[2:], self._share)
        return {self.name: feature_distance(features_BChw, fixed_BChw, counted_Bhw)}
