"""The sections of a recipe that say what is trained. `config.Config` is the tree of all, of which `plca recipes --keys`
prints the descriptions.
"""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from plca_dist.errors import UserError, nearest
from plca_dist.method.settings import ObjectiveSettings
from plca_dist.models.architecture import (
    BACKBONES,
    HEADS,
    LARGEST_RATE,
    MOST_RATES,
    OUTPUT_STRIDE,
    STRIDES,
    STYLES,
    TIMM,
)
from plca_dist.ops.settings import BACKENDS, PRODUCTS

#: A pair of whole numbers, which YAML has as a list.
Size = Annotated[tuple[int, int], Field(strict=False)]
#: The largest height or width of an image.
_LARGEST_SIDE = 16_384


def _fits(size: tuple[int, int]) -> tuple[int, int]:
    if not 8 <= min(size) <= max(size) <= _LARGEST_SIDE:
        raise ValueError(f"each side must be from 8 (the output stride) to {_LARGEST_SIDE} pixels")
    return size


#: Height and width of a whole image as a network sees it.
InputSize = Annotated[Size, AfterValidator(_fits)]
#: What `model.weights` says for timm's own weights, which timm fetches from the internet.
HUB = "hub"
#: A whole number that counts something.
Count = Annotated[int, Field(le=2**31 - 1)]
#: The weight of the past in a running average.
Beta = Annotated[float, Field(ge=0, lt=1)]


def one_of(value: object, options: Collection[str]) -> str:
    """`value` itself. Raises ValueError with the nearest of the options for any other value."""
    if value not in options:
        raise ValueError(f"must be one of {', '.join(options)}.{nearest(str(value), options)}".rstrip("."))
    return str(value)


class Section(BaseModel):
    """Values are of their type as YAML has it: `true` is no number, and text is none either. Numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def given(self) -> list[str]:
        """Keys whose value is not the default."""
        fields = type(self).model_fields.items()
        return [key for key, field in fields if getattr(self, key) != field.get_default(call_default_factory=True)]


class AboutRecipe(Section):
    """What a person wants to know before starting the recipe."""

    summary: str = Field("", description="One line: what is trained, for whom.")
    command: str = Field("", description="The command that runs it.")
    cost: str = Field("", description="Time and hardware, and where the figure comes from.")
    score: str = Field("", description="Expected mIoU, and where the figure comes from.")


class ModelSettings(Section):
    """The network: a backbone, a head, and what they start from."""

    backbone: str = Field("resnet101", description=f"One of {', '.join(BACKBONES)}, or {TIMM}NAME, a network of timm.")
    style: str = Field("torchvision", description=f"A ResNet's stride placement and input: one of {', '.join(STYLES)}.")
    stride: Count = Field(
        OUTPUT_STRIDE,
        ge=STRIDES[0],
        le=STRIDES[-1],
        description="Of the grid, in pixels. ResNets: 8; timm's networks too, or 16; a plain ViT's is its patch.",
    )
    head: str = Field(
        "deeplab", description=f"One of {', '.join(HEADS)}: on the last features, or on those of several depths."
    )
    rates: tuple[Annotated[int, Field(gt=0, le=LARGEST_RATE)], ...] = Field(
        (6, 12, 18, 24),
        strict=False,
        min_length=1,
        max_length=MOST_RATES,
        description="Dilations of the branches of head deeplab.",
    )
    weights: str | None = Field(
        None,
        description="URI of torchvision's or timm's ImageNet weights, a run, one of its checkpoints, or a .safetensors;"
        f" {HUB}: timm's hub, from the internet.",
    )
    frozen: tuple[Annotated[str, Field(max_length=200)], ...] = Field(
        (), strict=False, max_length=1000, description="Parts of the backbone that do not train, by name; [all]: all."
    )
    freeze_bn: bool = Field(False, description="Batch norm uses and keeps the running statistics of its weights.")

    @field_validator("backbone")
    @classmethod
    def _backbone(cls, value: str) -> str:
        # Whether timm knows the name is asked before a run starts: reading settings takes no torch.
        return value if value.startswith(TIMM) and len(value) <= 100 else one_of(value, (*BACKBONES, f"{TIMM}NAME"))

    @field_validator("head")
    @classmethod
    def _head(cls, value: str) -> str:
        return one_of(value, HEADS)

    @field_validator("style")
    @classmethod
    def _style(cls, value: str) -> str:
        return one_of(value, STYLES)

    @model_validator(mode="after")
    def _together(self) -> "ModelSettings":
        of_timm = self.backbone.startswith(TIMM)
        if of_timm and self.style != "torchvision":
            raise ValueError(f"style {self.style!r} is for the ResNets here; {self.backbone} has an input of its own")
        if not of_timm and self.stride != OUTPUT_STRIDE:
            raise ValueError(f"stride {self.stride} is for {TIMM}NAME; backbone {self.backbone!r} has {OUTPUT_STRIDE}")
        if not of_timm and self.weights == HUB:
            raise ValueError(f"weights {HUB!r} are for {TIMM}NAME; name a file for backbone {self.backbone!r}")
        return self


class DomainSettings(Section):
    """One domain's training shards and their augmentation (paper: shorter edge, crop, flip)."""

    uri: str = Field(description="Shard directory; relative to `data` unless it has a scheme or starts with /.")
    shorter_edge: Size | None = Field(None, description="Range of the random shorter edge in pixels; null: as is.")
    crop: Size = Field(description="Height and width of the random crop.")
    flip: bool = Field(True, description="Mirror every other image, at random.")

    @model_validator(mode="after")
    def _range(self) -> "DomainSettings":
        if self.shorter_edge and not 0 < self.shorter_edge[0] <= self.shorter_edge[1]:
            raise ValueError(f"shorter_edge {list(self.shorter_edge)} is not a range [low, high] with 0 < low <= high")
        if max(*self.crop, *(self.shorter_edge or ())) > _LARGEST_SIDE:
            raise ValueError(f"shorter_edge or crop {list(self.crop)} has a side of more than {_LARGEST_SIDE} pixels")
        if min(self.crop) < 8:
            raise ValueError(f"crop {list(self.crop)} is smaller than the output stride of 8")
        return self


