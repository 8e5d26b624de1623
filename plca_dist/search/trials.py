"""The trials of a search: their ranking, the correlation of label-free criteria with target mIoU, and both as text.

Criteria have the names of `training.metrics.CRITERIA`. A trial's score by a criterion is the last value of it on the
trial's curve. A value that is not finite is no score: the network has diverged.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from plca_dist.report.tables import ABSENT, Table
from plca_dist.training import metrics
from plca_dist.training.metrics import CRITERIA

Curve = Sequence[Mapping[str, Any]]
State = Literal["waiting", "running", "finished", "stopped", "failed"]

LABELLED = "target_miou"
#: Titles of the criteria where room is scarce.
SHORT = {
    LABELLED: "mIoU", "neighbourhood_density": "density", "entropy": "entropy",
    "consistent_feature": "cycles feat", "consistent_prediction": "cycles pred",
}  # fmt: skip

_ORDER: dict[State, int] = {"finished": 0, "stopped": 1, "running": 2, "waiting": 3, "failed": 4}
_LEAST = 3  # trials for a rank correlation: that of two is always +1 or -1


@dataclass(frozen=True)
class Trial:
    """The state of one trial of a search.

    Attributes:
        name: its directory below `trials/`.
        values: searched key -> value; in a grid of variants, "variant" is one of the keys.
        state: "stopped" means stopped by the scheduler.
        step: the last step that it reached.
        steps: the steps of a whole trial.
        curve: evaluation records (`metrics.STEP` and any keys of the criteria), by ascending step.
        note: why it failed, or why it has no mIoU.
        seconds: from its start to its end.
    """

    name: str
    values: Mapping[str, Any]
    state: State
    step: int
    steps: int
    curve: Curve
    note: str = ""
    seconds: float | None = None


class Correlation(NamedTuple):
    """Rank correlation with target mIoU over n trials: +1 where the orders agree, None where it is undefined."""

    rho: float | None
    n: int


def score(trial: Trial, criterion: str) -> float | None:
    """The trial's last value of the criterion; None where it has no value or the last one is not finite."""
    return last_value(trial.curve, criterion)


def last_value(curve: Curve, criterion: str) -> float | None:
    """The last value of the criterion in evaluation records; None where there is none or the last one is not finite."""
    key = CRITERIA[criterion].key
    values = [float(record[key]) for record in curve if record.get(key) is not None]
    return values[-1] if values and math.isfinite(values[-1]) else None


def ranked(trials: Sequence[Trial], criterion: str) -> list[Trial]:
    """Best first: finished trials by the criterion, then stopped and running ones by step and criterion, failed last.

    A trial without a score comes behind the scored ones of its state and step. Equal trials keep their order.
    """

    def place(trial: Trial) -> tuple[int, int, float]:
        far = 0 if trial.state == "finished" else -trial.step
        return _ORDER[trial.state], far, -goodness(trial, criterion)

    return sorted(trials, key=place)


def best(trials: Sequence[Trial], criterion: str) -> Trial | None:
    """The finished trial with the best score; None where no finished trial has a score."""
    scored = [t for t in trials if t.state == "finished" and score(t, criterion) is not None]
    return ranked(scored, criterion)[0] if scored else None


def goodness(trial: Trial, criterion: str) -> float:
    """The score, negated where less is better, so that more is always better; -inf where there is none."""
    value = score(trial, criterion)
    if value is None:
        return -math.inf
    return value if CRITERIA[criterion].mode == "max" else -value


def measured(trials: Sequence[Trial], criterion: str) -> list[str]:
    """The search's own criterion, and then the others that any trial has a value of."""
    scored = [name for name in CRITERIA if any(score(t, name) is not None for t in trials)]
    return [criterion, *(name for name in scored if name != criterion)]


def correlations(trials: Sequence[Trial]) -> dict[str, Correlation]:
    """Spearman's ρ of each label-free criterion with target mIoU over the finished trials that have both.

    +1 means that the best by the criterion is the best by mIoU, also for a criterion of which less is better.
    """
    done = [t for t in trials if t.state == "finished" and score(t, LABELLED) is not None]
    by_name = {}
    for name, criterion in CRITERIA.items():
        if not criterion.needs_labels:
            both = [t for t in done if score(t, name) is not None]
            rho = spearman([goodness(t, name) for t in both], [goodness(t, LABELLED) for t in both])
            by_name[name] = Correlation(rho, len(both))
    return by_name


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's ρ: Pearson's correlation of the ranks. Equal values share the mean of their ranks.

    None below three pairs, or where one side is constant.
    """
    if len(a) < _LEAST or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    middle = (len(a) + 1) / 2  # the mean of the ranks 1…n, tied or not
    pairs = [(x - middle, y - middle) for x, y in zip(_ranks(a), _ranks(b), strict=True)]
    rho = sum(x * y for x, y in pairs) / math.sqrt(sum(x * x for x, _ in pairs) * sum(y * y for _, y in pairs))
    return max(-1.0, min(rho, 1.0))  # rounding may carry it past its bounds


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1 for the smallest value. Equal values share the mean of their ranks."""
    order = sorted(values)
    return [order.index(v) + (order.count(v) + 1) / 2 for v in values]


