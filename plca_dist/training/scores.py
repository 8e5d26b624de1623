"""mIoU as the paper reports it, from a confusion matrix. Shapes: H x W pixels, K classes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plca_dist.data.labels import LabelSet


def confusion(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count pixels by (true class, predicted class).

    Args:
        prediction: (H, W) integer class indices below `num_classes`.
        label: (H, W) integer train ids; anything of `num_classes` or more (255) is not counted.

    Returns:
        (K, K) int64, rows the truth, columns the prediction.
    """
    valid = label < num_classes
    cells = label[valid].to(torch.int64) * num_classes + prediction[valid].to(torch.int64)
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Score:
    """IoU per class and its means, in percent.

    A class that occurs neither in the truth nor in a prediction has no IoU: it is left out of the means and named in
    `absent`. Without a labelled pixel there is nothing to score: means and accuracy are None then.
    """

    miou: float | None
    means: dict[str, float | None]
    iou: dict[str, float | None]
    absent: tuple[str, ...]
    pixel_accuracy: float | None
    confusion: list[list[int]]

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "absent": list(self.absent)}


def score(counts: Tensor, labels: LabelSet) -> Score:
    """IoU_c = TP_c / (TP_c + FP_c + FN_c) from a (K, K) confusion matrix, with the label set's means (16, 13).

    A group's IoU takes its classes as one: pixels that are confused within it are right.
    """
    counts = counts.cpu()
    hit = counts.diag().double()
    union = counts.sum(0).double() + counts.sum(1).double() - hit
    iou = {name: 100 * float(hit[k] / union[k]) if union[k] > 0 else None for k, name in enumerate(labels.classes)}

    labelled = int(counts.sum())

    def mean(indices: range | tuple[int, ...]) -> float | None:
        present = [v for k in indices if (v := iou[labels.classes[k]]) is not None]
        return sum(present) / len(present) if present else None

    def as_one(indices: tuple[int, ...]) -> float | None:
        within = list(indices)
        both = float(counts[within][:, within].sum())
        either = float(counts[within].sum() + counts[:, within].sum()) - both
        return 100 * both / either if either > 0 else None

    means = {name: mean(indices) for name, indices in labels.means.items()}
    return Score(
        miou=mean(range(len(labels))),
        means=means | {name: as_one(indices) for name, indices in labels.groups.items()},
        iou=iou,
        absent=tuple(name for name, value in iou.items() if value is None),
        pixel_accuracy=100 * float(hit.sum() / labelled) if labelled else None,
        confusion=counts.tolist(),
    )
