"""The table of a search with variants: mean and deviation over seeds, beside what is published.

The variants may be the rows of the paper's Table 1, or methods side by side as in its Tables 2 and 3.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import NamedTuple

from plca_dist.errors import UserError
from plca_dist.method.objective import ABLATION
from plca_dist.method.published import METHODS, NOT_BUILT, PUBLISHED
from plca_dist.methods import methods
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
#: Of the methods: as their authors call them, and what is composed here.
TITLES = {
    "source_only": "source-only",
    "plca": "PLCA",
    **{name: row.title for name, row in METHODS.items()},
    "source_only_rare": "source-only + rare classes",
    "plca_rare": "PLCA + rare classes",
    "plca_class_mix": "PLCA + class-mix",
    "plca_class_mix_rare": "PLCA + class-mix + rare classes",
    "plca_class_mix_masked": "PLCA + class-mix + masking",
    "plca_class_mix_rare_masked": "PLCA + class-mix + rare classes + masking",
}
_DATASETS = ("gtav", "synthia")


class _Kind(NamedTuple):
    """What the tables of an ablation and of methods differ in.

    Attributes:
        names: of the rows, by variant.
        columns: titles of what is published.
        published: (variant, data set) -> the cell.
        compared: whether the order of the rows is compared with the published one.
        closing: rows of what did not run.
    """

    names: Mapping[str, str]
    columns: tuple[str, str]
    published: Callable[[str, str], str]
    compared: bool = True
    closing: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


def ablation_table(trials: Sequence[Trial]) -> Table:
    """Target mIoU of each variant: mean ± sample deviation over seeds, n, difference to source-only, and the paper's.

    The paper's rows come first, in the paper's order. A variant of another name has its own row, and so has one with
    other values beside the seed. Only finished trials count; a row with fewer of them than there are seeds says so.
    Where methods are among the variants, the rows are methods in the order of `methods.yaml`, and published ones that
    are not built here close the table.

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
    kind = _ABLATION
    if not groups.keys().isdisjoint(methods().keys() - ABLATION.keys()):
        kind = _METHODS
        groups = {name: groups.pop(name) for name in methods() if name in groups} | groups
    elif not groups.keys().isdisjoint(ABLATION):
        groups = {name: groups.pop(name, []) for name in ABLATION} | groups
    scores = {name: _scores(group) for name, group in groups.items()}
    seeds = max(map(len, groups.values()))
    means = {name: mean(values) if values else None for name, values in scores.items()}
    rows = tuple(
        (
            kind.names.get(name, name),
            _spread(scores[name]),
            _share(len(scores[name]), seeds),
            ABSENT if name == _BASELINE else points(means.get(_BASELINE), means[name]),
            *(kind.published(name, dataset) for dataset in _DATASETS),
        )
        for name in groups
    )
    notes = (*_notes(scores, means, kind), *kind.notes)
    return Table(("mIoU, %", "here", "n", "difference", *kind.columns), rows + kind.closing, notes=notes)


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


def _method_published(name: str, dataset: str) -> str:
    """The published mIoU of a method; of source-only and PLCA that of the paper's table."""
    return percent(METHODS[name].score(dataset) if name in METHODS else PUBLISHED.get(name, {}).get(dataset))


def _notes(scores: dict[str, list[float]], means: dict[str, float | None], kind: _Kind) -> list[str]:
    """What the difference and ± mean, and the rank correlation of the means with the paper's."""
    notes = ["difference: of the means, to source-only"] if means.get(_BASELINE) is not None else []
    if any(len(values) > 1 for values in scores.values()):
        notes.append("±: sample standard deviation over n seeds")
    known = {name: value for name, value in means.items() if name in PUBLISHED and value is not None}
    for dataset, title in zip(_DATASETS, kind.columns, strict=True) if kind.compared else ():
        rho = spearman(list(known.values()), [PUBLISHED[name][dataset] for name in known])
        if rho is not None:
            notes.append(f"rank correlation of the {len(known)} means with {title}: {rho:+.2f}")
    return notes


_ABLATION = _Kind(NAMES, ("paper, GTAV", "paper, SYNTHIA"), _published)
_METHODS = _Kind(
    TITLES,
    ("published, GTAV", "published, SYNTHIA"),
    _method_published,
    compared=False,
    closing=tuple((row.title, *(ABSENT,) * 3, percent(row.gtav), percent(row.synthia)) for row in NOT_BUILT.values()),
    notes=("published: other code, mostly the best snapshot by target labels; of 19 and of 16 classes",),
)
