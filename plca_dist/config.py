"""The one typed tree of settings, and a run's identity: the settings that decide its result.

A recipe is a YAML file with these sections; `--set a.b=value` changes one key. Everything is checked before anything
starts: an error names the key, the value, the allowed values, and the nearest key that exists.

Reading settings takes no torch: names of backbones, styles, products and backends come from files without it.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from plca_dist import deepspeed_options
from plca_dist.data.label_file import label_set_from
from plca_dist.data.label_record import record
from plca_dist.data.labels import LABEL_SETS, LabelSet, label_set
from plca_dist.errors import UserError
from plca_dist.later_keys import LATER, OPTIONS_OF
from plca_dist.method.settings import SMALLEST_SEEN
from plca_dist.run_sections import CheckpointSettings, ClusterSettings, LogSettings, StorageSettings
from plca_dist.sections import (
    AboutRecipe,
    BatchSettings,
    DomainSettings,
    EvaluationSettings,
    ModelSettings,
    ObjectiveSection,
    OptimizerSettings,
    OrderSettings,
    ScheduleSettings,
    Section,
    one_of,
)
from plca_dist.term_sections import (
    AdversarySettings,
    FeatureDistanceSettings,
    MaskingSettings,
    RareClassSamplingSettings,
    SelfTrainingSettings,
    SourceSettings,
    TeacherSettings,
)

if TYPE_CHECKING:
    from plca_dist.storage import Location


class Config(Section):
    """A whole recipe."""

    about: AboutRecipe = AboutRecipe()
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Of initial weights, order and augmentation.")
    deterministic: bool = Field(False, description="Deterministic torch algorithms; on the CPU the same bits each run.")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="Of the network's products, weights stay float32. tf32: as a GPU rounds; bfloat16: autocast.",
    )
    labels: str | dict[str, Any] = Field(
        "cityscapes",
        description=f"Classes to learn: a label-set file, its content, or one of {', '.join(LABEL_SETS)}.",
    )
    data: str = Field("data", description="Base of relative shard URIs.")
    model: ModelSettings = ModelSettings()
    source: SourceSettings
    target: DomainSettings
    evaluation: EvaluationSettings = EvaluationSettings()
    objective: ObjectiveSection = ObjectiveSection()
    teacher: TeacherSettings = TeacherSettings()
    masking: MaskingSettings = MaskingSettings()
    feature_distance: FeatureDistanceSettings = FeatureDistanceSettings()
    rare_class_sampling: RareClassSamplingSettings = RareClassSamplingSettings()
    adversary: AdversarySettings = AdversarySettings()
    self_training: SelfTrainingSettings = SelfTrainingSettings()
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
    def _labels(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, str):
            return one_of(value, LABEL_SETS)
        try:
            return record(label_set_from(value, "labels"), with_coding=False)
        except UserError as error:
            raise ValueError(str(error).removeprefix("labels: ").rstrip(".")) from None

    @field_validator("deepspeed")
    @classmethod
    def _deepspeed(cls, value: dict[str, Any]) -> dict[str, Any]:
        deepspeed_options.check(value)
        return value

    @model_validator(mode="after")
    def _options_have_their_terms(self) -> "Config":
        for name, weights in OPTIONS_OF.items():
            given = getattr(self, name).given()
            off = not any(getattr(self.objective, weight) for weight in weights)
            if off and given:
                these = " or ".join(f"objective.{weight}" for weight in weights)
                raise ValueError(f"{name}.{given[0]} is an option of {these}, which is off; set that, or leave it out")
        if self.objective.feature_distance and (self.model.weights is None or self.model.head != "deeplab"):
            wanted = "weights to stay near" if self.model.weights is None else "head deeplab, whose features they have"
            raise ValueError(f"objective.feature_distance wants model.{wanted}; set that, or leave it out")
        return self

    @model_validator(mode="after")
    def _terms(self) -> "Config":
        """Some terms need images of a certain size, or steps enough."""
        if self.objective.adversarial and min(*self.source.crop, *self.target.crop) < SMALLEST_SEEN:
            raise ValueError(
                f"objective.adversarial: a discriminator needs crops of {SMALLEST_SEEN} pixels a side, got "
                f"{list(self.source.crop)} and {list(self.target.crop)}"
            )
        if self.source.fourier and self.source.crop != self.target.crop:
            raise ValueError(
                f"source.fourier swaps frequencies of equal images, and source.crop {list(self.source.crop)} is not "
                f"target.crop {list(self.target.crop)}: make them equal"
            )
        if self.objective.pseudo_labels:
            try:
                self.self_training.rounds_of(self.schedule.steps)
            except ValueError as error:
                raise ValueError(f"self_training: {error}") from None
        return self

    @property
    def needs_target(self) -> bool:
        """Whether training reads target images."""
        return self.objective.needs_target or self.source.fourier > 0

    @property
    def label_set(self) -> LabelSet:
        """The classes to learn."""
        return label_set(self.labels) if isinstance(self.labels, str) else label_set_from(self.labels, "labels")

    @property
    def zero_stage(self) -> int:
        return (self.deepspeed.get("zero_optimization") or {}).get("stage", 0)

    def data_uri(self, uri: str) -> str:
        """A shard URI with `data` put before a relative one."""
        return uri if "://" in uri or uri.startswith("/") else f"{self.data.rstrip('/')}/{uri}"

    def location(self, uri: str) -> "Location":
        """`uri` on the server that `storage.endpoint` names."""
        from plca_dist.storage import Location  # here: a mistyped recipe should not wait for it

        return Location(uri, self.storage.endpoint)

    @property
    def world_sizes(self) -> tuple[int, ...]:
        """The numbers of workers that `cluster.workers` allows and the batch can be split over, ascending.

        Raises UserError where there is none.
        """
        pairs, micro = self.batch.pairs, self.batch.micro
        numbers = range(self.cluster.least_workers, self.cluster.most_workers + 1)
        sizes = tuple(n for n in numbers if pairs % n == 0 and (pairs // n) % (micro or 1) == 0)
        if not sizes:
            self.accumulation(numbers[-1])
        return sizes

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
        """The settings that decide the result, by dotted key: two runs with the same identity may share a name."""
        free = {"about", "data", "evaluation", "cluster", "checkpoint", "storage", "log"}
        # Sharding the state over ranks does not change the result, but quantizing it does.
        zero = {k: v for k, v in (self.deepspeed.get("zero_optimization") or {}).items() if "quantized" in k}
        deepspeed = {k: v for k, v in self.deepspeed.items() if k != "zero_optimization"}
        tree = self.model_dump(mode="json", exclude=free)
        if isinstance(self.labels, dict):
            # Names decide which pixels of the shards are which class; colours, means and groups only what is shown.
            kept = ("name", "same_as", "merges")
            tree["labels"] = {"classes": [{k: c[k] for k in kept if k in c} for c in self.labels["classes"]]}
        flat = dict(_flatten(tree | {"deepspeed": deepspeed | ({"zero_optimization": zero} if zero else {})}))
        flat = {k: v for k, v in flat.items() if k not in LATER or v != LATER[k]}
        # The place of a file does not change the result; the shards' content is compared by its own fingerprint.
        weights = flat.pop("model.weights")
        flat["model.weights"] = weights.rpartition("/")[2] if weights else None
        # A run that stopped at damaged rows may go on past them, and without damage the key has no effect.
        return {k: v for k, v in flat.items() if k not in ("source.uri", "target.uri", "order.damaged")}

    def fingerprint(self) -> str:
        """Hash of `identity`. Runs that were begun before there was `order.cut` have cut 1, and their hash no cut."""
        identity = {k: v for k, v in self.identity().items() if (k, v) != ("order.cut", 1)}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
