"""The settings of the method, with their defaults. Without torch, so that the recipe's settings can be read quickly."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from plca_dist.errors import UserError, nearest
from plca_dist.ops.settings import BACKENDS, PRODUCTS, Pairwise

SIMILARITIES = ("cosine", "kl")
SCOPES = ("image", "batch")
#: The smallest side in pixels of what a discriminator sees: it halves it five times.
SMALLEST_SEEN = 32
PENALTIES = ("linear", "robust")
#: Weights of the terms beside Eq. 14, in the order in which they are added.
FURTHER = (
    "class_mix", "masked_consistency", "feature_distance", "entropy", "max_square", "adversarial", "pseudo_labels",
)  # fmt: skip
#: Those that look at the network's output for the target, and those that learn from the averaged teacher.
ON_TARGET_OUTPUT = ("entropy", "max_square", "adversarial", "pseudo_labels")
OF_TEACHER = ("class_mix", "masked_consistency")


@dataclass(frozen=True)
class AssociationSettings:
    """One level of association, as `association_loss`, `similarity_loss` and `cycles` compute it.

    similarity               "cosine" for features (Eq. 1), "kl" for class probabilities (Eq. 9)
    aggregation              the paper's α, also called λ: share of the aggregate in the target (Eq. 7); 0 is off
    kl_aggregation_contrast  False aggregates probabilities as the authors' code, True as the paper's text (Eq. 8)
    ignore_index             the label of pixels without one
    pairwise                 how the N x N operations are computed; products of "kl" are float32 under every setting

    Raises UserError for an unknown similarity and for an aggregation outside [0, 1).
    """

    similarity: str = "cosine"
    aggregation: float = 0.5
    kl_aggregation_contrast: bool = False
    ignore_index: int = 255
    pairwise: Pairwise = Pairwise()

    def __post_init__(self) -> None:
        check_similarity(self.similarity)
        check_ratio(self.aggregation)


@dataclass(frozen=True)
class InferenceSettings:
    """What aggregation at inference takes over from training. Its ratio λ is chosen anew.

    kl_aggregation_contrast  as in `AssociationSettings`
    pairwise                 how the N x N operations are computed
    """

    kl_aggregation_contrast: bool = False
    pairwise: Pairwise = Pairwise()


def _setting(default: Any, description: str, **bounds: Any) -> Any:
    """A field with its description and the bounds of its value: ge, gt and lt, and allow_inf_nan=False for finite.

    A truth value is no number, and a number none.
    """
    strict = {} if isinstance(default, str) else {"strict": True}
    return field(default=default, metadata={"description": description, **strict, **bounds})


_WEIGHT = {"ge": 0, "allow_inf_nan": False}


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights and switches of Eq. 14; every row of the paper's ablation is a setting of these.

    Raises UserError for a setting out of range.
    """

    lovasz: float = _setting(0.75, "β1, weight of Lovász-softmax on the source; 0: off.", **_WEIGHT)
    association: float = _setting(0.1, "β2, weight of both association losses; 0: off.", **_WEIGHT)
    smoothing: float = _setting(0.01, "β3, weight of adaptive label smoothing; 0: off.", **_WEIGHT)
    feature_level: bool = _setting(True, "Associate by cosine similarity of features (Eq. 4).")
    prediction_level: bool = _setting(True, "Associate by KL divergence of predictions (Eq. 10).")
    aggregation: float = _setting(0.5, "λ (the paper's α), spatial aggregation ratio; 0: off.", ge=0, lt=1)
    smoothness: float = _setting(10.0, "γ, the smoothness threshold of Eq. 13.", gt=0, allow_inf_nan=False)
    contrast: bool = _setting(True, "False: Sim-PLCA, similarity instead of contrast.")
    kl_aggregation_contrast: bool = _setting(False, "Contrast-normalize KL aggregation (the paper's text).")
    lovasz_scope: Literal["image", "batch"] = _setting("image", "Lovász per image, or per rank's batch.")
    products: str = _setting("float32", f"How N x N products of features may be rounded: one of {', '.join(PRODUCTS)}.")
    backend: str = _setting("auto", f"How the N x N products are computed: one of {', '.join(BACKENDS)}.")
    class_mix: float = _setting(0.0, "Weight of class-mix under an averaged teacher (DACS); 0: off.", **_WEIGHT)
    masked_consistency: float = _setting(0.0, "Weight of masked consistency (MIC); 0: off.", **_WEIGHT)
    feature_distance: float = _setting(
        0.0, "Weight of the distance to features of the starting weights (DAFormer: 0.005); 0: off.", **_WEIGHT
    )

    entropy: float = _setting(
        0.0, "Weight of the entropy of target predictions (MinEnt: 0.001, FDA: 0.005); 0: off.", **_WEIGHT
    )
    entropy_penalty: Literal["linear", "robust"] = _setting(
        "linear", "Of a pixel's entropy h: linear is h (MinEnt), robust (h² + 1e-8)² (FDA)."
    )
    max_square: float = _setting(0.0, "Weight of maximum squares on the target (published: 0.1); 0: off.", **_WEIGHT)
    image_weights: bool = _setting(False, "Maximum squares: classes that fill little of an image weigh more (IW).")
    adversarial: float = _setting(
        0.0, "Weight of fooling a discriminator of the domains (AdaptSeg, AdvEnt: 0.001); 0: off.", **_WEIGHT
    )
    pseudo_labels: float = _setting(0.0, "Weight of self-training in rounds (CBST, CRST: 1); 0: off.", **_WEIGHT)

    def __post_init__(self) -> None:
        for name in ("lovasz", "association", "smoothing", *FURTHER):
            check_weight(name, getattr(self, name))
        check_ratio(self.aggregation)
        check_smoothness(self.smoothness)
        check_scope(self.lovasz_scope)
        check_penalty(self.entropy_penalty)
        check_used("entropy_penalty", self.entropy_penalty, "linear", "entropy", self.entropy)
        check_used("image_weights", self.image_weights, False, "max_square", self.max_square)
        _ = self.pairwise  # for its refusals

    @property
    def needs_target(self) -> bool:
        """Whether any term that is switched on looks at target images."""
        return self.needs_target_output or any(getattr(self, name) > 0 for name in OF_TEACHER)

    @property
    def needs_target_output(self) -> bool:
        """Whether any term that is switched on looks at the network's output for the target."""
        levels = self.feature_level or self.prediction_level
        of_eq_14 = self.smoothing > 0 or (self.association > 0 and levels)
        return of_eq_14 or any(getattr(self, name) > 0 for name in ON_TARGET_OUTPUT)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term that is switched on learns from the averaged teacher."""
        return any(getattr(self, name) > 0 for name in OF_TEACHER)

    @property
    def pairwise(self) -> Pairwise:
        """How the N x N operations are computed."""
        return Pairwise(self.products, self.backend)

    @property
    def inference(self) -> InferenceSettings:
        """What aggregation at inference takes over."""
        return InferenceSettings(self.kl_aggregation_contrast, self.pairwise)

    def level(self, similarity: str, ignore_index: int) -> AssociationSettings:
        """The association at the level of that similarity."""
        return AssociationSettings(
            similarity, self.aggregation, self.kl_aggregation_contrast, ignore_index, self.pairwise
        )


def check_weight(name: str, weight: float) -> float:
    """`weight` itself. Raises UserError unless it is at least 0 and finite."""
    if not 0 <= weight < math.inf:
        raise UserError(f"{name} {weight} is out of range: a loss weight is at least 0 (off) and finite.")
    return weight


def check_used(option: str, value: object, default: object, term: str, weight: float) -> None:
    """Raises UserError for an option of a term that is switched off: it would do nothing."""
    if value != default and not weight:
        raise UserError(f"{option} {value!r} is an option of {term}, whose weight is 0: set {term}, or leave it out.")


def check_ratio(ratio: float) -> float:
    """`ratio` itself. Raises UserError outside [0, 1)."""
    if not 0 <= ratio < 1:
        raise UserError(
            f"aggregation {ratio} is out of range: use at least 0 (no aggregation) and less than 1 (paper: 0.5)."
        )
    return ratio


def check_smoothness(gamma: float) -> float:
    """`gamma` itself. Raises UserError unless it is positive and finite."""
    if not 0 < gamma < math.inf:
        raise UserError(f"smoothness {gamma} is out of range: γ must be positive and finite (paper: 10).")
    return gamma


def check_scope(scope: str) -> str:
    """`scope` itself. Raises UserError for an unknown one."""
    if scope not in SCOPES:
        raise UserError(f"lovasz_scope {scope!r} is unknown; known: {', '.join(SCOPES)}.{nearest(scope, SCOPES)}")
    return scope


def check_penalty(penalty: str) -> str:
    """`penalty` itself. Raises UserError for an unknown one."""
    if penalty not in PENALTIES:
        raise UserError(
            f"entropy_penalty {penalty!r} is unknown; known: {', '.join(PENALTIES)}.{nearest(penalty, PENALTIES)}"
        )
    return penalty


def check_similarity(similarity: str) -> str:
    """`similarity` itself. Raises UserError for an unknown one."""
    if similarity not in SIMILARITIES:
        raise UserError(
            f"similarity {similarity!r} is unknown; known: {', '.join(SIMILARITIES)}."
            f"{nearest(similarity, SIMILARITIES)}"
        )
    return similarity
