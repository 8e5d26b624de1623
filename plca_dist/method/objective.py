"""Eq. 11, 12 and 14: the full objective as one module, and the paper's ablations as its settings.

Shapes: B pairs, C feature channels, K classes, h x w the network's grid, H x W the labels' size.
"""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from plca_dist.method.association import association_loss, labels_to_grid, similarity_loss
from plca_dist.method.lovasz import lovasz_softmax
from plca_dist.method.output import NetworkOutput
from plca_dist.method.settings import ObjectiveSettings
from plca_dist.method.smoothing import smoothing_loss
from plca_dist.ops.dense import at_least_float32

#: Rows of the paper's Table 1 as `ObjectiveSettings`; the first five are cumulative, the rest are variants of plca.
ABLATION: dict[str, dict[str, Any]] = {
    "source_only": {"lovasz": 0.0, "association": 0.0, "smoothing": 0.0},
    "lovasz": {"association": 0.0, "smoothing": 0.0},
    "feature": {"prediction_level": False, "smoothing": 0.0},
    "prediction": {"smoothing": 0.0},
    "plca": {},
    "sim_plca": {"contrast": False},
    "no_aggregation": {"aggregation": 0.0},
}


class LossTerms(NamedTuple):
    """Scalars. `total` is the weighted sum; the others are unweighted, and None where their term is switched off.

    `consistent_feature` and `consistent_prediction` carry no gradient. They are the share of the starts whose cycle is
    consistent, among those not ignored: per pair, then the mean over pairs. A pair without starts counts 0.
    """

    total: Tensor
    cross_entropy: Tensor
    lovasz: Tensor | None = None
    feature: Tensor | None = None
    prediction: Tensor | None = None
    smoothing_source: Tensor | None = None
    smoothing_target: Tensor | None = None
    consistent_feature: Tensor | None = None
    consistent_prediction: Tensor | None = None

    def as_dict(self) -> dict[str, Tensor]:
        """Every scalar that was computed, detached, by name; what is switched off is absent."""
        return {name: value.detach() for name, value in self._asdict().items() if value is not None}


class Objective(nn.Module):
    """Eq. 14: L = L_ce + β1 L_lov + β2 (L_feature + L_prediction) + β3 (L_lsr^source + L_lsr^target).

    With `lovasz_scope="image"` every term is a mean over pairs of a value of the pair alone. So the loss of a batch is
    the mean of the losses of its parts, on any number of devices. A term with weight 0 is not computed.

    `ignore_index` is the label of pixels without one.
    """

    def __init__(self, settings: ObjectiveSettings = ObjectiveSettings(), *, ignore_index: int = 255) -> None:
        super().__init__()
        self.settings = settings
        self.ignore_index = ignore_index

    @property
    def needs_target(self) -> bool:
        """Whether any term that is switched on looks at the target."""
        settings = self.settings
        levels = settings.feature_level or settings.prediction_level
        return settings.smoothing > 0 or (settings.association > 0 and levels)

    def forward(self, source: NetworkOutput, labels_BHW: Tensor, target: NetworkOutput | None = None) -> LossTerms:
        """The loss of B pairs, the k-th source with the k-th target, in at least float32 also under autocast.

        `labels` (B, H, W) int64 belong to the source; `target` may be None where `needs_target` is False.
        Raises ValueError for a missing target or shapes that do not fit together.
        """
        if self.needs_target and target is None:
            raise ValueError("these settings need the target's output, got None")
        terms = self._supervision(at_least_float32(source.logits), labels_BHW)
        if target is not None and self.settings.association:
            terms |= self._association(source, target, labels_BHW)
        if target is not None and self.settings.smoothing:
            terms["smoothing_source"] = smoothing_loss(source.logits, self.settings.smoothness)
            terms["smoothing_target"] = smoothing_loss(target.logits, self.settings.smoothness)
        weights = {
            "lovasz": self.settings.lovasz,
            "feature": self.settings.association,
            "prediction": self.settings.association,
            "smoothing_source": self.settings.smoothing,
            "smoothing_target": self.settings.smoothing,
        }
        total = terms["cross_entropy"]
        for name, weight in weights.items():
            if name in terms:
                total = total + weight * terms[name]
        return LossTerms(total, **terms)

    def _supervision(self, logits_BKhw: Tensor, labels_BHW: Tensor) -> dict[str, Tensor]:
        """Eq. 11 on the logits upsampled to the labels: cross-entropy, and Lovász-softmax where it is on.

        The cross-entropy is the mean over the labelled pixels of an image, then over images. An image without labelled
        pixels counts as a zero that keeps the graph. The authors average over all labelled pixels of a device's batch.
        That is the same for one pair, but depends on how a batch is split over devices.
        """
        if labels_BHW.ndim != 3 or labels_BHW.shape[0] != logits_BKhw.shape[0]:
            raise ValueError(
                f"expected labels (B, H, W) for logits {tuple(logits_BKhw.shape)}, got {tuple(labels_BHW.shape)}"
            )
        size = list(labels_BHW.shape[1:])
        logits_BKHW = F.interpolate(logits_BKhw, size=size, mode="bilinear", align_corners=False)
        log_probability_BKHW = logits_BKHW.log_softmax(1)
        loss_BHW = F.nll_loss(log_probability_BKHW, labels_BHW, ignore_index=self.ignore_index, reduction="none")
        labelled_B = (labels_BHW != self.ignore_index).sum((1, 2))
        terms = {"cross_entropy": (loss_BHW.sum((1, 2)) / labelled_B.clamp(min=1)).mean()}
        if self.settings.lovasz:
            terms["lovasz"] = lovasz_softmax(
                log_probability_BKHW.exp(), labels_BHW, ignore_index=self.ignore_index, scope=self.settings.lovasz_scope
            )
        return terms

    def _association(self, source: NetworkOutput, target: NetworkOutput, labels_BHW: Tensor) -> dict[str, Tensor]:
        """Eq. 12, level by level, and the share of consistent cycles of each."""
        levels: dict[str, tuple[str, Tensor, Tensor]] = {}
        if self.settings.feature_level:
            levels["feature"] = ("cosine", source.features, target.features)
        if self.settings.prediction_level:
            source_probabilities_BKhw = at_least_float32(source.logits).softmax(1)
            target_probabilities_BKhw = at_least_float32(target.logits).softmax(1)
            levels["prediction"] = ("kl", source_probabilities_BKhw, target_probabilities_BKhw)
        terms = {}
        for name, (similarity, of_source, of_target) in levels.items():
            grid_labels_Bhw = labels_to_grid(labels_BHW, (of_source.shape[2], of_source.shape[3]))
            loss = association_loss if self.settings.contrast else similarity_loss
            level = loss(of_source, of_target, grid_labels_Bhw, self.settings.level(similarity, self.ignore_index))
            terms[name] = level.loss
            terms[f"consistent_{name}"] = _share(level.consistent, grid_labels_Bhw != self.ignore_index)
        return terms


def _share(consistent_BN: Tensor, valid_BHW: Tensor) -> Tensor:
    """Share of the valid starts that are consistent: per pair, then the mean over pairs."""
    return (consistent_BN.sum(1) / valid_BHW.sum((1, 2)).clamp(min=1)).mean()
