"""One HTML page about one or several runs, made of the pieces of `report.markup`.

All text that comes from outside is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import groupby

import numpy as np
from PIL import Image

from plca_dist.data.colours import png
from plca_dist.data.labels import LabelSet
from plca_dist.report.markup import document, figures, image, note, row, section, table, tile, tiles
from plca_dist.report.panels import Column
from plca_dist.report.tables import ABSENT, ScoreDict, mean_of, percent, points, tabulate
from plca_dist.run.history import Attempt
from plca_dist.terminal import duration


@dataclass(frozen=True)
class Run:
    """What was run: its name, facts about it in the order to show them, and the attempts at it."""

    name: str
    facts: Mapping[str, object]
    history: Sequence[Attempt] = ()


@dataclass(frozen=True)
class Scores:
    """Scores of one label set side by side (see `tables.tabulate`); the page's headline where they come first."""

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
    """A PNG file, `caption` that says what is to be seen, and the section of the page that both belong to."""

    section: str
    caption: str
    png: bytes


def page(
    title: str,
    *,
    runs: Sequence[Run],
    scores: Sequence[Scores] = (),
    panels: Sequence[Panel] = (),
    chosen: str = "",
    legend: LabelSet | None = None,
    pictures: Sequence[Picture] = (),
    curves: Mapping[str, bytes] | None = None,
    differences: Mapping[str, Sequence[str]] | None = None,
    missing: Sequence[str] = (),
    lead: str = "",
) -> str:
    """The page as a string.

    Args:
        title: the heading.
        runs: what was run; their facts stand side by side.
        scores: tables; the means of the first are the headline.
        panels: a row of pictures each, in the colours of `legend`; `chosen` says which these are.
        pictures: others, below each other; those of one section follow each other.
        curves: PNG files by what they show (see `curves.charts`).
        differences: keys of the recipes in which the runs differ, with the value of each.
        missing: what could not be shown, and why.
        lead: a sentence or two under the heading.

    Raises UserError for scores that do not fit their label set.
    """
    sections = [
        _headline(scores[0]) if scores else "",
        section("Not here", "\n".join(map(note, missing))) if missing else "",
        section("What differs", _side_by_side(runs, differences)) if differences else "",
        *(section(s.title, _class_table(s)) for s in scores),
        section("Predictions", (note(chosen) if chosen else "") + _panels(panels, legend)) if panels else "",
        *(section(of, "\n".join(map(_captioned, group))) for of, group in groupby(pictures, lambda p: p.section)),
        section("Curves", figures(curves)) if curves else "",
        section("What was run", _facts(runs)) if runs else "",
        section("Attempts", _attempts(runs)) if any(run.history for run in runs) else "",
    ]
    return document(title, sections, lead)


def _headline(scores: Scores) -> str:
    """Large: the mIoU of every column, or of the two that are compared and how far they are apart."""
    titles = scores.difference or tuple(scores.columns)
    shown = [_score_tile(title, scores.columns[title], scores.labels) for title in titles]
    if scores.difference:
        before, after = (scores.columns[title]["miou"] for title in scores.difference)
        text = points(before, after)
        shown.append(tile("difference", text, "points mIoU", _tone(text)))
    return tiles(shown)


def _score_tile(title: str, score: ScoreDict, labels: LabelSet) -> str:
    classes = sum(value is not None for value in score["iou"].values())
    more = [f"mIoU, {classes} classes", *(f"{name} {percent(mean_of(score, name))}" for name in labels.means)]
    return tile(title, percent(score["miou"]), " · ".join(more))


def _facts(runs: Sequence[Run]) -> str:
    keys = dict.fromkeys(key for run in runs for key in run.facts)
    return _side_by_side(runs, {key: [str(run.facts.get(key, ABSENT)) for run in runs] for key in keys})


def _side_by_side(runs: Sequence[Run], values: Mapping[str, Sequence[str]]) -> str:
    """A column per run; what all of them share is said once."""
    rows = []
    for key, texts in values.items():
        if len(runs) > 1 and len(set(texts)) == 1:
            rows.append(f'<tr><td>{escape(key)}</td><td colspan="{len(runs)}">{escape(texts[0])}</td></tr>')
        else:
            rows.append(row("td", map(escape, [key, *texts])))
    return table(row("th", ["", *(escape(run.name) for run in runs)]), rows, kind="facts")


def _attempts(runs: Sequence[Run]) -> str:
    """A row for every time that workers began, and what ended it."""
    rows = []
    for run in runs:
        for k, a in enumerate(run.history, 1):
            began = f"{datetime.fromtimestamp(a.began, UTC):%Y-%m-%d %H:%M}"
            took = ABSENT if a.ended is None else duration(a.ended - a.began)
            steps = f"{a.step} to {'?' if a.reached is None else a.reached}"
            lost = "its driver was killed" if k < len(run.history) else "at work, or its driver was killed"
            ended = ": ".join(filter(None, [a.end or lost, a.why]))
            cells = [run.name, str(a.launch), began, took, steps, str(a.workers), ended]
            rows.append(row("td", map(escape, cells)))
    head = ["run", "launch", "began, UTC", "took", "steps", "workers", "ended"]
    return table(row("th", head), rows, kind="attempts")


def _class_table(scores: Scores) -> str:
    cells = tabulate(scores.columns, scores.labels, scores.difference, scores.paper)
    difference = 1 + len(scores.columns)

    def marked(texts: tuple[str, ...], chip: str = "") -> list[str]:
        shown = [chip + escape(texts[0]), *map(escape, texts[1:])]
        if scores.difference:
            shown[difference] = f'<span class="{_tone(texts[difference])}">{shown[difference]}</span>'
        return shown

    rows = [
        *(row("td", marked(texts, _chip(c))) for texts, c in zip(cells.rows, scores.labels.palette, strict=True)),
        *(row("td", marked(texts), "mean") for texts in cells.means),
    ]
    return "\n".join([table(row("th", map(escape, cells.head)), rows, kind="scores"), *map(note, cells.notes)])


def _panels(panels: Sequence[Panel], labels: LabelSet | None) -> str:
    shown = []
    for p in panels:
        columns = "\n".join(_picture(*column, p.caption) for column in p.columns)
        caption = note(p.caption) + "\n" if p.caption else ""
        shown.append(f'{caption}<div class="panel">\n{columns}\n</div>')
    return (_legend(labels) if labels else "") + "\n".join(shown)


def _captioned(picture: Picture) -> str:
    shown = image(picture.png, f"{picture.section}, {picture.caption}")
    return f"<figure>{shown}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _picture(title: str, picture_HW3: np.ndarray, caption: str) -> str:
    shown = image(png(Image.fromarray(picture_HW3)), f"{title} {caption}".strip())
    return f"<figure>{shown}<figcaption>{escape(title)}</figcaption></figure>"


def _legend(labels: LabelSet) -> str:
    entries = [*zip(labels.classes, labels.palette, strict=True), ("ignored", (0, 0, 0))]
    items = "".join(f"<li>{_chip(colour)}{escape(name)}</li>" for name, colour in entries)
    return f'<ul class="legend">{items}</ul>\n'


def _chip(colour: tuple[int, int, int]) -> str:
    return f'<i style="background:rgb{colour}"></i>'


def _tone(difference: str) -> str:
    return {"+": "up", "-": "down"}.get(difference[0], "even")
