"""Eq. 11, 12 and 14: the full objective as one module, the terms beside it, and the paper's ablations as its settings.

Shapes: B pairs, C feature channels, K classes, h x w the network's grid, H x W the labels' size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from plca_dist.method.association import association_loss, labels_to_grid, similarity_loss
from plca_dist.method.cross_entropy import cross_entropy, upsampled_log_softmax
from plca_dist.method.lovasz import lovasz_softmax
from plca_dist.method.output import NetworkOutput
from plca_dist.method.settings import ObjectiveSettings
from plca_dist.method.smoothing import smoothing_loss
from plca_dist.method.terms import Scene, Term
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
    consistent, among those not ignored: per pair, then the mean over pairs. A pair without starts counts 0. `confident`
    is the share of the target's pixels whose pseudo-label counts, in the same way, and `labelled` that of the pixels
    which have a label of the last round. `discriminator` is its own loss, which is no part of `total`.
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
    class_mix: Tensor | None = None
    masked_consistency: Tensor | None = None
    feature_distance: Tensor | None = None
    confident: Tensor | None = None
    entropy: Tensor | None = None
    max_square: Tensor | None = None
    adversarial: Tensor | None = None
    discriminator: Tensor | None = None
    pseudo_labels: Tensor | None = None
    labelled: Tensor | None = None

    def as_dict(self) -> dict[str, Tensor]:
        """Every scalar that was computed, detached, by name; what is switched off is absent."""
        return {name: value.detach() for name, value in self._asdict().items() if value is not None}


class Objective(nn.Module):
    """Eq. 14: L = L_ce + β1 L_lov + β2 (L_feature + L_prediction) + β3 (L_lsr^source + L_lsr^target), and the terms
    beside it, each with the weight of its name.

    With `lovasz_scope="image"` every term is a mean over pairs of a value of the pair alone. So the loss of a batch is
    the mean of the losses of its parts, on any number of devices. A term with weight 0 is not computed.

    Args:
        ignore_index: the label of pixels without one.
        terms: those beside Eq. 14 that are switched on. They belong to nobody's parameters: what they hold does not
            train with the network.
    """

    def __init__(
        self,
        settings: ObjectiveSettings = ObjectiveSettings(),
        *,
        ignore_index: int = 255,
        terms: Sequence[Term] = (),
    ) -> None:
        super().__init__()
        self.settings = settings
        self.ignore_index = ignore_index
        self.terms = tuple(terms)

    def forward(
        self,
        source: NetworkOutput,
        labels_BHW: Tensor,
        target: NetworkOutput | None = None,
        scene: Scene | None = None,
    ) -> LossTerms:
        """The loss of B pairs, the k-th source with the k-th target, in at least float32 also under autocast.

        `labels` (B, H, W) int64 belong to the source; `target` may be None where the settings do not need its output,
        and `scene` where there are no terms beside Eq. 14.
        Raises ValueError for a missing target or shapes that do not fit together.
        """
        if self.settings.needs_target_output and target is None:
            raise ValueError("these settings need the target's output, got None")
        terms = self._supervision(source.logits, labels_BHW)
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
        for term in self.terms:
            if scene is None:
                raise ValueError(f"{term.name} needs the scene of the forward pass, got None")
            terms |= term(scene)
            weights[term.name] = getattr(self.settings, term.name)
        total = terms["cross_entropy"]
        for name, weight in weights.items():
            if name in terms:
                total = total + weight * terms[name]
        return LossTerms(total, **terms)

    def _supervision(self, logits_BKhw: Tensor, labels_BHW: Tensor) -> dict[str, Tensor]:
        """Eq. 11 on the logits upsampled to the labels: cross-entropy, and Lovász-softmax where it is on."""
        log_probability_BKHW = upsampled_log_softmax(logits_BKhw, labels_BHW)
        terms = {"cross_entropy": cross_entropy(log_probability_BKHW, labels_BHW, self.ignore_index)}
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
