"""One HTML page about one or several runs, made of the pieces of `report.markup`.

All text that comes from outside is escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from plca_dist.data.labels import LabelSet
from plca_dist.report.markup import document, figures, image, note, row, section, table, tile, tiles
from plca_dist.report.panels import ENLARGED_BELOW, Column, png, reduced
from plca_dist.report.tables import ABSENT, ScoreDict, mean_of, percent, points, tabulate


@dataclass(frozen=True)
class Run:
    """What was run: its name and facts about it, in the order to show them."""

    name: str
    facts: Mapping[str, object]


@dataclass(frozen=True)
class Scores:
    """Scores of one label set side by side (see `tables.tabulate`); the page's headline where they come first."""

    labels: LabelSet
    columns: Mapping[str, ScoreDict]
    difference: tuple[str, str] | None = None
    title: str = "IoU per class"


@dataclass(frozen=True)
class Panel:
    """Pictures of one image in columns (see `panels.columns`)."""

    columns: Sequence[Column]
    caption: str = ""


def page(
    title: str,
    *,
    runs: Sequence[Run],
    scores: Sequence[Scores] = (),
    panels: Sequence[Panel] = (),
    curves: Mapping[str, bytes] | None = None,
    lead: str = "",
) -> str:
    """The page as a string.

    Args:
        title: the heading.
        runs: what was run; their facts stand side by side.
        scores: tables; the means of the first are the headline, and its label set is the legend of the panels.
        panels: a row of pictures each.
        curves: PNG files by what they show (see `curves.charts`).
        lead: a sentence or two under the heading.

    Raises UserError for scores that do not fit their label set.
    """
    sections = [
        _headline(scores[0]) if scores else "",
        section("What was run", _facts(runs)) if runs else "",
        *(section(s.title, _class_table(s)) for s in scores),
        section("Pictures", _panels(panels, scores[0].labels if scores else None)) if panels else "",
        section("Curves", figures(curves)) if curves else "",
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
    """A column per run; what all of them share is said once."""
    rows = []
    for key in dict.fromkeys(key for run in runs for key in run.facts):
        values = [escape(str(run.facts.get(key, ABSENT))) for run in runs]
        if len(runs) > 1 and len(set(values)) == 1:
            rows.append(f'<tr><td>{escape(key)}</td><td colspan="{len(runs)}">{values[0]}</td></tr>')
        else:
            rows.append(row("td", [escape(key), *values]))
    return table(row("th", ["", *(escape(run.name) for run in runs)]), rows, kind="facts")


def _class_table(scores: Scores) -> str:
    cells = tabulate(scores.columns, scores.labels, scores.difference)

    def marked(texts: tuple[str, ...], chip: str = "") -> list[str]:
        name, *numbers = map(escape, texts)
        if scores.difference:
            numbers[-1] = f'<span class="{_tone(texts[-1])}">{numbers[-1]}</span>'
        return [chip + name, *numbers]

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


def _picture(title: str, picture_HW3: np.ndarray, caption: str) -> str:
    small = reduced(picture_HW3)
    # A tiny picture is enlarged by the browser: squares, not blur. A photograph is reduced, and must not be sampled.
    sharp = small.width < ENLARGED_BELOW
    shown = image(png(small), f"{title} {caption}".strip(), "sharp" if sharp else "")
    return f"<figure>{shown}<figcaption>{escape(title)}</figcaption></figure>"


def _legend(labels: LabelSet) -> str:
    entries = [*zip(labels.classes, labels.palette, strict=True), ("ignored", (0, 0, 0))]
    items = "".join(f"<li>{_chip(colour)}{escape(name)}</li>" for name, colour in entries)
    return f'<ul class="legend">{items}</ul>\n'


def _chip(colour: tuple[int, int, int]) -> str:
    return f'<i style="background:rgb{colour}"></i>'


def _tone(difference: str) -> str:
    return {"+": "up", "-": "down"}.get(difference[0], "even")
