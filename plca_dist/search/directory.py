"""A search is its directory: its space, the recipe it varies, and an ordinary run for every trial.

    <storage>/<name>/space.yaml, base.yaml       what is searched, and in which recipe
                     trials/trial-000/           a run as `plca train` leaves it, and the trial's state, a file
                                                 trial-00000001.json for each launch of the search
                     best.yaml, trials.csv, index.html

All that is known of a trial stands in its own directory, so a search continues from its directory alone. Ray Tune keeps
no state.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.messages import Record
from plca_dist.parsing import read_json, read_text
from plca_dist.run.directory import check_name, continuing, differences, open_run, portable, recorded
from plca_dist.run.lease import Lease
from plca_dist.run_files import BASE, RECIPE, SPACE, TRIALS, json_bytes, launch_of_state, numbers, trial_state
from plca_dist.search.samplers import draw
from plca_dist.search.space import Space, parse_space
from plca_dist.search.trials import State, Trial
from plca_dist.storage import Store, probe
from plca_dist.training.attempts import evaluation_of
from plca_dist.training.checkpoint.survey import committed
from plca_dist.training.metrics import CRITERIA, STEP
from plca_dist.training.metrics_log import read_records
from plca_dist.training.result import has_result


@dataclass(frozen=True)
class Search:
    """A search's directory, its space, and the recipe that it varies.

    Attributes:
        generation: of the lease of this launch, if it holds one.
    """

    name: str
    store: Store
    space: Space
    base: Config
    generation: int = 0

    def held(self, lease: Lease) -> "Search":
        """The same search for the launch that holds the lease: its store refuses every change once that is lost."""
        return replace(self, store=lease.store, generation=lease.generation)

    @property
    def trials(self) -> Store:
        return self.store.child(TRIALS)

    def config(self, values: Mapping[str, Any]) -> Config:
        """The recipe of the trial with these values: a run below `trials/`."""
        config = self.space.trial_config(self.base, values)
        storage = config.storage.model_copy(update={"uri": self.trials.uri})
        return config.model_copy(update={"storage": storage})

    def best_recipe(self, trial: Trial) -> Config:
        """The trial's recipe; what does not change the result (cluster, storage, …) is as in the searched recipe."""
        config = self.space.trial_config(self.base, trial.values)
        free = ("checkpoint", "storage", "log", "evaluation")
        about = self.base.about.model_copy(update={"summary": f"{trial.name} of search {self.name}"})
        best = config.model_copy(update={name: getattr(self.base, name) for name in free} | {"about": about})
        on_cluster = best.model_copy(update={"cluster": self.base.cluster})
        try:
            _ = on_cluster.world_sizes
        except UserError:  # the space set another batch, which the recipe's workers cannot share
            return best
        return on_cluster

    def any_values(self) -> dict[str, Any]:
        """The values of some trial, to find what all trials have in common."""
        return self.space.grid_values()[0] if self.space.algorithm == "grid" else draw(self.space, 0)

    def claim(self) -> None:
        """Create the files that make the directory this search's. Only the launch that holds the lease may call it."""
        self.store.create(BASE, self.base.to_yaml().encode())
        self.store.create(SPACE, self.space.to_yaml().encode())

    def record(self, trial: Trial) -> None:
        """Write the state of a trial, and its curve: the metrics of its run may have the curve later, or never."""
        kept = {k: getattr(trial, k) for k in ("state", "step", "note", "seconds")}
        content = {"values": dict(trial.values), **kept, "curve": [dict(r) for r in trial.curve]}
        self.store.write(f"{TRIALS}/{trial.name}/{trial_state(self.generation)}", json_bytes(content))

    def why_unscored(self, name: str) -> str:
        """Why the last evaluation of a trial has no mIoU; empty where it has one, or is of another kind."""
        return str((evaluation_of(self.trials.child(name), self.base.label_set) or {}).get("note", ""))

    def read(self) -> list[Trial]:
        """All trials so far, in the order in which they were drawn. Raises UserError where one's result is damaged."""
        states: dict[str, tuple[int, str]] = {}
        for entry in self.store.list(TRIALS):
            _, name, file = entry.name.split("/", 2) if entry.name.count("/") > 1 else ("", "", "")
            if (launch := launch_of_state(file)) is not None:
                states[name] = max((launch, file), states.get(name, (0, "")))
        return [self._trial(name, state) for name, (_, state) in sorted(states.items())]

    def _trial(self, name: str, state: str) -> Trial:
        run = self.trials.child(name)
        kept = read_json(run, state, _state, "put a sound copy there, or take it away to run the trial again")
        trial = Trial(
            name, kept["values"], kept["state"], kept["step"], self.config(kept["values"]).schedule.steps,
            max(kept["curve"], curve_of(run), key=len), kept["note"], kept["seconds"],
        )  # fmt: skip
        # The run's own files decide: it may have ended just before a kill, and a stopped trial goes on for some steps.
        if has_result(run):
            return replace(trial, state="finished", step=trial.steps)
        newest = next(iter(committed(run)), None)
        return replace(trial, step=max(trial.step, newest.step if newest else 0))


def open_search(space: Space, base: Config, name: str) -> Search:
    """Check everything that can be checked before anything starts; nothing is written.

    Raises:
        UserError: as `Space.check` and `open_run` do; or a search of this name over another space or recipe.
    """
    check_name(name)
    base = portable(base)
    space.check(base)
    store = probe(base.location(base.storage.uri)).child(name)
    if store.exists(RECIPE):
        raise UserError(f"{store.uri} is a run, and a search cannot be written into it; give another --name.")
    base = continuing(base, recorded(store, BASE) if store.exists(SPACE) else None)
    search = Search(name, store, space, base)
    if store.exists(SPACE):
        _compare(search)
    config = search.config(search.any_values())
    if not isinstance(config.cluster.workers, int):
        raise UserError(
            f"cluster.workers = {list(config.cluster.workers)}: trials side by side cannot share a cluster that each "
            "would fill; set resources.workers in the space to a number."
        )
    open_run(config, "any")  # raises for what no trial could use
    return search


def _state(kept: Any) -> dict[str, Any]:
    """The state of a trial as `Search.record` wrote it. Raises one of many exceptions for anything else."""
    state = {**kept, "values": dict(kept["values"]), "curve": [numbers(record) for record in kept["curve"]]}
    written = [kept["step"], *(record[STEP] for record in state["curve"])]
    written += [value for record in state["curve"] for value in record.values()]
    written += [] if kept["seconds"] is None else [kept["seconds"]]
    if (
        not all(isinstance(number, int | float) for number in written)
        or not isinstance(kept["note"], str)
        or kept["state"] not in get_args(State)
    ):
        raise ValueError("it is no state of a trial")
    return state


def curve_of(run: Store) -> list[Record]:
    """The evaluations among a run's records."""
    keys = {criterion.key for criterion in CRITERIA.values()}
    return [r for r in read_records(run) if keys & r.keys()]


def number_of(trial: Trial) -> int:
    match = re.fullmatch(r"trial-(\d+)", trial.name)
    assert match
    return int(match[1])


def _compare(search: Search) -> None:
    there = f"{search.store.uri}/{SPACE}"
    theirs = parse_space(read_text(search.store, SPACE), where=there)
    base = recorded(search.store, BASE)
    different = differences(theirs.identity(), search.space.identity())
    different += differences(base.identity(), search.base.identity())
    if different:
        raise UserError(
            f"search {search.store.uri} exists with another space or recipe: {'; '.join(different)}. "
            "Take another --name, or give those it was started with."
        )
