"""Eq. 11, 12 and 14: the full objective as one module, and the paper's ablations as its settings.

Shapes: B pairs, C feature channels, K classes, h x w the network's grid, H x W the labels' size.
"""

import math
from typing import Any, NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from plca_dist.errors import UserError
from plca_dist.method.aggregation import check_ratio
from plca_dist.method.association import association_loss, labels_to_grid, similarity_loss
from plca_dist.method.lovasz import check_scope, lovasz_softmax
from plca_dist.method.smoothing import check_smoothness, smoothing_loss
from plca_dist.ops import at_least_float32, check_backend

#: Rows of the paper's Table 1 as settings of `Objective`; the first five are cumulative, the rest are variants of plca.
ABLATION: dict[str, dict[str, Any]] = {
    "source_only": {"lovasz": 0.0, "association": 0.0, "smoothing": 0.0},
    "lovasz": {"association": 0.0, "smoothing": 0.0},
    "feature": {"prediction_level": False, "smoothing": 0.0},
    "prediction": {"smoothing": 0.0},
    "plca": {},
    "sim_plca": {"contrast": False},
    "no_aggregation": {"aggregation": 0.0},
}


class Output(Protocol):
    """What a network gives for a batch: features (B, C, h, w) and logits (B, K, h, w)."""

    @property
    def features(self) -> Tensor: ...

    @property
    def logits(self) -> Tensor: ...


