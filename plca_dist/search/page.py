"""One HTML page about a search: its best trial, the effect of each searched value, and the criterion to trust."""

from collections.abc import Collection, Mapping, Sequence

from plca_dist.report.markup import PageTable, Row, Tile, render_page
from plca_dist.search.ablation import ablation_table
from plca_dist.search.charts import agreement_charts, curve_charts, value_charts
from plca_dist.search.space.space import VARIANT
from plca_dist.search.trials import (
    LABELLED,
    SHORT,
    Trial,
    arrow,
    best,
    correlations,
    counts,
    failures,
    ranked,
    rho_text,
    score,
    score_text,
    tabulate_trials,
)
from plca_dist.training.metrics import CRITERIA


def search_page(
    title: str,
    *,
    trials: Sequence[Trial],
    criterion: str,
    facts: Mapping[str, object],
    logarithmic: Collection[str] = (),
) -> str:
    """The page as a string; a search that has not ended has one, too.

    Args:
        title: the heading.
        trials: all of them, in any state.
        criterion: the search's criterion, a name of `metrics.CRITERIA`.
        facts: what was searched (space, recipe, seed), in the order to show it.
        logarithmic: searched keys whose chart gets a logarithmic axis: those drawn from a loguniform distribution.
    """
    return render_page(
        "search/templates/search.html.jinja",
        title=title,
        lead=f"By {_long(criterion)}, {_aim(criterion)}.",
        tiles=_headline(trials, criterion),
        variants=_variants(trials),
        ranking=_ranking(trials, criterion) if trials else None,
        value_charts=value_charts(trials, criterion, logarithmic),
        curve_charts=curve_charts(trials, criterion),
        trust=_trust(trials),
        agreement_charts=agreement_charts(trials),
        facts=PageTable(["", ""], [Row.of([name, str(value)]) for name, value in facts.items()]) if facts else None,
    )


def _long(criterion: str) -> str:
    return criterion.replace("_", " ").replace("miou", "mIoU")


def _aim(criterion: str) -> str:
    aim = "of which more is better" if CRITERIA[criterion].mode == "max" else "of which less is better"
    return f"{aim}, measured {'with' if CRITERIA[criterion].needs_labels else 'without'} labels of the target"


def _headline(trials: Sequence[Trial], criterion: str) -> list[Tile]:
    tiles = []
    if (leader := best(trials, criterion)) is not None:
        number = score_text(score(leader, criterion), criterion)
        tiles.append(Tile(f"best: {leader.name}", number, SHORT[criterion] + arrow(criterion)))
        if criterion != LABELLED and (miou := score(leader, LABELLED)) is not None:
            most = max(s for t in trials if t.state == "finished" and (s := score(t, LABELLED)) is not None)
            tiles.append(Tile("its mIoU", score_text(miou, LABELLED), f"the highest of a finished trial is {most:.1f}"))
    tiles.append(Tile("trials", str(len(trials)), counts(trials)))
    spent, full = sum(t.step for t in trials), sum(t.steps for t in trials)
    if full:
        tiles.append(Tile("steps spent", f"{100 * spent / full:.0f} %", f"{spent} of {full}, all trials in full"))
    return tiles


def _variants(trials: Sequence[Trial]) -> PageTable | None:
    """The ablation table of a search over variants; None for another search."""
    if not any(VARIANT in t.values for t in trials):
        return None
    table = ablation_table(trials)
    return PageTable(table.head, [Row.of(texts) for texts in table.rows], table.notes)


def _ranking(trials: Sequence[Trial], criterion: str) -> PageTable:
    table = tabulate_trials(trials, criterion)
    leader = best(trials, criterion)
    rows = []
    for texts, trial in zip(table.rows, ranked(trials, criterion), strict=True):
        rows.append(Row.of(texts, "mean" if trial == leader else "" if trial.state == "finished" else "faint"))
    return PageTable(table.head, rows, failures(trials))


def _trust(trials: Sequence[Trial]) -> PageTable | None:
    """The correlations with target mIoU; None where no finished trial has both a criterion and mIoU."""
    known = {name: c for name, c in correlations(trials).items() if c.n}
    rows = [Row.of([_long(name), rho_text(c), str(c.n)]) for name, c in known.items()]
    return PageTable(["criterion", "ρ with target mIoU", "trials"], rows) if rows else None
