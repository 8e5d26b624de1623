"""A space file: the keys of a recipe that a search varies, and the settings of the search."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_serializer, field_validator, model_validator

from plca_dist.config import Config, Section
from plca_dist.errors import UserError, short
from plca_dist.methods import method
from plca_dist.recipe import changed
from plca_dist.search.space.allowed_keys import check_set, check_varied
from plca_dist.search.space.distributions import Distribution
from plca_dist.search.space.sections import AboutSpace, Resources, Scheduler
from plca_dist.sections import one_of
from plca_dist.training.metrics import CRITERIA, Criterion

ALGORITHMS = ("random", "grid", "optuna")
VARIANT = "variant"


class Space(Section):
    """A whole space file. Each key of the recipe is in at most one of `search`, `variants` and `set`."""

    about: AboutSpace = AboutSpace()
    search: dict[str, Distribution] = Field(default_factory=dict, description="Dotted key -> distribution.")
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Named groups of keys that change together, or a list of methods; a grid takes each in turn.",
    )
    method: str | None = Field(None, description="Every trial begins with it: terms that it does not name are off.")
    metric: str = Field(description=f"One of {', '.join(CRITERIA)}.")
    mode: Literal["max", "min"] | None = Field(None, validate_default=True, description="Always that of the metric.")
    trials: int | None = Field(None, gt=0, description="How many; a grid has as many as it has.")
    algorithm: Literal["random", "grid", "optuna"] = Field("random", description="What chooses the trials' values.")
    scheduler: Scheduler = Scheduler()
    evaluations: int = Field(8, gt=0, description="Of each trial, evenly spaced, the last at its end.")
    unlabelled: int = Field(32, ge=0, description="Target images on which the label-free criteria are measured.")
    concurrency: int = Field(1, gt=0, description="Trials at once.")
    resources: Resources = Resources()
    set: dict[str, Any] = Field(default_factory=dict, description="Dotted key -> value, for every trial.")
    seed: int = Field(0, ge=0, description="Of the draws.")

    @field_validator("search", "variants", "set", mode="before")
    @classmethod
    def _keys(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name == "variants" and isinstance(value, list):
            if twice := [str(name) for name in value if value.count(name) > 1]:
                raise ValueError(f"{twice[0]} is listed twice")
            value = {name: _settings_of(name) for name in value}
        if isinstance(value, dict):
            keys: Iterable[Any] = value
            if info.field_name == "variants":
                keys = itertools.chain.from_iterable(v for v in value.values() if isinstance(v, dict))
            for key in keys:
                (check_set if info.field_name == "set" else check_varied)(str(key))
        return value

    @field_validator("method")
    @classmethod
    def _method(cls, value: str | None) -> str | None:
        if value is not None:
            _settings_of(value)
        return value

    @field_validator("metric")
    @classmethod
    def _metric(cls, value: str) -> str:
        return one_of(value, CRITERIA)

    @field_validator("mode")
    @classmethod
    def _mode(cls, value: str | None, info: ValidationInfo) -> str | None:
        metric = info.data.get("metric")
        if metric is None:  # the metric itself was refused
            return value
        mode = CRITERIA[metric].mode
        if value not in (None, mode):
            better = "larger" if mode == "max" else "smaller"
            raise ValueError(f"{metric} is better the {better} it is; write {mode}, or leave mode out")
        return mode

    @field_validator("algorithm", mode="before")
    @classmethod
    def _algorithm(cls, value: Any) -> str:
        return one_of(value, ALGORITHMS)

    @field_validator("scheduler", mode="before")
    @classmethod
    def _scheduler(cls, value: Any) -> Any:
        if isinstance(value, Scheduler):
            return value
        named = {value: {}} if isinstance(value, str) else value
        if not isinstance(named, dict) or len(named) != 1:
            raise ValueError(f"name one of none, {', '.join(Scheduler.model_fields)}")
        [(name, settings)] = named.items()
        if one_of(name, ("none", *Scheduler.model_fields)) == "none":
            if settings:
                raise ValueError("none has no settings")
            return {}
        return {name: {} if settings is None else settings}

    @field_serializer("scheduler")
    def _scheduler_to_file(self, value: Scheduler) -> Any:
        return value.model_dump(mode="json", exclude_none=True) or "none"

    @model_validator(mode="after")
    def _together(self) -> "Space":
        if not self.search and not self.variants:
            raise ValueError("nothing to search; name at least one key under search, or variants")
        places = [("search", self.search), ("set", self.set), ("variants", dict.fromkeys(self._variant_keys()))]
        for (one, some), (other, others) in itertools.combinations(places, 2):
            for key in some.keys() & others.keys():
                raise ValueError(f"{key} is both in {one} and in {other}; a key has one place")
        gridded = [k for k, d in self.search.items() if d.name == "grid"] + (["variants"] if self.variants else [])
        if self.algorithm == "grid":
            drawn = next((k for k, d in self.search.items() if d.name != "grid"), None)
            if drawn:
                raise ValueError(
                    f"{drawn}: algorithm grid takes no {self.search[drawn].name}; write {{grid: [value, …]}}"
                )
            if self.trials is not None:
                raise ValueError(f"trials {self.trials}: a grid has as many as it has, here {self.count}; leave it out")
        elif gridded:
            raise ValueError(f"{gridded[0]} with algorithm {self.algorithm}: a grid needs algorithm grid")
        elif self.trials is None:
            raise ValueError(f"trials is missing; algorithm {self.algorithm} needs a number")
        if not self.unlabelled and not self.criterion.needs_labels:
            raise ValueError(f"metric {self.metric} is measured on unlabelled images; unlabelled 0 leaves it none")
        return self

    def _variant_keys(self) -> list[str]:
        return [key for settings in self.variants.values() for key in settings]

    @property
    def criterion(self) -> Criterion:
        """The metric's key in records, and whether more of it is better."""
        return CRITERIA[self.metric]

    @property
    def count(self) -> int:
        """The number of trials of the search."""
        if self.algorithm == "grid":
            return len(self.grid_values())
        assert self.trials is not None, "the validation refuses such a space"
        return self.trials

    def grid_values(self) -> list[dict[str, Any]]:
        """The values of each trial of a grid. The last key changes fastest; the key "variant" names the variant."""
        axes: dict[str, Iterable[Any]] = {VARIANT: self.variants} if self.variants else {}
        axes |= {key: distribution.arguments for key, distribution in self.search.items()}
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]

    def trial_config(self, base: Config, values: Mapping[str, Any]) -> Config:
        """The recipe of the trial with these `values`: drawn for the keys of `search`, or those of `grid_values`.

        Raises:
            UserError: the config tree refuses a value or a combination of values.
        """
        expected = {*self.search, *([VARIANT] if self.variants else [])}
        assert values.keys() == expected, f"values for {sorted(values)}, expected {sorted(expected)}"
        drawn = dict(values)
        settings = self.variants[drawn.pop(VARIANT)] if self.variants else {}
        return self._applied(base, {**settings, **drawn})

    def _applied(self, base: Config, settings: Mapping[str, Any]) -> Config:
        """The recipe with the space's own settings, and then with those of a trial."""
        config = changed(base, method(self.method).settings, "method") if self.method else base
        config = changed(config, self.set, "set")
        decided = {
            # Rounded up: a trial has at most `evaluations` evaluations.
            "evaluation.every": -(-config.schedule.steps // self.evaluations),
            "evaluation.unlabelled": self.unlabelled,
            **{f"cluster.{k}": v for k, v in self.resources.model_dump(exclude_none=True).items()},
        }
        config = changed(config, {**decided, **settings}, "search")
        _ = config.world_sizes  # raises where the batch does not divide
        return config

    def check(self, base: Config) -> None:
        """Try the whole space on a recipe before anything starts.

        Raises:
            UserError: the config tree refuses the end of a range, a value, or a combination of a grid; the recipe
                cannot measure the metric; there are more evaluations than steps; the scheduler can never stop a trial.
        """
        config = self._applied(base, {})
        steps, every = config.schedule.steps, config.evaluation.every
        if self.criterion.needs_labels and config.evaluation.uri is None:
            free = ", ".join(name for name, criterion in CRITERIA.items() if not criterion.needs_labels)
            raise UserError(
                f"metric {self.metric} needs labelled target images, and evaluation.uri is null in the recipe; "
                f"set it, or take one of {free}."
            )
        if self.evaluations > steps:
            raise UserError(f"evaluations {self.evaluations}: a trial has only {steps} steps; take at most {steps}.")
        early = self.scheduler.asha or self.scheduler.median
        last = (steps - 1) // every * every  # the step of the last evaluation before the end
        if early and early.grace * steps > last:
            raise UserError(
                f"scheduler with grace {early.grace} and evaluations {self.evaluations} can stop no trial: between "
                f"{early.grace:.0%} of the steps and the end there is no evaluation; take more, or scheduler none."
            )
        if self.algorithm == "grid":
            trials: dict[str, Mapping[str, Any]] = {}
            for values in self.grid_values():
                same = trials.setdefault(self.trial_config(base, values).model_dump_json(), values)
                if same is not values:
                    raise UserError(
                        "two trials of the grid would be the same over this recipe: "
                        f"{' and '.join(short(dict(v)) for v in (same, values))}; take one of them away."
                    )
        else:
            for key, distribution in self.search.items():
                for value in distribution.examples():
                    self._applied(base, {key: value})

    def identity(self) -> dict[str, Any]:
        """The settings that decide the trials and their results, by dotted name. The same search has the same ones."""
        tree = self.model_dump(mode="json", exclude={"about", "concurrency", "resources"})
        flat: dict[str, Any] = {}
        for name, value in tree.items():
            if name == "method" and value is None:
                continue  # searches of before it was a key are the same ones
            if name in ("search", "variants", "set"):
                flat |= {f"{name}.{key}": below for key, below in value.items()}
            else:
                flat[name] = value
        # Draws and grids follow the order of the keys.
        return flat | {"order": [*self.variants, *self.search]}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _settings_of(name: Any) -> dict[str, Any]:
    """The settings of a method. Raises ValueError for an unknown one."""
    try:
        return method(str(name)).settings
    except UserError as error:
        raise ValueError(str(error).rstrip(".")) from None
