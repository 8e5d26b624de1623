"""Names of what is measured, with units, and mIoU as the paper reports it."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from plca_dist.data.labels import LabelSet

STEP = "step"
TOTAL_LOSS = "loss/total"
LOSS_PREFIX = "loss/"
CONSISTENT_PREFIX = "consistent/"  # share of labelled source positions whose cycle is consistent, 0-1
LEARNING_RATE = "learning_rate"
PAIRS_PER_SECOND = "pairs_per_second"
DATA_WAIT = "data_wait"  # share of the time spent waiting for data, 0-1
DATA_SKIPPED = "data/skipped"  # damaged samples since the last record that a sound one stood for; absent where none
GPU_MEMORY = "gpu_memory_gb"  # peak since the last record
ELAPSED = "elapsed_s"  # since this launch began training
MIOU = "miou"  # percent, without aggregation
MIOU_AGGREGATED = "miou_aggregated"  # percent
CRITERIA_PREFIX = "criteria/"
DENSITY = "criteria/neighbourhood_density"  # nats; soft neighbourhood density of target images
ENTROPY = "criteria/entropy"  # of predictions on target images, as a share of its largest value, 0-1
CYCLES_FEATURE = "criteria/consistent_feature"  # share of labelled source positions of whole images, 0-1
CYCLES_PREDICTION = "criteria/consistent_prediction"  # the same at the prediction level
CHECKPOINT = "checkpoint_s"  # with the message that a checkpoint is committed: seconds since its save began


class Criterion(NamedTuple):
    """What a search can go by: the record's key, and which end of it is good."""

    key: str
    mode: Literal["max", "min"]
    needs_labels: bool = False


#: By the names that space files use. All but the first are measured on unlabelled target images.
CRITERIA = {
    "target_miou": Criterion(MIOU, "max", needs_labels=True),
    "neighbourhood_density": Criterion(DENSITY, "max"),
    "entropy": Criterion(ENTROPY, "min"),
    "consistent_feature": Criterion(CYCLES_FEATURE, "max"),
    "consistent_prediction": Criterion(CYCLES_PREDICTION, "max"),
}


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
    `absent`, rather than turning them into NaN.
    """

    miou: float
    means: dict[str, float]
    iou: dict[str, float | None]
    absent: tuple[str, ...]
    pixel_accuracy: float
    confusion: list[list[int]]

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "absent": list(self.absent)}


def score(counts: Tensor, labels: LabelSet) -> Score:
    """IoU_c = TP_c / (TP_c + FP_c + FN_c) from a (K, K) confusion matrix, with the label set's means (16, 13)."""
    counts = counts.cpu()
    hit = counts.diag().double()
    union = counts.sum(0).double() + counts.sum(1).double() - hit
    iou = {name: 100 * float(hit[k] / union[k]) if union[k] > 0 else None for k, name in enumerate(labels.classes)}

    def mean(indices: range | tuple[int, ...]) -> float:
        present = [v for k in indices if (v := iou[labels.classes[k]]) is not None]
        return sum(present) / len(present) if present else float("nan")

    return Score(
        miou=mean(range(len(labels))),
        means={name: mean(indices) for name, indices in labels.means.items()},
        iou=iou,
        absent=tuple(name for name, value in iou.items() if value is None),
        pixel_accuracy=100 * float(hit.sum() / counts.sum().clamp(min=1)),
        confusion=counts.tolist(),
    )
