"""The paper's Table 1 from a search whose variants are its rows: mean and deviation over seeds, beside the paper's."""

from collections.abc import Sequence
from statistics import mean, stdev

from plca_dist.errors import UserError
from plca_dist.method.objective import ABLATION
from plca_dist.method.published import PUBLISHED
from plca_dist.report.tables import ABSENT, Table, percent, points
from plca_dist.search.space.space import VARIANT
from plca_dist.search.trials import LABELLED, Trial, score, short_keys, spearman, value_text

SEED = "seed"
_BASELINE = "source_only"
#: The rows' names as the paper writes them.
NAMES = {
    "source_only": "source-only",
    "lovasz": "+ Lovász",
    "feature": "+ L_feature",
    "prediction": "+ L_prediction",
    "plca": "+ LSR (PLCA)",
    "sim_plca": "Sim-PLCA",
    "no_aggregation": "PLCA without aggregation",
}
_DATASETS = {"gtav": "paper, GTAV", "synthia": "paper, SYNTHIA"}


def ablation_table(trials: Sequence[Trial]) -> Table:
    """Target mIoU of each variant: mean ± sample deviation over seeds, n, difference to source-only, and the paper's.

    The paper's rows come first, in the paper's order. A variant of another name has its own row, and so has one with
    other values beside the seed. Only finished trials count; a row with fewer of them than there are seeds says so.

    Args:
        trials: of a grid with a "variant" among its values.

    Raises UserError where no trial has a variant.
    """
    groups: dict[str, list[Trial]] = {}
    for t in trials:
        if VARIANT in t.values:
            groups.setdefault(_group(t), []).append(t)
    if not groups:
        raise UserError("no trial has a variant: an ablation table takes a search whose space file has `variants:`.")
    if not groups.keys().isdisjoint(ABLATION):
        groups = {name: groups.pop(name, []) for name in ABLATION} | groups
    scores = {name: _scores(group) for name, group in groups.items()}
    seeds = max(map(len, groups.values()))
    means = {name: mean(values) if values else None for name, values in scores.items()}
    rows = tuple(
        (
            NAMES.get(name, name),
            _spread(scores[name]),
            _share(len(scores[name]), seeds),
            ABSENT if name == _BASELINE else points(means.get(_BASELINE), means[name]),
            *(_published(name, dataset) for dataset in _DATASETS),
        )
        for name in groups
    )
    head = ("mIoU, %", "here", "n", "difference", *_DATASETS.values())
    return Table(head, rows, notes=tuple(_notes(scores, means)))


def _scores(trials: Sequence[Trial]) -> list[float]:
    return [s for t in trials if t.state == "finished" and (s := score(t, LABELLED)) is not None]


def _group(trial: Trial) -> str:
    """The name of the trial's row: its variant, and its other values but the seed."""
    others = [key for key in trial.values if key not in (VARIANT, SEED)]
    more = [f", {k} {value_text(trial.values[key])}" for key, k in zip(others, short_keys(others), strict=True)]
    return str(trial.values[VARIANT]) + "".join(more)


def _spread(scores: Sequence[float]) -> str:
    """`41.3 ± 0.8`; one score has no deviation."""
    if len(scores) < 2:
        return percent(scores[0] if scores else None)
    return f"{mean(scores):.1f} ± {stdev(scores):.1f}"


def _share(finished: int, seeds: int) -> str:
    return str(finished) if finished == seeds else f"{finished} of {seeds}"


def _published(name: str, dataset: str) -> str:
    """`47.7 (+16.2)`: the published mIoU and its difference to the published source-only."""
    if name not in PUBLISHED:
        return ABSENT
    value, baseline = PUBLISHED[name][dataset], PUBLISHED[_BASELINE][dataset]
    return f"{value:.1f}" if name == _BASELINE else f"{value:.1f} ({points(baseline, value)})"


def _notes(scores: dict[str, list[float]], means: dict[str, float | None]) -> list[str]:
    """What the difference and ± mean, and the rank correlation of the means with the paper's."""
    notes = ["difference: of the means, to source-only"] if means.get(_BASELINE) is not None else []
    if any(len(values) > 1 for values in scores.values()):
        notes.append("±: sample standard deviation over n seeds")
    known = {name: value for name, value in means.items() if name in PUBLISHED and value is not None}
    for dataset, title in _DATASETS.items():
        rho = spearman(list(known.values()), [PUBLISHED[name][dataset] for name in known])
        if rho is not None:
            notes.append(f"rank correlation of the {len(known)} means with {title}: {rho:+.2f}")
    return notes
