"""The mIoU of single images, and the choice of those that show how good a segmentation is: the worst and the best."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from plca_dist.data.labels import LabelSet
from plca_dist.data.whole_images import Labelled
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.deeplab import Network
from plca_dist.training.evaluation import probabilities
from plca_dist.training.scores import confusion, score


class ImageScore(NamedTuple):
    """An image's row in its set, its id, and its mIoU in percent (None where it has no labelled pixel)."""

    row: int
    id: str
    miou: float | None


def image_scores(
    network: Network,
    samples: Iterable[Labelled],
    labels: LabelSet,
    *,
    size: tuple[int, int] | None,
    ratio: float,
    inference: InferenceSettings = InferenceSettings(),
) -> Iterator[ImageScore]:
    """The mIoU of every image by itself; settings as of `training.evaluation.probabilities`."""
    for sample in samples:
        probability_KHW = probabilities(network, sample.image, size=size, ratio=ratio, inference=inference)
        yield ImageScore(sample.row, sample.id, image_miou(probability_KHW.argmax(0).cpu(), sample.label, labels))


def image_miou(prediction_HW: Tensor, label_HW: Tensor, labels: LabelSet) -> float | None:
    """mIoU of one image in percent, over the classes in its truth or prediction; None without a labelled pixel."""
    return score(confusion(prediction_HW, label_HW, len(labels)), labels).miou


def worst_and_best(scores: Sequence[ImageScore], count: int) -> list[ImageScore]:
    """`count` images from worst to best: half of them the worst, half the best; of an odd count, one more of the worst.

    Images without a labelled pixel are left out. Where fewer than `count` images are left, all of them.
    """
    ranked = sorted((s for s in scores if s.miou is not None), key=lambda s: (s.miou, s.row))
    if len(ranked) <= count:
        return ranked
    best = count // 2
    return ranked[: count - best] + ranked[len(ranked) - best :]
