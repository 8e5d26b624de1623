"""Class-mix under an averaged teacher (DACS, Tranheden et al. 2021, arXiv 2007.08702).

In each pair half of the source image's classes are pasted onto the target image, pixels and labels; the rest of the
target image has the teacher's labels. The network learns the mixed image. It helps where source and target look alike
enough for a teacher to be right about most pixels: labels of the source anchor the names of the classes. It costs a
forward pass of the teacher, and one more forward and backward pass of the network.

Shapes: B pairs, K classes, H x W the target images' size, H' x W' the source images'.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from plca_dist.method.strong_augmentation import DRAWS
from plca_dist.method.teacher import Labelling, PseudoLabels
from plca_dist.method.terms import Scene
from plca_dist.method.weighted_cross_entropy import weighted_cross_entropy

#: Name -> what the terms of the teacher share in a scene.
PSEUDO_LABELS = "pseudo_labels"


class Mixed(NamedTuple):
    """Images (B, 3, H, W), int64 labels (B, H, W) and weights (B, H, W)."""

    image_B3HW: Tensor
    labels_BHW: Tensor
    weight_BHW: Tensor


def chosen_classes(labels_BHW: Tensor, draws_BK: Tensor) -> Tensor:
    """(B, K) bool: ⌈n/2⌉ of the n classes that are present in each image, those with the least draws.

    Labels that are no class, as the 255 of ignored pixels, are never chosen. An image without any has none chosen.
    """
    batch, classes = draws_BK.shape
    present_BL = torch.zeros(batch, max(classes, 256), dtype=torch.bool, device=labels_BHW.device)
    present_BK = present_BL.scatter_(1, labels_BHW.flatten(1), True)[:, :classes]
    rank_BK = torch.where(present_BK, draws_BK, 2.0).argsort(dim=1, stable=True).argsort(1)
    return present_BK & (rank_BK < (present_BK.sum(1, keepdim=True) + 1) // 2)


def mixed(
    source_B3HW: Tensor,
    labels_BHW: Tensor,
    target_B3HW: Tensor,
    pseudo: PseudoLabels,
    draws_BK: Tensor,
    ignore_index: int = 255,
) -> Mixed:
    """The chosen classes of the k-th source on the k-th target; pasted pixels have weight 1.

    Images of two sizes are laid on each other at the upper left corner, and what of the source lies outside of the
    target counts for nothing: both are random crops.
    """
    right, bottom = (target_B3HW.shape[d] - source_B3HW.shape[d] for d in (3, 2))
    if right or bottom:
        source_B3HW = F.pad(source_B3HW, (0, right, 0, bottom))
        labels_BHW = F.pad(labels_BHW, (0, right, 0, bottom), value=ignore_index)
    chosen_BK = chosen_classes(labels_BHW, draws_BK)
    chosen_BL = F.pad(chosen_BK, (0, max(256 - chosen_BK.shape[1], 0)))
    pasted_BHW = chosen_BL.gather(1, labels_BHW.flatten(1)).view_as(labels_BHW)
    return Mixed(
        torch.where(pasted_BHW[:, None], source_B3HW, target_B3HW),
        torch.where(pasted_BHW, labels_BHW, pseudo.labels_BHW),
        torch.where(pasted_BHW, 1.0, pseudo.weight_BHW),
    )


class ClassMix:
    """The term `class_mix`.

    Args:
        labelling: pseudo-labels of target images.
        augmented: (images, draws) -> images to learn (`strongly_augmented`).
    """

    name = "class_mix"

    def __init__(self, labelling: Labelling, augmented: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._labelling, self._augmented = labelling, augmented

    def __call__(self, scene: Scene) -> dict[str, Tensor]:
        target = scene.target_image_B3HW
        assert target is not None, "class-mix is a term on target images"
        with torch.no_grad():
            pseudo = scene.once(PSEUDO_LABELS, lambda: self._labelling(target))
            draws_BK = scene.draw(self.name, scene.source.logits.shape[1])
            mix = mixed(scene.source_image_B3HW, scene.labels_BHW, target, pseudo, draws_BK)
            image_B3HW = self._augmented(mix.image_B3HW, scene.draw(f"{self.name} colours", DRAWS))
        logits_BKhw = scene.network(image_B3HW).logits
        loss = weighted_cross_entropy(logits_BKhw, mix.labels_BHW, mix.weight_BHW)
        return {self.name: loss, "confident": pseudo.confident}
