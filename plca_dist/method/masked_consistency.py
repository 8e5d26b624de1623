"""Masked image consistency (MIC, Hoyer et al. 2023, arXiv 2212.01322).

The network sees the target image with most of its patches hidden and learns the labels that the teacher gives the whole
image: it has to infer classes from their surroundings. It helps where classes look alike locally, and later in a run
more than early. It costs a forward pass of the teacher, which class-mix shares, and one more forward and backward pass.

Shapes: B images, H x W pixels, G x G' patches.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from plca_dist.method.class_mix import PSEUDO_LABELS
from plca_dist.method.strong_augmentation import DRAWS
from plca_dist.method.teacher import Labelling
from plca_dist.method.terms import Scene
from plca_dist.method.weighted_cross_entropy import weighted_cross_entropy


def patches(size: Sequence[int], block: int) -> tuple[int, int]:
    """How many patches of `block` x `block` pixels cover an image of `size`; the last may be cut off."""
    return -(-size[0] // block), -(-size[1] // block)


def masked(image_B3HW: Tensor, draws_BG: Tensor, *, block: int, ratio: float, colour: Sequence[float]) -> Tensor:
    """The images with the patches hidden whose draw is below `ratio`.

    Args:
        draws_BG: uniform in [0, 1), one for each of the `patches`, row by row.
        colour: RGB in 0-255 of what is hidden: the one that the network's normalization makes 0.
    """
    height, width = image_B3HW.shape[2:]
    kept_BGG = (draws_BG >= ratio).view(-1, *patches((height, width), block))
    rows, columns = (torch.arange(side, device=image_B3HW.device) // block for side in (height, width))
    kept_BHW = kept_BGG[:, rows][:, :, columns]
    # Plain numbers: a tensor made of them here would have the host wait for a GPU.
    return torch.stack([torch.where(kept_BHW, image_B3HW[:, c], colour[c]) for c in range(3)], 1)


class MaskedConsistency:
    """The term `masked_consistency`.

    Args:
        labelling, augmented: as in `ClassMix`; the image is augmented and then masked.
        block, ratio, colour: as in `masked`.
        keep_statistics: of batch norm, which masked images would move away from those of whole ones: the teacher and
            every evaluation normalize by them. False where the network sees no other images of the target.
    """

    name = "masked_consistency"

    def __init__(
        self,
        labelling: Labelling,
        augmented: Callable[[Tensor, Tensor], Tensor],
        *,
        block: int,
        ratio: float,
        colour: Sequence[float],
        keep_statistics: bool = True,
    ) -> None:
        self._keep_statistics = keep_statistics
        self._labelling, self._augmented = labelling, augmented
        self._block, self._ratio, self._colour = block, ratio, colour

    def __call__(self, scene: Scene) -> dict[str, Tensor]:
        target = scene.target_image_B3HW
        assert target is not None, "masked consistency is a term on target images"
        with torch.no_grad():
            pseudo = scene.once(PSEUDO_LABELS, lambda: self._labelling(target))
            down, across = patches(target.shape[2:], self._block)
            image_B3HW = masked(
                self._augmented(target, scene.draw(f"{self.name} colours", DRAWS)).float(),
                scene.draw(self.name, down * across),
                block=self._block,
                ratio=self._ratio,
                colour=self._colour,
            )
        logits_BKhw = scene.network(image_B3HW, keep_statistics=self._keep_statistics).logits
        loss = weighted_cross_entropy(logits_BKhw, pseudo.labels_BHW, pseudo.weight_BHW)
        return {self.name: loss, "confident": pseudo.confident}