class EvaluationSettings(Section):
    """Measurement of mIoU on labelled images that training never sees, and of criteria that need no target labels."""

    uri: str | None = Field(None, description="Labelled shard directory; null: no mIoU during training.")
    unlabelled: Count = Field(
        0, ge=0, description="Target training images on which the label-free criteria are measured too; 0: none."
    )
    every: Count = Field(0, ge=0, description="Steps between evaluations; 0: at the end only.")
    size: InputSize | None = Field(None, description="Height and width of the network's input; null: as stored.")
    aggregation: float = Field(0.5, ge=0, lt=1, description="λ at inference; results are reported without it too.")


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class ObjectiveSection(ObjectiveSettings):
    """`method.settings.ObjectiveSettings` as a section. An error names the key: `objective.backend`."""

    @field_validator("products")
    @classmethod
    def _products(cls, value: str) -> str:
        return one_of(value, PRODUCTS)

    @field_validator("backend")
    @classmethod
    def _backend(cls, value: str) -> str:
        return one_of(value, BACKENDS)

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except UserError as error:
            raise ValueError(str(error).rstrip(".")) from None


class OptimizerSettings(Section):
    """SGD as in the paper, or AdamW, under which norms, biases and embeddings do not decay."""

    kind: Literal["sgd", "adamw"] = Field("sgd", description="sgd, or adamw, which transformers want.")
    lr: float = Field(2.5e-4, gt=0, description="Initial learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    betas: tuple[Beta, Beta] | None = Field(
        None, strict=False, description="Decay of adamw's averages of gradients and of squares; null: 0.9, 0.999."
    )
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty under sgd, decoupled decay under adamw.")
    head_lr_multiplier: float = Field(1.0, gt=0, description="Learning rate of the head relative to the backbone's.")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="adamw on timm/NAME: each layer's rate relative to that of the next one."
    )
    gradient_clipping: float = Field(0.0, ge=0, description="Largest gradient norm; 0: no clipping.")

    @model_validator(mode="after")
    def _of_kind(self) -> "OptimizerSettings":
        others = {"sgd": ("betas", "layer_decay"), "adamw": ("momentum",)}[self.kind]
        for name in others:
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                other = "adamw" if self.kind == "sgd" else "sgd"
                raise ValueError(f"{name} {value!r} is an option of {other}; set kind={other}, or leave {name} out")
        return self


class ScheduleSettings(Section):
    """How long to train, and the polynomial decay lr·(1 − step/poly_steps)^power."""

    steps: Count = Field(gt=0, description="Optimizer steps of the whole run.")
    poly_steps: Count | None = Field(
        None, gt=0, description="Length of the decay; null: `steps`. The authors stop before it."
    )
    power: float = Field(0.9, ge=0, description="Exponent of the decay.")
    warmup: Count = Field(0, ge=0, description="Steps in which the rate rises linearly to the decay's; 0: none.")

    @model_validator(mode="after")
    def _length(self) -> "ScheduleSettings":
        if self.poly_steps is not None and self.poly_steps < self.steps:
            raise ValueError(f"poly_steps {self.poly_steps} is shorter than steps {self.steps}")
        return self


class BatchSettings(Section):
    """Pairs of one source and one target image."""

    pairs: int = Field(8, gt=0, le=2**16, description="Pairs per optimizer step over the whole cluster.")
    micro: Count | None = Field(None, gt=0, description="Pairs per forward pass of a worker; null: all its pairs.")


class OrderSettings(Section):
    """The order in which samples are read; a pure function of these, the seed and the step."""

    window: Count = Field(8, gt=0, description="Row groups shuffled together.")
    cut: Literal[1, 2] | None = Field(
        None,
        description="How an epoch is cut into slots: 2 reads less at many ranks, 1 is of older runs; null: the run's, "
        "2 for a new one.",
    )
    damaged: Literal["stop", "skip"] = Field("stop", description="At damaged rows: stop, or read the next sound ones.")
