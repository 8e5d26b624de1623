"""A run is its directory: its name, its recipe, what it was trained on, and what it left."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.recipe import parse
from plca_dist.run_files import DATA, EVALUATION, RECIPE, SPACE, WEIGHTS
from plca_dist.storage import Store, absolute, file_at, probe
from plca_dist.training.build import build_objective, fresh_network
from plca_dist.training.dataloading import check_data


@dataclass(frozen=True)
class Run:
    """A run's directory and its settings as the workers get them.

    Attributes:
        prints: fingerprint of the shards of each domain that it trains on.
    """

    name: str
    store: Store
    config: Config
    prints: dict[str, str]

    @property
    def finished(self) -> bool:
        return self.store.exists(WEIGHTS)

    def evaluation(self) -> dict[str, Any] | None:
        return json.loads(self.store.read(EVALUATION)) if self.store.exists(EVALUATION) else None

    def claim(self) -> None:
        """Write what makes the directory this run's; for the one launch that may write there (see `Lease`).

        Raises UserError where another launch made it another run's since it was opened.
        """
        if self.store.exists(RECIPE):
            _compare(self.store, self.config, self.prints)
        else:
            self.store.write(DATA, json.dumps(self.prints, indent=1).encode())
        self.store.write(RECIPE, self.config.to_yaml().encode())


def open_run(config: Config, name: str) -> Run:
    """Check everything that can be checked before anything starts; nothing is written.

    Raises:
        UserError: a store out of reach, missing or unsuitable shards or weights, a batch that does not divide, or a
            run of this name whose recipe would give another result (the differing keys are named).
    """
    check_name(name)
    config = portable(config)
    _ = config.world_sizes  # for its refusal
    store = probe(config.location(config.storage.uri)).child(name)
    if config.model.weights:
        _check_weights(config, config.model.weights)
    prints = check_data(config, with_target=build_objective(config).needs_target)
    if store.exists(SPACE):
        raise UserError(f"{store.uri} is a search, and a run cannot be written into it; give another --name.")
    if store.exists(RECIPE):
        _compare(store, config, prints)
    return Run(name, store, config, prints)


def check_name(name: str) -> None:
    """Raises UserError for a name that a run or a search cannot have."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UserError(
            f"run name {name!r} may hold letters, digits, '.', '_' and '-' only, at most 100, and starts with a letter "
            "or digit; give another with --name."
        )


def _check_weights(config: Config, weights: str) -> None:
    """The workers load them too; here a file that does not fit is refused before anything is written."""
    store, file = file_at(config.location(weights))
    if not store.exists(file):
        raise UserError(
            f"model.weights: {weights} does not exist; put the file there (nothing is downloaded), "
            "or --set model.weights=null to start from random weights."
        )
    fresh_network(config)


def _compare(store: Store, config: Config, prints: dict[str, str]) -> None:
    theirs = parse(store.read(RECIPE).decode(), where=f"{store.uri}/{RECIPE}")
    different = differences(theirs.identity(), config.identity())
    trained_on = json.loads(store.read(DATA))
    different += [f"the {name} shards" for name in prints if prints[name] != trained_on.get(name)]
    if different:
        raise UserError(
            f"run {store.uri} exists with another recipe: {'; '.join(different)}. "
            "Take another --name, or give the recipe it was started with."
        )


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The keys in which what stands in a directory and what is wanted there differ, with both values."""
    return [
        f"{key} ({theirs.get(key)!r} there, {ours.get(key)!r} here)"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]


def portable(config: Config) -> Config:
    """Settings that mean the same on every machine: paths made absolute, the endpoint variable written in."""
    runs = config.location(config.storage.uri).absolute()
    weights = config.model.weights
    return config.model_copy(
        update={
            "data": absolute(config.data),
            "storage": config.storage.model_copy(update={"uri": runs.uri, "endpoint": runs.endpoint}),
            "model": config.model.model_copy(update={"weights": absolute(weights) if weights else None}),
        }
    )
