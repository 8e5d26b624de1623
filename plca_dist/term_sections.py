"""Sections of a recipe with the options of terms beside Eq. 14 and of data steps; their weights are in `objective`.

An option that is given without its term is refused: it would do nothing.
"""

from pydantic import Field, model_validator

from plca_dist.sections import Beta, Count, Section


class TeacherSettings(Section):
    """The averaged teacher of `objective.class_mix` and `objective.masked_consistency`, and what is done to images."""

    decay: Beta = Field(0.99, description="α, weight of the past in its weights. DACS: 0.99; DAFormer: 0.999.")
    threshold: float = Field(0.968, ge=0, lt=1, description="Least probability of a pseudo-label that counts.")
    ignore_top: float = Field(0.0, ge=0, lt=1, description="Share of the height at the top without pseudo-labels.")
    ignore_bottom: float = Field(0.0, ge=0, lt=1, description="The same at the bottom, where a car's bonnet may be.")
    jitter: float = Field(0.25, ge=0, le=0.5, description="Strength of the colour jitter on images to learn; 0: none.")
    blur: bool = Field(True, description="Blur half of the images to learn.")


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
        None, gt=0, description="T of P(c) ∝ exp((1 − share of c) / T), DAFormer: 0.01; null: each image once an epoch."
    )
    pixels: Count = Field(3000, gt=0, description="Least pixels of the drawn class in an image.")
    crops: Count = Field(10, gt=0, le=1000, description="Crops tried until half as many pixels of it are inside.")

    @model_validator(mode="after")
    def _switched_on(self) -> "RareClassSamplingSettings":
        given = [k for k, f in type(self).model_fields.items() if getattr(self, k) != f.default]
        if self.temperature is None and given:
            raise ValueError(f"{given[0]} is an option of rare class sampling; set temperature, or leave it out")
        return self
