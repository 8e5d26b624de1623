"""Which values are tried next: drawn, out of a grid, or proposed by a sampler that learns from the trials so far."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from ray import tune

from plca_dist.search.space import Distribution, Space
from plca_dist.search.trials import Trial, score
from plca_dist.training.metrics import STEP


class Proposals(Protocol):
    """Values for one trial after another, and what became of them."""

    def propose(self, number: int) -> dict[str, Any] | None:
        """Values of the `number`-th trial, from 0; None: there are no more."""

    def told(self, trial: Trial) -> None:
        """The trial has ended."""


def proposals(space: Space, known: Sequence[Trial]) -> Proposals:
    """How the space's algorithm proposes, given the trials that a launch before this one began."""
    if space.algorithm == "optuna":
        return _Sampler(space, known)
    return _Listed(space)


class _Listed:
    """A grid, or draws: the k-th trial's values depend on k alone, whatever was interrupted."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._grid = space.grid_values() if space.algorithm == "grid" else None

    def propose(self, number: int) -> dict[str, Any] | None:
        if self._grid is not None:
            return self._grid[number] if number < len(self._grid) else None
        return draw(self._space, number) if number < self._space.count else None

    def told(self, trial: Trial) -> None:
        """Nothing is learnt from it."""


def trial_name(number: int) -> str:
    """The directory of the `number`-th trial; such names sort as their numbers do, up to a thousand."""
    return f"trial-{number:03d}"


def draw(space: Space, number: int) -> dict[str, Any]:
    """The values of the `number`-th random trial, each from its distribution in `ray.tune`."""
    seeds = np.random.SeedSequence([space.seed, number]).generate_state(1)
    rng = np.random.RandomState(seeds)
    found = {}
    for key, distribution in space.search.items():
        domain = getattr(tune, distribution.name)(*_arguments(distribution))
        value = domain.sample(random_state=rng)
        found[key] = value.item() if isinstance(value, np.generic) else value
    return found


class _Sampler:
    """Optuna's TPE, told of every trial; one of a former launch is told as if it had just ended.

    A trial that was stopped counts as pruned, with the score it had at the step where it stopped.
    """

    def __init__(self, space: Space, known: Sequence[Trial]) -> None:
        self._space = space
        self._distributions = {key: _distribution(d) for key, d in space.search.items()}
        # Started again, the sampler must not repeat its first draws.
        sampler = optuna.samplers.TPESampler(seed=space.seed + len(known), constant_liar=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        most = space.criterion.mode == "max"
        self._study = optuna.create_study(direction="maximize" if most else "minimize", sampler=sampler)
        self._asked: dict[str, optuna.Trial] = {}
        for trial in known:
            self._study.enqueue_trial(dict(trial.values))
            self._asked[trial.name] = self._study.ask(self._distributions)
            if trial.state in ("finished", "stopped", "failed"):
                self.told(trial)

    def propose(self, number: int) -> dict[str, Any] | None:
        if number >= self._space.count:
            return None
        asked = self._study.ask(self._distributions)
        self._asked[trial_name(number)] = asked
        return dict(asked.params)

    def told(self, trial: Trial) -> None:
        asked = self._asked.pop(trial.name)
        key = self._space.criterion.key
        for record in trial.curve:
            if key in record and trial.state == "stopped":
                asked.report(record[key], record[STEP])
        value = score(trial, self._space.metric)
        if trial.state == "finished" and value is not None:
            self._study.tell(asked, value)
        else:
            pruned = trial.state == "stopped" and value is not None
            self._study.tell(asked, state=optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.FAIL)


def _distribution(distribution: Distribution) -> optuna.distributions.BaseDistribution:
    low, high, *q = distribution.arguments if distribution.name != "choice" else (0, 0)
    match distribution.name:
        case "uniform":
            return optuna.distributions.FloatDistribution(low, high)
        case "loguniform":
            return optuna.distributions.FloatDistribution(low, high, log=True)
        case "quniform":
            return optuna.distributions.FloatDistribution(low, high, step=q[0])
        case "randint":
            return optuna.distributions.IntDistribution(low, high - 1)
        case "choice":
            return optuna.distributions.CategoricalDistribution(distribution.arguments)
    raise AssertionError(distribution.name)


def _arguments(distribution: Distribution) -> Iterator[Any]:
    """As `ray.tune` takes them: a choice is one argument."""
    yield from [list(distribution.arguments)] if distribution.name == "choice" else distribution.arguments
