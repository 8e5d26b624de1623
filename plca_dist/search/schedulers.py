"""Ray Tune's schedulers, which may stop a trial early. They know a trial by its own name."""

import math
from collections.abc import Sequence
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from plca_dist.ray_cluster.internals.tune import Trial as TuneTrial
from plca_dist.ray_cluster.internals.tune import actor_of, stand_in
from plca_dist.search.space import Space
from plca_dist.search.trainable import LEFT
from plca_dist.search.trials import Trial
from plca_dist.training.metrics import STEP


def scheduler(space: Space, steps: int, known: Sequence[Trial]) -> TrialScheduler:
    """The space's scheduler for trials of `steps`, having seen the curves of the trials of a former launch."""
    common: dict[str, Any] = {"time_attr": STEP, "metric": space.metric, "mode": space.criterion.mode}
    if asha := space.scheduler.asha:
        made = AsyncHyperBandScheduler(
            **common,
            max_t=steps,
            grace_period=max(1, round(asha.grace * steps)),
            reduction_factor=asha.reduction,
            stop_last_trials=False,  # they would lack the weights that they are about to leave
        )
    elif median := space.scheduler.median:
        made = MedianStoppingRule(
            **common,
            grace_period=median.grace * steps,
            min_samples_required=median.min_trials,
            min_time_slice=math.inf,  # it would pause trials while there are too few to compare: a start-up each time
        )
    else:
        return FIFOScheduler()
    by_name = _ByName(made, space.metric)
    for trial in known:
        measured = [r for r in trial.curve if space.criterion.key in r]
        by_name.replay(trial, [{STEP: r[STEP], space.metric: r[space.criterion.key]} for r in measured])
    return by_name


class _ByName(FIFOScheduler):
    """A scheduler that knows a trial again when it comes back in another process or launch.

    Tune gives such a trial a new identity. Counted twice, the trial would be compared with itself, and judged again at
    rungs that it has passed. Also, Tune only sets a stopped trial aside; this scheduler tells it to leave.
    """

    def __init__(self, inner: TrialScheduler, metric: str) -> None:
        super().__init__()
        self._inner, self._metric_name = inner, metric
        self._same: dict[str, TuneTrial] = {}

    def replay(self, trial: Trial, results: Sequence[dict[str, Any]]) -> None:
        """Give the inner scheduler the evaluations that a former launch made of the trial."""
        seen = self._of(trial.name)
        self._inner.on_trial_add(None, seen)
        for result in results:
            self._inner.on_trial_result(None, seen, result)
        if results and trial.state in ("finished", "stopped"):
            self._inner.on_trial_complete(None, seen, results[-1])

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._inner.on_trial_add(tune_controller, self._of(trial.config["trial"]))

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        decision = self._inner.on_trial_result(tune_controller, self._of(trial.config["trial"]), result)
        if decision == TrialScheduler.STOP and (actor := actor_of(trial)):
            actor.leave.remote()
        return str(decision)

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        # A trial that leaves comes back; one that failed before its first evaluation cannot be compared.
        if self._metric_name in result and not result.get(LEFT):
            self._inner.on_trial_complete(tune_controller, self._of(trial.config["trial"]), result)

    def _of(self, name: str) -> TuneTrial:
        if name not in self._same:
            self._same[name] = stand_in()
        return self._same[name]
