"""A run is its directory: its name, its recipe, the shards it is trained on, and its results."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from plca_dist.config import Config
from plca_dist.data.order import NEWEST_CUT
from plca_dist.errors import UserError, short
from plca_dist.later_keys import LATER
from plca_dist.parsing import read_json, read_text
from plca_dist.recipe import parse
from plca_dist.run.lease import Lease
from plca_dist.run_files import DATA, RECIPE, SPACE, attempt, json_bytes
from plca_dist.sections import HUB
from plca_dist.storage import Store, absolute, probe
from plca_dist.training.attempts import evaluation_of
from plca_dist.training.build import check_network
from plca_dist.training.checkpoint.survey import survey
from plca_dist.training.dataloading import check_data
from plca_dist.training.result import has_result
from plca_dist.training.trained import beginning

#: The key of the fingerprint of `model.weights`, beside those of the domains.
WEIGHTS_MARK = "weights"


@dataclass(frozen=True)
class Run:
    """A run's directory and its settings as the workers get them.

    Attributes:
        fingerprints: domain -> fingerprint of the shards that the run trains on; `WEIGHTS_MARK` -> that of the file
            that it begins with, where there is one.
    """

    name: str
    store: Store
    config: Config
    fingerprints: dict[str, str]

    @property
    def finished(self) -> bool:
        """Raises UserError where its weight file is damaged."""
        return has_result(self.store)

    def evaluation(self) -> dict[str, Any] | None:
        """The newest one, or None where there is none yet."""
        return evaluation_of(self.store, self.config.label_set)

    def held(self, lease: Lease) -> "Run":
        """The same run for the launch that holds the lease: its store refuses every change once the lease is lost."""
        return replace(self, store=lease.store)

    def claim(self, generation: int) -> None:
        """Write the files that make the directory this run's. Only the launch that holds the lease may call it.

        A run that has no checkpoint yet takes another recipe: a launch that failed before leaves nothing taken.

        Args:
            generation: of the lease.

        Raises UserError where another launch has written another recipe there since `open_run`.
        """
        if not self._is_taken():
            self.store.write(DATA, json_bytes(self.fingerprints))
            self.store.write(RECIPE, self.config.to_yaml().encode())
        self.store.write(f"{attempt(generation)}/{RECIPE}", self.config.to_yaml().encode())

    def _is_taken(self) -> bool:
        """Whether the directory is this run's already. Raises UserError where it is that of another recipe."""
        if not self.store.exists(RECIPE):
            return False
        different = self._differences()
        if different and (self.finished or _has_checkpoints(self.store)):
            raise UserError(
                f"run {self.store.uri} exists with another recipe: {'; '.join(different)}. Give the recipe it was "
                "started with, or another --name; that one begins with these weights under --set "
                f"model.weights={self.store.uri}"
            )
        return not different

    def _differences(self) -> list[str]:
        stored = recorded(self.store, RECIPE)
        trained_on = read_json(self.store, DATA, dict, "put a sound copy there, or take another --name")
        # Runs that an earlier version began have no mark of their weights: they count as the same.
        trained_on = {WEIGHTS_MARK: self.fingerprints.get(WEIGHTS_MARK)} | trained_on
        return differences(stored.identity(), self.config.identity()) + [
            "the content of model.weights" if name == WEIGHTS_MARK else f"the {name} shards"
            for name, mark in self.fingerprints.items()
            if mark != trained_on.get(name)
        ]


def open_run(config: Config, name: str) -> Run:
    """Check everything that can be checked before anything starts; nothing is written.

    Raises:
        UserError: a store out of reach, missing or unsuitable shards or weights, a batch that does not divide, or a
            run of this name whose recipe would give another result (the differing keys are named).
    """
    check_name(name)
    config = portable(config)
    _ = config.world_sizes  # raises where the batch does not divide
    store = probe(config.location(config.storage.uri)).child(name)
    check_network(config)
    weights_mark = beginning(config)[1] if config.model.weights else None  # the workers load them again
    fingerprints = check_data(config, with_target=config.needs_target)
    if weights_mark:
        fingerprints[WEIGHTS_MARK] = weights_mark
    if store.exists(SPACE):
        raise UserError(f"{store.uri} is a search, and a run cannot be written into it; give another --name.")
    config = continuing(config, recorded(store, RECIPE) if store.exists(RECIPE) else None)
    run = Run(name, store, config, fingerprints)
    run._is_taken()
    return run


def recorded(store: Store, name: str) -> Config:
    """The recipe that a run or a search has kept under this name. Those without `order.cut` were begun with cut 1."""
    return _with_cut(parse(read_text(store, name), where=f"{store.uri}/{name}"), 1)


def continuing(config: Config, there: Config | None) -> Config:
    """`config` with the cut of the order that it goes on with: where it names none that of `there`, else the newest."""
    return _with_cut(config, (there and there.order.cut) or NEWEST_CUT)


def _with_cut(config: Config, cut: int) -> Config:
    order = config.order
    return config.model_copy(update={"order": order.model_copy(update={"cut": order.cut or cut})})


def check_name(name: str) -> None:
    """Raises UserError for a name that a run or a search cannot have."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UserError(
            f"run name {name!r} may hold letters, digits, '.', '_' and '-' only, at most 100, and starts with a letter "
            "or digit; give another with --name."
        )


def _has_checkpoints(run: Store) -> bool:
    found = survey(run, thorough=False)
    return bool(found.counting or found.damaged)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ between a directory (`there`) and a command (`here`), with both values.

    An identity lacks the `LATER` keys that have their default.
    """
    pairs = ((k, there.get(k, LATER.get(k)), here.get(k, LATER.get(k))) for k in sorted(here.keys() | there.keys()))
    return [f"{key} ({short(of_run)} there, {short(given)} here)" for key, of_run, given in pairs if of_run != given]


def portable(config: Config) -> Config:
    """The same settings for any machine: paths are absolute, and the endpoint of the environment is written in."""
    runs = config.location(config.storage.uri).absolute()
    weights = config.model.weights
    place = weights if weights in (None, HUB) else absolute(weights)
    return config.model_copy(
        update={
            "data": absolute(config.data),
            "storage": config.storage.model_copy(update={"uri": runs.uri, "endpoint": runs.endpoint}),
            "model": config.model.model_copy(update={"weights": place}),
        }
    )
