"""Terms that are a loss of the target's logits alone, upsampled to the image.

Shapes: B pairs, K classes, h x w the grid, H x W the image's size.
"""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from plca_dist.method.terms import Scene
from plca_dist.ops.dense import at_least_float32


def upsampled(logits_BKhw: Tensor, image_B3HW: Tensor) -> Tensor:
    """(B, K, H, W) logits, in at least float32: bilinear, as the cross-entropy's."""
    size = list(image_B3HW.shape[2:])
    return F.interpolate(at_least_float32(logits_BKhw), size=size, mode="bilinear", align_corners=False)


def target_logits(scene: Scene) -> Tensor:
    """The target's logits upsampled to its image, once for all terms. Raises ValueError where there is no target."""
    target, image = scene.target, scene.target_image_B3HW
    if target is None or image is None:
        raise ValueError("this term needs the target's image and output, got None")
    return scene.once("target_logits", lambda: upsampled(target.logits, image))


class OnTarget:
    """The term `name`: `loss` of the target's upsampled logits (B, K, H, W)."""

    def __init__(self, name: str, loss: Callable[[Tensor], Tensor]) -> None:
        self.name, self._loss = name, loss

    def __call__(self, scene: Scene) -> Mapping[str, Tensor]:
        return {self.name: self._loss(target_logits(scene))}