class LossTerms(NamedTuple):
    """Scalars. `total` is the weighted sum; the others are unweighted, and None where their term is switched off.

    `consistent_feature` and `consistent_prediction` carry no gradient: of the starts that are not ignored, the share
    whose cycle is consistent, per pair, then the mean over pairs (a pair with no start counts 0).
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

    Every term is a mean over pairs of a value of the pair alone (with `lovasz_scope="image"`), so the loss of a batch
    is the mean of the losses of its parts, on any number of devices. A weight of 0 switches its term off: not computed.

    lovasz                   β1, weight of Lovász-softmax on the source
    association              β2, weight of both levels of association (Eq. 12)
    smoothing                β3, weight of adaptive label smoothing on source and target (Eq. 13)
    feature_level            whether L_feature (Eq. 4) is part of the association
    prediction_level         whether L_prediction (Eq. 10) is
    aggregation              the paper's α, also called λ: share of the aggregate in the target (Eq. 7); 0 is off
    smoothness               γ of Eq. 13
    contrast                 False is Sim-PLCA: similarity of the associated pairs, without contrast
    kl_aggregation_contrast  False aggregates probabilities as the authors' code, True as the paper's text (Eq. 8)
    lovasz_scope             "image" or "batch", see `lovasz_softmax`
    ignore_index             the label of pixels without one
    products                 how the N x N operations round matrix products, see `ops.PRODUCTS`
    backend                  of the N x N operations, see `ops.BACKENDS`

    Raises UserError for a setting out of range.
    """

    def __init__(
        self,
        *,
        lovasz: float = 0.75,
        association: float = 0.1,
        smoothing: float = 0.01,
        feature_level: bool = True,
        prediction_level: bool = True,
        aggregation: float = 0.5,
        smoothness: float = 10.0,
        contrast: bool = True,
        kl_aggregation_contrast: bool = False,
        lovasz_scope: str = "image",
        ignore_index: int = 255,
        products: str = "float32",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.lovasz = _check_weight("lovasz", lovasz)
        self.association = _check_weight("association", association)
        self.smoothing = _check_weight("smoothing", smoothing)
        self.feature_level = feature_level
        self.prediction_level = prediction_level
        self.aggregation = check_ratio(aggregation)
        self.smoothness = check_smoothness(smoothness)
        self.contrast = contrast
        self.kl_aggregation_contrast = kl_aggregation_contrast
        self.lovasz_scope = check_scope(lovasz_scope)
        self.ignore_index = ignore_index
        check_backend(backend, products)
        self.products = products
        self.backend = backend

    @property
    def needs_target(self) -> bool:
        """Whether any term that is switched on looks at the target."""
        return self.smoothing > 0 or (self.association > 0 and (self.feature_level or self.prediction_level))

    def forward(self, source: Output, labels_BHW: Tensor, target: Output | None = None) -> LossTerms:
        """The loss of B pairs, the k-th source with the k-th target, in at least float32 also under autocast.

        `labels` (B, H, W) int64 belong to the source; `target` may be None where `needs_target` is False.
        Raises ValueError for a missing target or shapes that do not fit together.
        """
        if self.needs_target and target is None:
            raise ValueError("these settings need the target's output, got None")
        terms = self._supervision(at_least_float32(source.logits), labels_BHW)
        if target is not None and self.association:
            terms |= self._association(source, target, labels_BHW)
        if target is not None and self.smoothing:
            terms["smoothing_source"] = smoothing_loss(source.logits, self.smoothness)
            terms["smoothing_target"] = smoothing_loss(target.logits, self.smoothness)
        weights = {
            "lovasz": self.lovasz,
            "feature": self.association,
            "prediction": self.association,
            "smoothing_source": self.smoothing,
            "smoothing_target": self.smoothing,
        }
        total = terms["cross_entropy"]
        for name, weight in weights.items():
            if name in terms:
                total = total + weight * terms[name]
        return LossTerms(total, **terms)

    def _supervision(self, logits_BKhw: Tensor, labels_BHW: Tensor) -> dict[str, Tensor]:
        """Eq. 11 on the logits upsampled to the labels: cross-entropy, and Lovász-softmax where it is on.

        The cross-entropy is the mean over the labelled pixels of an image, then over images (one without any counts as
        a zero that keeps the graph). The authors average over all labelled pixels of a device's batch: the same for
        one pair, but not independent of how a batch is split over devices.
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
        if self.lovasz:
            terms["lovasz"] = lovasz_softmax(
                log_probability_BKHW.exp(), labels_BHW, ignore_index=self.ignore_index, scope=self.lovasz_scope
            )
        return terms

    def _association(self, source: Output, target: Output, labels_BHW: Tensor) -> dict[str, Tensor]:
        """Eq. 12, level by level, and the share of consistent cycles of each."""
        levels: dict[str, tuple[str, Tensor, Tensor]] = {}
        if self.feature_level:
            levels["feature"] = ("cosine", source.features, target.features)
        if self.prediction_level:
            source_probabilities_BKhw = at_least_float32(source.logits).softmax(1)
            target_probabilities_BKhw = at_least_float32(target.logits).softmax(1)
            levels["prediction"] = ("kl", source_probabilities_BKhw, target_probabilities_BKhw)
        terms = {}
        for name, (similarity, of_source, of_target) in levels.items():
            grid_labels_Bhw = labels_to_grid(labels_BHW, (of_source.shape[2], of_source.shape[3]))
            level = (association_loss if self.contrast else similarity_loss)(
                of_source,
                of_target,
                grid_labels_Bhw,
                similarity=similarity,
                aggregation=self.aggregation,
                kl_aggregation_contrast=self.kl_aggregation_contrast,
                ignore_index=self.ignore_index,
                products=self.products,
                backend=self.backend,
            )
            terms[name] = level.loss
            terms[f"consistent_{name}"] = _share(level.consistent, grid_labels_Bhw != self.ignore_index)
        return terms


def _share(consistent_BN: Tensor, valid_BHW: Tensor) -> Tensor:
    """Share of the valid starts that are consistent: per pair, then the mean over pairs."""
    return (consistent_BN.sum(1) / valid_BHW.sum((1, 2)).clamp(min=1)).mean()


def _check_weight(name: str, weight: float) -> float:
    if not 0 <= weight < math.inf:
        raise UserError(f"{name} {weight} is out of range: a loss weight is at least 0 (off) and finite.")
    return weight
