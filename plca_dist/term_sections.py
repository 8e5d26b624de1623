"""Sections of a recipe with the options of terms beside Eq. 14 and of data steps; their weights are in `objective`.

An option that is given without its term is refused: it would do nothing.
"""

from typing import Literal

from pydantic import Field, model_validator

from plca_dist.later_keys import KINDS_OF
from plca_dist.sections import Beta, Count, DomainSettings, InputSize, Section


class TeacherSettings(Section):
    """The averaged teacher of `objective.class_mix` and `objective.masked_consistency`, and what is done to images."""

    decay: Beta = Field(0.99, description="α, weight of the past in its weights. DACS: 0.99; DAFormer: 0.999.")
    threshold: float = Field(0.968, ge=0, lt=1, description="Least probability of a pseudo-label that counts.")
    ignore_top: float = Field(0.0, ge=0, lt=1, description="Share of the height at the top without pseudo-labels.")
    ignore_bottom: float = Field(0.0, ge=0, lt=1, description="The same at the bottom, where a car's bonnet may be.")
    jitter: float = Field(0.25, ge=0, le=0.5, description="Strength of the colour jitter on images to learn; 0: none.")
    blur: bool = Field(True, description="Blur half of the images to learn.")

    @model_validator(mode="after")
    def _margins(self) -> "TeacherSettings":
        if self.ignore_top + self.ignore_bottom >= 1:
            raise ValueError(
                f"ignore_top {self.ignore_top} and ignore_bottom {self.ignore_bottom} leave no pixel between them; "
                "lower one"
            )
        return self


class MaskingSettings(Section):
    """The patches that `objective.masked_consistency` hides."""

    block: Count = Field(64, gt=0, description="Side of a patch in pixels.")
    ratio: float = Field(0.7, gt=0, lt=1, description="Share of the patches that are hidden.")


class FeatureDistanceSettings(Section):
    """Where `objective.feature_distance` holds features near those of the starting weights."""

    classes: tuple[str, ...] | None = Field(
        None, strict=False, max_length=255, description="Names of the classes; null: countable things of street scenes."
    )
    share: float = Field(0.75, gt=0, le=1, description="Least share of a cell's pixels that are of one class.")


class RareClassSamplingSettings(Section):
    """Source images by the classes that they hold, rare ones more often (DAFormer)."""

    temperature: float | None = Field(
        None,
        ge=1e-6,
        description="T of P(c) ∝ exp((1 − share of c) / T), DAFormer: 0.01; null: each image once an epoch.",
    )
    pixels: Count = Field(3000, gt=0, description="Least pixels of the drawn class in an image.")
    crops: Count = Field(10, gt=0, le=1000, description="Crops tried until half as many pixels of it are inside.")

    @model_validator(mode="after")
    def _switched_on(self) -> "RareClassSamplingSettings":
        if self.temperature is None and (given := self.given()):
            raise ValueError(f"{given[0]} is an option of rare class sampling; set temperature, or leave it out")
        return self


class AdversarySettings(Section):
    """The discriminator of `objective.adversarial`."""

    sees: Literal["probability", "entropy"] = Field(
        "entropy", description="Class probabilities (AdaptSeg), or their weighted information (AdvEnt)."
    )
    lr: float = Field(
        1e-4, gt=0, le=1e6, description="Its initial learning rate, under Adam; it decays as the network's."
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.99), strict=False, description="Decay of Adam's averages.")


class SelfTrainingSettings(Section):
    """The rounds of `objective.pseudo_labels`: the network that ends one labels the target for the next."""

    kind: Literal["cbst", "mrkld", "lrent"] = Field(
        "mrkld", description="cbst: hard labels; mrkld: and smooth predictions on them; lrent: soft labels."
    )
    start: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="Share of the steps that is on the source alone; 0 where model.weights know it.",
    )
    rounds: Count = Field(3, gt=0, description="How many; the last one lasts until the end.")
    round_steps: Count | None = Field(
        None, gt=0, description="Steps of a round; null: those after the start, evenly over the rounds."
    )
    share: float = Field(0.2, gt=0, le=1, description="Of each class's pixels that are labelled in the first round.")
    growth: float = Field(0.05, ge=0, le=1, description="Of that share from round to round.")
    most: float = Field(0.5, gt=0, le=1, description="The largest share.")
    smoothness: float = Field(0.01, ge=0, description="Weight of the even label under mrkld.")
    temperature: float = Field(0.25, ge=1e-6, description="Of the soft labels of lrent; the lower, the harder.")
    size: InputSize | None = Field(
        None, description="Height and width of the target's images when a round begins; null: as stored."
    )

    @model_validator(mode="after")
    def _together(self) -> "SelfTrainingSettings":
        if self.share > self.most:
            raise ValueError(f"share {self.share} is above most {self.most}")
        for name, kind in KINDS_OF.items():
            if getattr(self, name) != type(self).model_fields[name].default and self.kind != kind:
                raise ValueError(f"{name} {getattr(self, name)} is an option of {kind}, and kind is {self.kind}")
        return self

    def rounds_of(self, steps: int) -> tuple[int, int]:
        """(the step that the first round begins before, steps of a round) in a run of `steps`.

        Raises ValueError where the last round would not begin in it.
        """
        first = int(self.start * steps)
        length = self.round_steps or max((steps - first) // self.rounds, 1)
        last = first + (self.rounds - 1) * length
        if last >= steps:
            raise ValueError(
                f"round {self.rounds} would begin at step {last}, and the run has {steps}: take fewer rounds, or set "
                "start or round_steps lower"
            )
        return first, length


class SourceSettings(DomainSettings):
    """The labelled domain, and what is done to its images beyond augmentation."""

    fourier: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="β of the Fourier swap (FDA: 0.01 to 0.09): low frequencies become the target's; 0: off.",
    )
