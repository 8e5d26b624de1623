"""The values of the next trial: drawn at random, taken from a grid, or proposed by a sampler that learns."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from ray import tune

from plca_dist.search.space import Distribution, Space
from plca_dist.search.trials import Trial, score
from plca_dist.training.metrics import STEP


class Proposals(Protocol):
    """Proposes values for one trial after another, and hears of each trial's end."""

    def propose(self, number: int) -> dict[str, Any] | None:
        """The values of the `number`-th trial, counted from 0; None where there are no more."""

    def tell(self, trial: Trial) -> None:
        """Take note that the trial has ended."""


def proposals(space: Space, known: Sequence[Trial]) -> Proposals:
    """The proposals of the space's algorithm; `known` are the trials of earlier launches."""
    if space.algorithm == "optuna":
        return _Sampler(space, known)
    return _Listed(space)


class _Listed:
    """A grid, or random draws. The values of the k-th trial depend on k alone, so an interruption changes nothing."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._grid = space.grid_values() if space.algorithm == "grid" else None

    def propose(self, number: int) -> dict[str, Any] | None:
        if self._grid is not None:
            return self._grid[number] if number < len(self._grid) else None
        return draw(self._space, number) if number < self._space.count else None

    def tell(self, trial: Trial) -> None:
        """A grid and random draws learn nothing from a trial."""


def trial_name(number: int) -> str:
    """The directory of the `number`-th trial. Up to a thousand trials, names sort like their numbers."""
    return f"trial-{number:03d}"


def draw(space: Space, number: int) -> dict[str, Any]:
    """The values of the `number`-th random trial, each from its distribution in `ray.tune`."""
    seeds = np.random.SeedSequence([space.seed, number]).generate_state(1)
    rng = np.random.RandomState(seeds)
    values = {}
    for key, distribution in space.search.items():
        domain = getattr(tune, distribution.name)(*_arguments(distribution))
        value = domain.sample(random_state=rng)
        values[key] = value.item() if isinstance(value, np.generic) else value
    return values


class _Sampler:
    """Optuna's TPE sampler. It hears of every trial; at the start, of those of earlier launches.

    A stopped trial counts as pruned, with its score at the step where it stopped.
    """

    def __init__(self, space: Space, known: Sequence[Trial]) -> None:
        self._space = space
        self._distributions = {key: _distribution(d) for key, d in space.search.items()}
        # The seed counts the known trials: a sampler that starts again must not repeat its first draws.
        sampler = optuna.samplers.TPESampler(seed=space.seed + len(known), constant_liar=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        more_is_better = space.criterion.mode == "max"
        self._study = optuna.create_study(direction="maximize" if more_is_better else "minimize", sampler=sampler)
        self._asked: dict[str, optuna.Trial] = {}
        for trial in known:
            self._study.enqueue_trial(dict(trial.values))
            self._asked[trial.name] = self._study.ask(self._distributions)
            if trial.state in ("finished", "stopped", "failed"):
                self.tell(trial)

    def propose(self, number: int) -> dict[str, Any] | None:
        if number >= self._space.count:
            return None
        asked = self._study.ask(self._distributions)
        self._asked[trial_name(number)] = asked
        return dict(asked.params)

    def tell(self, trial: Trial) -> None:
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
    """The arguments of the distribution in `ray.tune`, where the values of a choice are one argument."""
    yield from [list(distribution.arguments)] if distribution.name == "choice" else distribution.arguments
