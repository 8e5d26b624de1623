"""The one typed tree of settings: recipes, overrides, and what makes two runs the same run.

A recipe is a YAML file with these sections; `--set a.b=value` changes one key. Everything is checked before anything
starts: an error names the key, the value, what is allowed, and the nearest key that exists.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from plca_dist.data.labels import LABEL_SETS
from plca_dist.errors import UserError, nearest
from plca_dist.models.backbone import BACKBONES, STYLES
from plca_dist.ops import BACKENDS, PRODUCTS, check_backend

if TYPE_CHECKING:
    from plca_dist.storage import Location

Size = tuple[int, int]

#: DeepSpeed's own sections that a recipe may pass through. Batch sizes, precision, the optimizer, its schedule and
#: clipping belong to the recipe's other sections; DeepSpeed ignores a key it does not know, so none is let through.
DEEPSPEED_KEYS = (
    "zero_optimization", "zero_allow_untested_optimizer", "communication_data_type", "prescale_gradients",
    "gradient_predivide_factor", "sparse_gradients", "activation_checkpointing", "aio", "comms_logger",
    "flops_profiler", "wall_clock_breakdown", "memory_breakdown", "dump_state",
)  # fmt: skip


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AboutRecipe(Section):
    """What a person wants to know before starting the recipe."""

    summary: str = Field("", description="One line: what is trained, for whom.")
    command: str = Field("", description="The command that runs it.")
    cost: str = Field("", description="Time and hardware, and where the figure comes from.")
    score: str = Field("", description="Expected mIoU, and where the figure comes from.")


class ModelSettings(Section):
    """The network: DeepLab-V2 on a residual backbone at output stride 8."""

    backbone: str = Field("resnet101", description=f"One of {', '.join(BACKBONES)}.")
    style: str = Field("torchvision", description=f"Stride placement and input: one of {', '.join(STYLES)}.")
    rates: tuple[int, ...] = Field((6, 12, 18, 24), min_length=1, description="Dilations of the head's branches.")
    weights: str | None = Field(None, description="URI of ImageNet weights (torchvision's file) or of our own.")

    @field_validator("backbone")
    @classmethod
    def _backbone(cls, value: str) -> str:
        return _one_of(value, BACKBONES)

    @field_validator("style")
    @classmethod
    def _style(cls, value: str) -> str:
        return _one_of(value, STYLES)


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
        if min(self.crop) < 8:
            raise ValueError(f"crop {list(self.crop)} is smaller than the output stride of 8")
        return self


class EvaluationSettings(Section):
    """Measuring mIoU on labelled images that training never sees, and criteria that need no labels of the target."""

    uri: str | None = Field(None, description="Labelled shard directory; null: no mIoU during training.")
    unlabelled: int = Field(
        0, ge=0, description="Target training images on which the label-free criteria are measured too; 0: none."
    )
    every: int = Field(0, ge=0, description="Steps between evaluations; 0: at the end only.")
    size: Size | None = Field(None, description="Height and width of the network's input; null: as stored.")
    aggregation: float = Field(0.5, ge=0, lt=1, description="λ at inference; results are reported without it too.")


class ObjectiveSettings(Section):
    """Weights and switches of Eq. 14; every row of the paper's ablation is a setting of these."""

    lovasz: float = Field(0.75, ge=0, description="β1, weight of Lovász-softmax on the source; 0: off.")
    association: float = Field(0.1, ge=0, description="β2, weight of both association losses; 0: off.")
    smoothing: float = Field(0.01, ge=0, description="β3, weight of adaptive label smoothing; 0: off.")
    feature_level: bool = Field(True, description="Associate by cosine similarity of features (Eq. 4).")
    prediction_level: bool = Field(True, description="Associate by KL divergence of predictions (Eq. 10).")
    aggregation: float = Field(0.5, ge=0, lt=1, description="λ (the paper's α), spatial aggregation ratio; 0: off.")
    smoothness: float = Field(10.0, gt=0, description="γ, the smoothness threshold of Eq. 13.")
    contrast: bool = Field(True, description="False: Sim-PLCA, similarity instead of contrast.")
    kl_aggregation_contrast: bool = Field(False, description="Contrast-normalize KL aggregation (the paper's text).")
    lovasz_scope: Literal["image", "batch"] = Field("image", description="Lovász per image, or per rank's batch.")
    products: str = Field("float32", description=f"How N x N products may be rounded: one of {', '.join(PRODUCTS)}.")
    backend: str = Field("auto", description=f"How the N x N products are computed: one of {', '.join(BACKENDS)}.")

    @field_validator("products")
    @classmethod
    def _products(cls, value: str) -> str:
        return _one_of(value, PRODUCTS)

    @field_validator("backend")
    @classmethod
    def _backend(cls, value: str) -> str:
        return _one_of(value, BACKENDS)

    @model_validator(mode="after")
    def _together(self) -> "ObjectiveSettings":
        try:
            check_backend(self.backend, self.products)
        except UserError as error:
            raise ValueError(str(error).rstrip(".")) from None
        return self

    @property
    def inference(self) -> dict[str, Any]:
        """What aggregation at inference takes over from training, as keyword arguments of `training.evaluation`."""
        return self.model_dump(include={"kl_aggregation_contrast", "products", "backend"})


