"""The cycles that a network finds in one pair of images, on which the losses are built, and how good they are.

Shapes: C channels or classes, h x w a grid of the network, Ns source positions, Nt target positions, H x W pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from plca_dist.data.labels import IGNORE
from plca_dist.data.whole_images import Pair
from plca_dist.errors import UserError, nearest
from plca_dist.method.association import cycles, labels_to_grid
from plca_dist.method.settings import AssociationSettings, InferenceSettings
from plca_dist.models.deeplab import Network
from plca_dist.ops.dense import at_least_float32
from plca_dist.training.evaluation import output

#: Level -> its similarity (Eq. 1, Eq. 9).
LEVELS = {"feature": "cosine", "prediction": "kl"}


@dataclass(frozen=True)
class Maps:
    """The maps of one level: features or class probabilities (1, C, h, w) of both images, and the source's labels.

    `labels`: (1, h, w) train ids on the source's grid, 255 ignored.  `similarity`: the one that the level uses.
    """

    source: Tensor
    target: Tensor
    labels: Tensor
    similarity: str

    @property
    def source_grid(self) -> tuple[int, int]:
        return self.source.shape[2], self.source.shape[3]

    @property
    def target_grid(self) -> tuple[int, int]:
        return self.target.shape[2], self.target.shape[3]


@torch.no_grad()
def maps(network: Network, pair: Pair, *, size: tuple[int, int] | None, level: str) -> Maps:
    """What the network makes of the pair, each image resized to `size` (None: as it is).

    Raises UserError where `level` is neither "feature" nor "prediction".
    """
    if level not in LEVELS:
        raise UserError(f"level {level!r} is unknown; known: {', '.join(LEVELS)}.{nearest(level, LEVELS)}")
    outputs = [output(network, image, size) for image in (pair.source_image, pair.target_image)]
    source, target = (o.features if level == "feature" else at_least_float32(o.logits).softmax(1) for o in outputs)
    labels = labels_to_grid(pair.source_label[None], (source.shape[2], source.shape[3])).to(source.device)
    return Maps(source, target, labels, LEVELS[level])


@dataclass(frozen=True)
class Associations:
    """The cycles of one pair, one for each start, on the CPU. Starts are in row-major order of the source's grid.

    `label` (Ns,) train ids, 255 ignored.  `target` (Ns,): j*.  `back` (Ns,): i*.  `consistent` (Ns,) bool: Î.
    """

    label: Tensor
    target: Tensor
    back: Tensor
    consistent: Tensor
    source_grid: tuple[int, int]
    target_grid: tuple[int, int]

    @property
    def through(self) -> Tensor:
        """The number of consistent cycles through each target position, (Nt,)."""
        return self.target[self.consistent].bincount(minlength=self.target_grid[0] * self.target_grid[1])

    @property
    def consistent_share(self) -> float:
        """The share of the labelled starts whose cycle is consistent."""
        return float(self.consistent.sum() / (self.label != IGNORE).sum().clamp(min=1))

    @property
    def covered_share(self) -> float:
        """The share of the target's positions that a consistent cycle goes through."""
        return float((self.through > 0).double().mean())

    def correct_share(self, target_label_HW: Tensor) -> float | None:
        """The share of consistent cycles whose target position has the label of the start.

        Cycles whose target position has no label do not count. None where no other cycle is left.
        """
        truth = labels_to_grid(target_label_HW[None], self.target_grid).flatten()[self.target[self.consistent]]
        known = truth != IGNORE
        correct = truth[known] == self.label[self.consistent][known]
        return float(correct.double().mean()) if known.any() else None


@torch.no_grad()
def associations(of: Maps, *, aggregation: float, inference: InferenceSettings = InferenceSettings()) -> Associations:
    """The cycles of the maps at ratio λ = `aggregation`."""
    settings = AssociationSettings(
        of.similarity, aggregation, inference.kl_aggregation_contrast, IGNORE, inference.pairwise
    )
    found = cycles(of.source, of.target, of.labels, settings)
    return Associations(
        of.labels.flatten().cpu(),
        found.target_index[0].cpu(),
        found.source_index[0].cpu(),
        found.consistent[0].cpu(),
        of.source_grid,
        of.target_grid,
    )
