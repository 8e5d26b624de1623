"""From images and a network to a confusion matrix: every image once, without and with aggregation.

Shapes: B images (always 1: stored images differ in size), K classes, H x W the label's size, h x w the grid.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from plca_dist.data.augment import resize_for_test
from plca_dist.data.labels import LabelSet
from plca_dist.method.aggregation import aggregated_prediction
from plca_dist.method.output import NetworkOutput
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.deeplab import Network
from plca_dist.training.scores import confusion, score

#: Why there is no score.
UNLABELLED = "these labels have no labelled pixel"


@torch.no_grad()
def probabilities(
    network: Network,
    image_3HW: Tensor,
    *,
    size: tuple[int, int] | None,
    ratio: float,
    inference: InferenceSettings = InferenceSettings(),
) -> Tensor:
    """Class probabilities of one image, at the image's own resolution.

    The paper's inference: features aggregated -> classifier -> softmax -> probabilities aggregated. Probabilities, not
    logits, are upsampled bilinearly. The input is resized to `size` first (None: as it is).

    Args:
        image_3HW: uint8 RGB.
        ratio: aggregation ratio λ in [0, 1); 0 is the plain network.
        inference: as the network was trained with.

    Returns:
        (K, H, W) float32.
    """
    features_1Chw = output(network, image_3HW, size).features
    return _probabilities(network, features_1Chw, image_3HW.shape[-2:], ratio, inference)


def output(network: Network, image_3HW: Tensor, size: tuple[int, int] | None) -> NetworkOutput:
    """Features and logits of one uint8 image, resized to `size`; B = 1. Puts the network into evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    resized = image_3HW if size is None else resize_for_test(image_3HW, size)
    return network(resized[None].to(device))


def _probabilities(
    network: Network, features_1Chw: Tensor, size: Sequence[int], ratio: float, inference: InferenceSettings
) -> Tensor:
    """(K, *size) class probabilities from the features."""
    grid_1Khw = aggregated_prediction(features_1Chw, network.classify, ratio, inference)
    return F.interpolate(grid_1Khw, size=size, mode="bilinear", align_corners=False)[0]


@dataclass
class Counts:
    """Confusion matrices (K, K) int64 on the CPU by aggregation ratio, and how many images they count."""

    matrices: dict[float, Tensor]
    images: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Counts of disjoint parts of a data set add up to those of the whole, so no rank needs padding."""
        return Counts({r: m + other.matrices[r] for r, m in self.matrices.items()}, self.images + other.images)

    def over_ranks(self, device: torch.device) -> "Counts":
        """The sum over all ranks, on every rank. A collective call."""
        flat = torch.cat([*(m.flatten() for m in self.matrices.values()), torch.tensor([self.images])]).to(device)
        dist.all_reduce(flat)
        *cells, images = flat.cpu().split([*(m.numel() for m in self.matrices.values()), 1])
        return Counts({r: c.view_as(m) for (r, m), c in zip(self.matrices.items(), cells, strict=True)}, int(images))

    def result(self, labels: LabelSet) -> dict[str, Any]:
        """What an evaluation leaves: the scores of every ratio, as plain data for JSON.

        Without a labelled pixel the scores are None, and "note" says so.
        """
        pixels = sum(int(m.sum()) for m in self.matrices.values())
        return {
            **({} if pixels else {"note": UNLABELLED}),
            "labels": labels.name,
            "images": self.images,
            "scores": [{"aggregation": r, **score(m, labels).as_dict()} for r, m in self.matrices.items()],
        }


def evaluate(
    network: Network,
    samples: Iterable[tuple[Tensor, Tensor]],
    *,
    num_classes: int,
    size: tuple[int, int] | None,
    ratios: Sequence[float],
    inference: InferenceSettings = InferenceSettings(),
) -> Counts:
    """Score the network on (image (3, H, W) uint8, label (H, W) uint8) samples, once for every aggregation ratio.

    The network runs once an image; see `probabilities` for the settings.
    """
    [counts] = evaluate_each([network], samples, num_classes=num_classes, size=size, ratios=ratios, inference=inference)
    return counts


@torch.no_grad()
def evaluate_each(
    networks: Sequence[Network],
    samples: Iterable[tuple[Tensor, Tensor]],
    *,
    num_classes: int,
    size: tuple[int, int] | None,
    ratios: Sequence[float],
    inference: InferenceSettings = InferenceSettings(),
) -> list[Counts]:
    """`evaluate` of each network, in their order; every sample is read once for all of them."""
    device = next(networks[0].parameters()).device
    empty = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    counts = [Counts({ratio: empty.clone() for ratio in ratios}) for _ in networks]
    for image_3HW, label_HW in samples:
        label_HW = label_HW.to(device)
        for network, found in zip(networks, counts, strict=True):
            features_1Chw = output(network, image_3HW, size).features
            for ratio, matrix in found.matrices.items():
                probability_KHW = _probabilities(network, features_1Chw, image_3HW.shape[-2:], ratio, inference)
                matrix += confusion(probability_KHW.argmax(0), label_HW, num_classes)
            found.images += 1
    return [Counts({ratio: matrix.cpu() for ratio, matrix in c.matrices.items()}, c.images) for c in counts]


def ratios(*aggregation: float) -> tuple[float, ...]:
    """The ratios to report when these are asked for: several as they are, a single one beside 0 (no aggregation)."""
    return aggregation if len(aggregation) > 1 or not any(aggregation) else (0.0, *aggregation)