class OptimizerSettings(Section):
    """SGD as in the paper."""

    lr: float = Field(2.5e-4, gt=0, description="Initial learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum.")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty.")
    head_lr_multiplier: float = Field(1.0, gt=0, description="Learning rate of the head relative to the backbone's.")
    gradient_clipping: float = Field(0.0, ge=0, description="Largest gradient norm; 0: no clipping.")


class ScheduleSettings(Section):
    """How long to train, and the polynomial decay lr·(1 − step/poly_steps)^power."""

    steps: int = Field(gt=0, description="Optimizer steps of the whole run.")
    poly_steps: int | None = Field(None, description="Length of the decay; null: `steps`. The authors stop before it.")
    power: float = Field(0.9, ge=0, description="Exponent of the decay.")

    @model_validator(mode="after")
    def _length(self) -> "ScheduleSettings":
        if self.poly_steps is not None and self.poly_steps < self.steps:
            raise ValueError(f"poly_steps {self.poly_steps} is shorter than steps {self.steps}")
        return self


class BatchSettings(Section):
    """Pairs of one source and one target image."""

    pairs: int = Field(8, gt=0, description="Pairs per optimizer step over the whole cluster.")
    micro: int | None = Field(None, gt=0, description="Pairs per forward pass of a worker; null: all its pairs.")


class OrderSettings(Section):
    """The order in which samples are read; a pure function of these, the seed and the step."""

    window: int = Field(8, gt=0, description="Row groups shuffled together.")
    damaged: Literal["stop", "skip"] = Field("stop", description="At damaged rows: stop, or read the next sound ones.")


class ClusterSettings(Section):
    """What the run asks of Ray. Nothing here changes the result."""

    workers: int | tuple[int, int] = Field(
        1, description="Training processes; [min, max]: as many of them as the cluster can hold, while it changes."
    )
    gpu: bool = Field(False, description="One GPU for each worker.")
    cpus_per_worker: int = Field(1, gt=0, description="CPU cores reserved for each worker, and its torch threads.")
    loader_threads: int = Field(2, gt=0, description="Threads of each worker that fetch, decode and augment.")
    prefetch: int = Field(4, gt=0, description="Micro-batches prepared ahead of need.")
    step_timeout_s: float = Field(600.0, gt=0, description="A step longer than that ends the run, with stacks.")
    max_failures: int = Field(3, ge=0, description="Restarts after an error; lost workers and nodes do not count.")

    @field_validator("workers", mode="before")
    @classmethod
    def _workers(cls, value: Any) -> Any:
        ends = value if isinstance(value, list | tuple) else [value]
        if not (1 <= len(ends) <= 2 and all(type(n) is int and n > 0 for n in ends) and list(ends) == sorted(ends)):
            raise ValueError("must be a number of at least 1, or a range [min, max] of such")
        return value

    @property
    def least_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class CheckpointSettings(Section):
    """When to save, and how much to keep."""

    every: int = Field(500, gt=0, description="Steps between checkpoints; one is always written at the end.")
    keep: int = Field(2, gt=0, description="Newest checkpoints kept; the best by mIoU is kept beside them.")
    max_failed_saves: int = Field(2, ge=0, description="Saves in a row that may fail before the run stops.")


class StorageSettings(Section):
    """Where runs are kept."""

    uri: str = Field("runs", description="Runs live in <uri>/<name>: s3://bucket/prefix, file:///path or a path.")
    endpoint: str | None = Field(None, description="URL of an S3-compatible server; null: AWS_ENDPOINT_URL or AWS.")


class LogSettings(Section):
    every: int = Field(10, gt=0, description="Steps between log records.")


