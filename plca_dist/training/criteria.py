"""Criteria that a search can go by where the target has no labels, measured on whole unlabelled target images.

Each criterion is a value of one image (or one pair of images), and the result is its mean over images. Sums add up over
disjoint parts of a data set, so no rank needs padding and the number of ranks does not matter. A criterion that is good
on one data set may mislead on another: compare it with mIoU where there are labels.

Shapes: C feature channels, K classes, h x w the network's grid, N positions of it, H x W the label's size.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from plca_dist.data.labels import IGNORE
from plca_dist.data.whole_images import Pair
from plca_dist.errors import UserError
from plca_dist.method.association import cycles, labels_to_grid
from plca_dist.method.settings import AssociationSettings
from plca_dist.models.deeplab import Network
from plca_dist.ops.settings import Pairwise
from plca_dist.training import metrics
from plca_dist.training.evaluation import output

#: In the order of `Criteria.sums`.
KEYS = (metrics.DENSITY, metrics.ENTROPY, metrics.CYCLES_FEATURE, metrics.CYCLES_PREDICTION)
#: τ of the soft neighbourhood density, as published.
TEMPERATURE = 0.05
#: Positions of an image that the density looks at, at most: it takes all pairs of them.
POSITIONS = 1024


def neighbourhood_density(probability_Khw: Tensor) -> Tensor:
    """Soft neighbourhood density of one image, (), in nats: 0 to log(N − 1), larger is better.

    Saito et al., "Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood Density",
    ICCV 2021, Eq. 1-3: H = −1/N Σ_i Σ_{j≠i} P_ij log P_ij with P_i· = softmax_{j≠i}(<f_i, f_j>/τ), f the L2-normalized
    class probabilities. Where the network tells classes apart, a position has many near neighbours and no others, and
    the entropy is high.

    Two things differ from the paper. There the neighbours of a position are those of all images pooled; here they are
    those of its own image, and the mean is over images, so that the value does not depend on how images are shared
    out over ranks. And a grid of more than `POSITIONS` is thinned out evenly to at most that many. An image of one
    position has no neighbours and counts 0.
    """
    probability_NK = _thinned(probability_Khw).flatten(1).T
    if len(probability_NK) < 2:
        return probability_NK.new_zeros(())
    unit_NK = F.normalize(probability_NK, dim=1)
    similarity_NN = (unit_NK @ unit_NK.T).fill_diagonal_(-math.inf)
    return torch.special.entr((similarity_NN / TEMPERATURE).softmax(1)).sum(1).mean()


def entropy(probability_Khw: Tensor) -> Tensor:
    """Mean over positions of −Σ_k p_k log p_k / log K, (): 0 (certain) to 1 (even), smaller is better."""
    return torch.special.entr(probability_Khw).sum(0).mean() / math.log(len(probability_Khw))


def _thinned(grid_Chw: Tensor) -> Tensor:
    """Rows and columns evenly spread over the grid, the shape of the grid kept, `POSITIONS` crossings at most."""
    height, width = grid_Chw.shape[1:]
    if height * width <= POSITIONS:
        return grid_Chw
    rows = min(max(int(height * math.sqrt(POSITIONS / (height * width))), 1), POSITIONS)
    columns = min(width, POSITIONS // rows)
    return grid_Chw[:, _spread(height, rows)][:, :, _spread(width, columns)]


def _spread(length: int, count: int) -> list[int]:
    """The middles of `count` equal stretches of `range(length)`."""
    return [(2 * k + 1) * length // (2 * count) for k in range(count)]


@dataclass
class Criteria:
    """Sums of the criteria over images, (4,) float64 on the CPU in the order of `KEYS`, and how many images."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(len(KEYS), dtype=torch.float64))
    images: int = 0

    def __add__(self, other: "Criteria") -> "Criteria":
        """The criteria of disjoint parts of a data set add up to those of the whole."""
        return Criteria(self.sums + other.sums, self.images + other.images)

    def over_ranks(self, device: torch.device) -> "Criteria":
        """The sum over all ranks, on every rank. A collective call."""
        flat = torch.cat([self.sums, torch.tensor([self.images], dtype=torch.float64)]).to(device)
        dist.all_reduce(flat)
        *sums, images = flat.tolist()
        return Criteria(torch.tensor(sums, dtype=torch.float64), int(images))

    def result(self) -> dict[str, float]:
        """Means over images, by the keys of records. Raises UserError where there was no image."""
        if not self.images:
            raise UserError(
                "evaluation.unlabelled: every pair of images it asks for holds a damaged row; "
                "write those shards again with --overwrite, or set it to 0."
            )
        return dict(zip(KEYS, (self.sums / self.images).tolist(), strict=True))


@torch.no_grad()
def measure(
    network: Network,
    pairs: Iterable[Pair],
    *,
    size: tuple[int, int] | None,
    pairwise: Pairwise = Pairwise(),
) -> Criteria:
    """Measure all criteria on the pairs: density and entropy on the target, cycles from the source and back.

    All are measured without aggregation. With the λ that each network was trained with, the shares of trials that
    differ in λ could not be compared: aggregation alone lowers them.

    Args:
        size: the images are resized to it, as for mIoU; None: as they are.
        pairwise: as the network was trained with.
    """
    found = Criteria()
    for pair in pairs:
        source = output(network, pair.source_image, size)
        target = output(network, pair.target_image, size)
        source_1Khw, target_1Khw = (of.logits.float().softmax(1) for of in (source, target))
        labels_1hw = labels_to_grid(pair.source_label[None], (source_1Khw.shape[2], source_1Khw.shape[3]))
        labels_1hw = labels_1hw.to(source_1Khw.device)
        levels = {"cosine": (source.features, target.features), "kl": (source_1Khw, target_1Khw)}
        starts = (labels_1hw != IGNORE).sum().clamp(min=1)
        shares = []
        for similarity, (of_source, of_target) in levels.items():
            settings = AssociationSettings(similarity, aggregation=0.0, ignore_index=IGNORE, pairwise=pairwise)
            shares.append(cycles(of_source, of_target, labels_1hw, settings).consistent.sum() / starts)
        values = torch.stack([neighbourhood_density(target_1Khw[0]), entropy(target_1Khw[0]), *shares])
        found.sums += values.double().cpu()
        found.images += 1
    return found