def trials_csv(trials: Sequence[Trial]) -> str:
    """A line for each trial, in the order given: name, state, step, searched values, criteria, seconds, note.

    Floats are written in full. A missing value is empty. Searched values other than texts are written as JSON.
    """
    keys = searched(trials)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "state", "step", *keys, *CRITERIA, "seconds", "note"])
    for t in trials:
        values = ["" if (v := t.values.get(k)) is None else v if isinstance(v, str) else json.dumps(v) for k in keys]
        writer.writerow([t.name, t.state, t.step, *values, *(score(t, c) for c in CRITERIA), t.seconds, t.note])
    return text.getvalue()


def trials_table(trials: Sequence[Trial], criterion: str) -> str:
    """The ranked trials as text; below them why trials failed, and the correlations. Ends with a newline."""
    return tabulate_trials(trials, criterion, (*failures(trials), *correlation_lines(trials))).as_text()


def failures(trials: Sequence[Trial]) -> list[str]:
    """Why trials failed, or finished without a score, a line for each trial that has a reason."""
    what = {"failed": "failed", "finished": "has no mIoU"}
    return [f"{t.name} {what[t.state]}: {t.note}" for t in trials if t.state in what and t.note]


def tabulate_trials(trials: Sequence[Trial], criterion: str, notes: Sequence[str] = ()) -> Table:
    """The ranked trials, a row each: the search's criterion, the searched values, the other criteria."""
    keys, criteria = searched(trials), measured(trials, criterion)
    head = ("trial", "state", SHORT[criterion] + arrow(criterion), *short_keys(keys), *(SHORT[c] for c in criteria[1:]))
    rows = []
    for t in ranked(trials, criterion):
        own, *others = (score_text(score(t, c), c) for c in criteria)
        rows.append((t.name, progress_text(t), own, *(value_text(t.values.get(k)) for k in keys), *others))
    return Table(head, tuple(rows), notes=tuple(notes))


def correlation_lines(trials: Sequence[Trial]) -> list[str]:
    """The correlations, a line for each criterion; none where no finished trial has both a criterion and mIoU."""
    known = {name: c for name, c in correlations(trials).items() if c.n}
    if not known:
        return []
    lines = ["rank correlation with target mIoU (+1: the same order) over finished trials:"]
    return lines + [f"  {SHORT[name]}: {rho_text(c)}, {c.n} trial{'s' * (c.n > 1)}" for name, c in known.items()]


def counts(trials: Sequence[Trial]) -> str:
    """`5 finished · 9 stopped · 1 failed`, without states that no trial has."""
    number = Counter(t.state for t in trials)
    return " · ".join(f"{number[state]} {state}" for state in _ORDER if number[state])


def searched(trials: Sequence[Trial]) -> list[str]:
    """The searched keys, in the order of the trials' values."""
    return list(dict.fromkeys(key for t in trials for key in t.values))


def short_keys(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key, or the whole key where two would read the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return [full if last.count(short) > 1 else short for full, short in zip(keys, last, strict=True)]


def arrow(criterion: str) -> str:
    """`↑` where more is better, `↓` where less is."""
    return " ↑" if CRITERIA[criterion].mode == "max" else " ↓"


def value_text(value: object) -> str:
    """A searched value: four digits of a number, a dash where the trial has none."""
    if value is None:
        return ABSENT
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def score_text(value: float | None, criterion: str) -> str:
    """mIoU in percent with one decimal, the rest with three."""
    if value is None:
        return ABSENT
    return f"{value:.1f}" if CRITERIA[criterion].key == metrics.MIOU else f"{value:.3f}"


def rho_text(correlation: Correlation) -> str:
    """`+0.83`, or why the correlation is undefined."""
    if correlation.rho is not None:
        return f"{correlation.rho:+.2f}"
    return "too few" if correlation.n < _LEAST else "all the same"


def progress_text(trial: Trial) -> str:
    """`finished`, or the state with the step that was reached: `stopped 100/300`."""
    return trial.state if trial.state in ("finished", "waiting") else f"{trial.state} {trial.step}/{trial.steps}"
