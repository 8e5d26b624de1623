"""One HTML page about a search: what it found, what each searched value did, and which criterion can be trusted."""

from collections.abc import Collection, Mapping, Sequence
from html import escape

from plca_dist.report.markup import document, figures, note, row, section, table, tile, tiles
from plca_dist.search.ablation import VARIANT, ablation_table
from plca_dist.search.charts import agreement_charts, curve_charts, value_charts
from plca_dist.search.trials import (
    LABELLED,
    SHORT,
    Trial,
    arrow,
    best,
    correlations,
    counts,
    ranked,
    rho_text,
    score,
    score_text,
    tabulate_trials,
)
from plca_dist.training.metrics import CRITERIA

_ABOUT_VALUES = (
    "A point is a trial, the best one in colour; faint ones were stopped early or still run, and are measured at the "
    "step they reached. A bar is the mean of the finished trials of a column."
)
_HOW_TO_READ = (
    "Spearman's ρ over the finished trials: +1 where the criterion puts them in the order of target mIoU, 0 where it "
    "says nothing about it, -1 where it puts them in the opposite order; with few trials chance alone goes far from 0."
)


def search_page(
    title: str,
    *,
    trials: Sequence[Trial],
    criterion: str,
    facts: Mapping[str, object],
    logarithmic: Collection[str] = (),
) -> str:
    """The page as a string; also of a search that has not ended.

    Args:
        title: the heading.
        trials: all of them, in any state.
        criterion: what the search goes by, a name of `metrics.CRITERIA`.
        facts: what was searched (space, recipe, seed), in the order to show it.
        logarithmic: searched keys whose chart gets a logarithmic axis: those drawn from a loguniform distribution.
    """
    values, curves = value_charts(trials, criterion, logarithmic), curve_charts(trials, criterion)
    sections = [
        _headline(trials, criterion),
        _variants(trials),
        section("Ranking", _ranking(trials, criterion)) if trials else "",
        section("Searched values", figures(values) + "\n" + note(_ABOUT_VALUES)) if values else "",
        section("Curves", figures(curves)) if curves else "",
        _trust(trials),
        section("What was searched", _facts(facts)) if facts else "",
    ]
    return document(title, sections, f"By {_long(criterion)}, {_aim(criterion)}.")


def _long(criterion: str) -> str:
    return criterion.replace("_", " ").replace("miou", "mIoU")


def _aim(criterion: str) -> str:
    aim = "of which more is better" if CRITERIA[criterion].mode == "max" else "of which less is better"
    return f"{aim}, measured {'with' if CRITERIA[criterion].needs_labels else 'without'} labels of the target"


def _headline(trials: Sequence[Trial], criterion: str) -> str:
    shown = []
    if (leader := best(trials, criterion)) is not None:
        found = score(leader, criterion)
        shown.append(tile(f"best: {leader.name}", score_text(found, criterion), SHORT[criterion] + arrow(criterion)))
        if criterion != LABELLED and (miou := score(leader, LABELLED)) is not None:
            most = max(s for t in trials if t.state == "finished" and (s := score(t, LABELLED)) is not None)
            shown.append(tile("its mIoU", score_text(miou, LABELLED), f"the highest of a finished trial is {most:.1f}"))
    shown.append(tile("trials", str(len(trials)), counts(trials)))
    spent, full = sum(t.step for t in trials), sum(t.steps for t in trials)
    if full:
        shown.append(tile("steps spent", f"{100 * spent / full:.0f} %", f"{spent} of {full}, all trials in full"))
    return tiles(shown)


def _ranking(trials: Sequence[Trial], criterion: str) -> str:
    cells = tabulate_trials(trials, criterion)
    leader = best(trials, criterion)
    rows = []
    for texts, trial in zip(cells.rows, ranked(trials, criterion), strict=True):
        kind = "mean" if trial == leader else "" if trial.state == "finished" else "faint"
        rows.append(row("td", map(escape, texts), kind))
    failed = [note(f"{t.name} failed: {t.note}") for t in trials if t.state == "failed" and t.note]
    return "\n".join([table(row("th", map(escape, cells.head)), rows, kind="scores"), *failed])


def _variants(trials: Sequence[Trial]) -> str:
    """The ablation table, of a search over variants."""
    if not any(VARIANT in t.values for t in trials):
        return ""
    cells = ablation_table(trials)
    rows = [row("td", map(escape, texts)) for texts in cells.rows]
    html = [table(row("th", map(escape, cells.head)), rows, kind="scores"), *map(note, cells.notes)]
    return section("By variant", "\n".join(html))


def _trust(trials: Sequence[Trial]) -> str:
    known = {name: c for name, c in correlations(trials).items() if c.n}
    if not known:
        return ""
    rows = [row("td", [_long(name), rho_text(c), str(c.n)]) for name, c in known.items()]
    head = row("th", ["criterion", "ρ with target mIoU", "trials"])
    pieces = [table(head, rows, kind="scores"), note(_HOW_TO_READ), figures(agreement_charts(trials))]
    return section("Which criterion to trust", "\n".join(pieces))


def _facts(facts: Mapping[str, object]) -> str:
    return table(row("th", ["", ""]), [row("td", [escape(k), escape(str(v))]) for k, v in facts.items()], kind="facts")
