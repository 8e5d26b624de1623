"""One HTML page about one or several runs, from the template `report.html.jinja`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

from PIL import Image

from plca_dist.data.colours import png
from plca_dist.data.labels import LabelSet
from plca_dist.report.markup import Cell, PageTable, Row, Tile, render_page
from plca_dist.report.panels import Column
from plca_dist.report.tables import ABSENT, ScoreDict, mean_of, percent, points, tabulate
from plca_dist.run.history import Attempt
from plca_dist.terminal import duration


@dataclass(frozen=True)
class RunSummary:
    """What was run: its title, facts about it in the order to show them, and the attempts at it."""

    title: str
    facts: Mapping[str, object]
    history: Sequence[Attempt] = ()


@dataclass(frozen=True)
class ScoreTable:
    """Scores of one label set side by side (see `tables.tabulate`). The page's headline shows those of the first."""

    labels: LabelSet
    columns: Mapping[str, ScoreDict]
    difference: tuple[str, str] | None = None
    title: str = "IoU per class, %"
    paper: ScoreDict | None = None


@dataclass(frozen=True)
class Panel:
    """Pictures of one image in columns (see `panels.columns`)."""

    columns: Sequence[Column]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG file with its caption, and the section of the page where both stand."""

    section: str
    caption: str
    png: bytes


def page(
    title: str,
    *,
    runs: Sequence[RunSummary],
    scores: Sequence[ScoreTable] = (),
    panels: Sequence[Panel] = (),
    chosen: str = "",
    legend: LabelSet | None = None,
    pictures: Sequence[Picture] = (),
    curves: Mapping[str, bytes] | None = None,
    differences: Mapping[str, Sequence[str]] | None = None,
    missing: Sequence[str] = (),
    lead: str = "",
    beside: Sequence[str] = (),
) -> str:
    """The page as a string.

    Args:
        title: the heading.
        runs: what was run; their facts stand side by side.
        scores: tables; the means of the first are the headline.
        panels: a row of pictures each, in the colours of `legend`; `chosen` says how their images were chosen.
        pictures: others, below each other; those of one section follow each other.
        curves: title -> PNG file (see `curves.charts`).
        differences: keys of the recipes in which the runs differ, with the value of each run.
        missing: what could not be shown, and why.
        lead: a sentence or two under the heading.
        beside: names of the files that belong to the page; its last line, a comment, keeps them.

    Raises UserError for scores that do not fit their label set.
    """
    return render_page(
        "report/templates/report.html.jinja",
        title=title,
        lead=lead,
        tiles=_headline(scores[0]) if scores else [],
        missing=missing,
        differences=_side_by_side(runs, differences) if differences else None,
        scores=[(s.title, _class_table(s)) for s in scores],
        chosen=chosen,
        legend=[*zip(legend.classes, legend.palette, strict=True), ("ignored", (0, 0, 0))] if legend else [],
        panels=[(p.caption, [(name, png(Image.fromarray(pixels))) for name, pixels in p.columns]) for p in panels],
        picture_sections=[(name, list(group)) for name, group in groupby(pictures, lambda picture: picture.section)],
        curves=curves or {},
        facts=_facts(runs) if runs else None,
        attempts=_attempts(runs) if any(run.history for run in runs) else None,
        beside=beside,
    )


def _headline(scores: ScoreTable) -> list[Tile]:
    """The mIoU of every column; where two are compared, of these two, and their difference."""
    titles = scores.difference or tuple(scores.columns)
    tiles = [_score_tile(title, scores.columns[title], scores.labels) for title in titles]
    if scores.difference:
        before, after = (scores.columns[title]["miou"] for title in scores.difference)
        text = points(before, after)
        tiles.append(Tile("difference", text, "points mIoU", _tone(text)))
    return tiles


def _score_tile(title: str, score: ScoreDict, labels: LabelSet) -> Tile:
    classes = sum(value is not None for value in score["iou"].values())
    more = [f"mIoU, {classes} classes", *(f"{name} {percent(mean_of(score, name))}" for name in labels.means)]
    return Tile(title, percent(score["miou"]), " · ".join(more))


def _facts(runs: Sequence[RunSummary]) -> PageTable:
    keys = dict.fromkeys(key for run in runs for key in run.facts)
    return _side_by_side(runs, {key: [str(run.facts.get(key, ABSENT)) for run in runs] for key in keys})


def _side_by_side(runs: Sequence[RunSummary], values: Mapping[str, Sequence[str]]) -> PageTable:
    """A column for each run; a value that all of them share is shown once, across the columns."""
    rows = []
    for key, texts in values.items():
        shared = len(runs) > 1 and len(set(texts)) == 1
        rows.append(Row([Cell(key), Cell(texts[0], columns=len(runs))]) if shared else Row.of([key, *texts]))
    return PageTable(["", *(run.title for run in runs)], rows)


def _attempts(runs: Sequence[RunSummary]) -> PageTable:
    """A row for each attempt, with the reason for its end."""
    rows = []
    for run in runs:
        for k, a in enumerate(run.history, 1):
            began = f"{datetime.fromtimestamp(a.began, UTC):%Y-%m-%d %H:%M}"
            took = ABSENT if a.ended is None else duration(a.ended - a.began)
            steps = f"{a.step} to {'?' if a.reached is None else a.reached}"
            lost = "its driver was killed" if k < len(run.history) else "at work, or its driver was killed"
            ended = ": ".join(filter(None, [a.end or lost, a.why]))
            rows.append(Row.of([run.title, str(a.launch), began, took, steps, str(a.workers), ended]))
    return PageTable(["run", "launch", "began, UTC", "took", "steps", "workers", "ended"], rows)


def _class_table(scores: ScoreTable) -> PageTable:
    table = tabulate(scores.columns, scores.labels, scores.difference, scores.paper)
    difference = 1 + len(scores.columns)

    def row(texts: tuple[str, ...], kind: str = "", colour: tuple[int, int, int] | None = None) -> Row:
        cells = [Cell(texts[0], colour), *map(Cell, texts[1:])]
        if scores.difference:
            cells[difference] = Cell(texts[difference], tone=_tone(texts[difference]))
        return Row(cells, kind)

    classes = [row(texts, colour=colour) for texts, colour in zip(table.rows, scores.labels.palette, strict=True)]
    return PageTable(table.head, [*classes, *(row(texts, "mean") for texts in table.means)], table.notes)


def _tone(difference: str) -> str:
    return {"+": "up", "-": "down"}.get(difference[0], "even")