class Config(Section):
    """A whole recipe."""

    about: AboutRecipe = AboutRecipe()
    seed: int = Field(0, ge=0, description="Of initial weights, order and augmentation.")
    deterministic: bool = Field(False, description="Deterministic torch algorithms; on the CPU the same bits each run.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: autocast, weights stay float32."
    )
    labels: str = Field("cityscapes", description=f"Classes to learn: one of {', '.join(LABEL_SETS)}.")
    data: str = Field("data", description="Base of relative shard URIs.")
    model: ModelSettings = ModelSettings()
    source: DomainSettings
    target: DomainSettings
    evaluation: EvaluationSettings = EvaluationSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings
    batch: BatchSettings = BatchSettings()
    order: OrderSettings = OrderSettings()
    deepspeed: dict[str, Any] = Field(default_factory=dict, description="Passed to DeepSpeed: ZeRO stage, offload, …")
    cluster: ClusterSettings = ClusterSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    storage: StorageSettings = StorageSettings()
    log: LogSettings = LogSettings()

    @field_validator("labels")
    @classmethod
    def _labels(cls, value: str) -> str:
        return _one_of(value, LABEL_SETS)

    @field_validator("deepspeed")
    @classmethod
    def _deepspeed(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key not in DEEPSPEED_KEYS:
                raise ValueError(f"{key!r} may not be set here; allowed: {', '.join(DEEPSPEED_KEYS)}")
        stage = (value.get("zero_optimization") or {}).get("stage", 0)
        if stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_optimization.stage is {stage!r}; allowed: 0, 1, 2, 3")
        return value

    @property
    def zero_stage(self) -> int:
        return (self.deepspeed.get("zero_optimization") or {}).get("stage", 0)

    def data_uri(self, uri: str) -> str:
        """A shard URI with `data` put before a relative one."""
        return uri if "://" in uri or uri.startswith("/") else f"{self.data.rstrip('/')}/{uri}"

    def location(self, uri: str) -> "Location":
        """`uri` on the server that `storage.endpoint` names."""
        from plca_dist.storage import Location  # here: it brings pyarrow, which a mistyped recipe should not wait for

        return Location(uri, self.storage.endpoint)

    @property
    def world_sizes(self) -> tuple[int, ...]:
        """The numbers of workers that `cluster.workers` allows and the batch can be split over, ascending.

        Raises UserError where there is none.
        """
        found, refused = [], None
        for world_size in range(self.cluster.least_workers, self.cluster.most_workers + 1):
            try:
                self.accumulation(world_size)
                found.append(world_size)
            except UserError as error:
                refused = error
        if refused and not found:
            raise refused
        return tuple(found)

    def accumulation(self, world_size: int) -> tuple[int, int]:
        """(pairs per forward pass, forward passes per step) of a rank. Raises UserError where it does not divide."""
        pairs = self.batch.pairs
        if pairs % world_size:
            fits = [n for n in range(1, pairs + 1) if pairs % n == 0]
            raise UserError(
                f"batch.pairs = {pairs} cannot be split over {world_size} workers; "
                f"set cluster.workers to one of {', '.join(map(str, fits))}, "
                f"or batch.pairs to a multiple of {world_size}."
            )
        per_rank = pairs // world_size
        micro = self.batch.micro or per_rank
        if per_rank % micro:
            raise UserError(
                f"batch.micro = {micro} does not divide the {per_rank} pairs of each worker "
                f"(batch.pairs = {pairs} over {world_size} workers); set it to a divisor of {per_rank}."
            )
        return micro, per_rank // micro

    def identity(self) -> dict[str, Any]:
        """The keys, dotted, that decide the result: two runs that agree on them may share a name."""
        free = {"about", "data", "evaluation", "cluster", "checkpoint", "storage", "log"}
        # Which rank holds what part of the state is the cluster's affair; how coarsely it is rounded is not.
        zero = {k: v for k, v in (self.deepspeed.get("zero_optimization") or {}).items() if "quantized" in k}
        deepspeed = {k: v for k, v in self.deepspeed.items() if k != "zero_optimization"}
        tree = self.model_dump(mode="json", exclude=free)
        flat = dict(_flatten(tree | {"deepspeed": deepspeed | ({"zero_optimization": zero} if zero else {})}))
        # Where things lie is not what they hold; the shards' content is compared by its own fingerprint.
        weights = flat.pop("model.weights")
        flat["model.weights"] = weights.rpartition("/")[2] if weights else None
        # A run that stopped at damage may go on past it, and without damage there is nothing to decide.
        return {k: v for k, v in flat.items() if k not in ("source.uri", "target.uri", "order.damaged")}

    def fingerprint(self) -> str:
        """Hash of `identity`."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _one_of(value: str, options: Sequence[str] | dict[str, Any]) -> str:
    if value not in options:
        raise ValueError(f"must be one of {', '.join(options)}.{nearest(value, options)}".rstrip("."))
    return value


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
