"""Ray Tune's searcher: unfinished trials of a former launch first, then the sampler's proposals."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

from ray.tune.search import Searcher

from plca_dist.errors import UserError
from plca_dist.messages import Message, TrialEvent
from plca_dist.search.directory import Search, number_of
from plca_dist.search.samplers import Proposals, trial_name
from plca_dist.search.trainable import FAILED, LEFT, SECONDS
from plca_dist.search.trials import Trial
from plca_dist.training.metrics import CRITERIA, STEP

log = logging.getLogger(__name__)

#: Times in a row that the process of a trial may die without the trial having got further; then it has failed.
_DEATHS = 2


class TrialSearcher(Searcher):
    """The searcher that Tune asks for trials. It keeps the state of each trial in the trial's directory.

    Args:
        known: trials of a former launch; those that had not ended are tried again, from their checkpoints.
        leaving: whether the search is on its way out, so that nothing new may start.
    """

    def __init__(
        self, search: Search, known: Sequence[Trial], proposals: Proposals, leaving: Callable[[], bool]
    ) -> None:
        super().__init__(metric=search.space.metric, mode=search.space.criterion.mode)
        self._search, self._proposals, self._leaving = search, proposals, leaving
        self._trials = {t.name: replace(t, state="waiting") if t.state == "running" else t for t in known}
        self._again = deque(t.name for t in self.trials if t.state == "waiting")
        self._next = 1 + max((number_of(t) for t in known), default=-1)
        self._names: dict[str, str] = {}  # Tune's id -> name, of running trials
        self._deaths: dict[str, tuple[int, int]] = {}  # how many, and the step that was reached by then
        self._why: dict[str, str] = {}
        self._unkept: dict[str, Trial] = {}
        self._began: dict[str, float] = {}
        self._lock = Lock()  # Tune's thread, and the mailbox's

    @property
    def trials(self) -> list[Trial]:
        """All trials so far, in the order in which they were drawn."""
        return list(self._trials.values())

    @property
    def open(self) -> bool:
        """Whether trials are left to be tried, or to be tried again."""
        return any(t.state in ("waiting", "running") for t in self.trials) or self._next < self._search.space.count

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial; None if there is none now but may be one later; FINISHED if there will be none."""
        if self._leaving():
            return Searcher.FINISHED
        if self._again:
            name = self._again.popleft()
        else:
            values = self._proposals.propose(self._next)
            if values is None:
                return None if self._names else Searcher.FINISHED
            name = trial_name(self._next)
            self._next += 1
            self._trials[name] = Trial(name, values, "waiting", 0, self._search.config(values).schedule.steps, [])
        trial = self._trials[name]
        with self._lock:
            self._trials[name] = trial = replace(trial, state="running")
        self._keep(trial)
        self._names[trial_id] = name
        self._began[name] = time.monotonic()
        return {"trial": name, "settings": self._search.config(trial.values).model_dump(mode="json")}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tune reports an evaluation."""
        self._now(self._names[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune reports an end: the trial finished, failed or left, the scheduler stopped it, or its process died."""
        if trial_id not in self._names:
            return
        name, result = self._names.pop(trial_id), result or {}
        trial = self._now(name, result)
        trial = replace(trial, seconds=(trial.seconds or 0) + time.monotonic() - self._began[name])
        if error:
            deaths, reached = self._deaths.get(name, (0, -1))
            deaths = 1 if trial.step > reached else deaths + 1
            self._deaths[name] = deaths, trial.step
            if deaths <= _DEATHS:
                self._put(replace(trial, state="waiting"))
                self._again.append(name)
                return
            why = self._why.get(name, "killed, or out of memory")
            self._end(
                replace(trial, state="failed", note=f"its process died {deaths} times at step {trial.step}; {why}")
            )
        elif result.get(FAILED):
            self._end(replace(trial, state="failed", note=result[FAILED]))
        elif SECONDS in result and not result.get(LEFT):
            self._end(replace(trial, state="finished", note=self._search.why_unscored(name)))
        elif result.get(LEFT) or self._leaving():
            self._put(replace(trial, state="waiting"))  # for the next launch
        else:
            self._end(replace(trial, state="stopped"))

    def progress(self, trial_event: TrialEvent) -> None:
        """An event of a trial's run on its way."""
        name, event = trial_event
        if isinstance(event, Message):
            if event.kind == "died":
                self._why[name] = event.text
            return
        with self._lock:
            trial = self._trials.get(name)
            if trial and event[STEP] > trial.step:
                self._trials[name] = replace(trial, step=event[STEP])

    def keep(self) -> None:
        """Write the states that the store refused before. Raises UserError where it refuses again."""
        for trial in list(self._unkept.values()):
            self._search.record(trial)
            self._unkept.pop(trial.name, None)

    def _keep(self, trial: Trial) -> None:
        try:
            self._search.record(trial)
            self._unkept.pop(trial.name, None)
        except UserError as error:  # it must not end Tune; `keep` tries again
            log.warning("%s could not be recorded: %s", trial.name, error)
            self._unkept[trial.name] = trial

    def _now(self, name: str, result: dict[str, Any]) -> Trial:
        """The trial after the evaluation in `result`."""
        with self._lock:
            self._trials[name] = _with(self._trials[name], result)
            return self._trials[name]

    def _put(self, trial: Trial) -> None:
        with self._lock:
            self._trials[trial.name] = trial
        self._keep(trial)

    def _end(self, trial: Trial) -> None:
        self._put(trial)
        self._proposals.tell(trial)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a restoration that is not used."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the directories of the trials hold it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the directories of the trials hold it all."""


def _with(trial: Trial, result: dict[str, Any]) -> Trial:
    """The trial after an evaluation, by the names of the criteria. An earlier one of the same step is replaced."""
    measured = {c.key: result[name] for name, c in CRITERIA.items() if name in result}
    if not measured:
        return trial
    curve = [r for r in trial.curve if r[STEP] < result[STEP]]
    return replace(trial, step=max(trial.step, result[STEP]), curve=[*curve, {STEP: result[STEP], **measured}])
