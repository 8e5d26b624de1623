"""One HTML page about one or several runs: self-contained, readable on a phone and in the dark, without scripts.

Everything is in the page itself (pictures as data URIs, style inline), so it can be mailed, put in a bucket, or opened
from a disk without a network. All text that comes from outside is escaped.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from plca_dist.data.labels import LabelSet
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
        _section("What was run", _facts(runs)) if runs else "",
        *(_section(s.title, _class_table(s)) for s in scores),
        _section("Pictures", _panels(panels, scores[0].labels if scores else None)) if panels else "",
        _section("Curves", _curves(curves)) if curves else "",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n" + (f'<p class="lead">{escape(lead)}</p>\n' if lead else "")
        + "\n".join(filter(None, sections)) + "\n</main>\n</body>\n</html>\n"
    )  # fmt: skip


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def _headline(scores: Scores) -> str:
    """Large: the mIoU of every column, or of the two that are compared and how far they are apart."""
    titles = scores.difference or tuple(scores.columns)
    tiles = [_tile(title, scores.columns[title], scores.labels) for title in titles]
    if scores.difference:
        before, after = (scores.columns[title]["miou"] for title in scores.difference)
        text = points(before, after)
        tiles.append(
            f'<div class="tile"><span class="name">difference</span>'
            f'<span class="number {_tone(text)}">{text}</span><span class="more">points mIoU</span></div>'
        )
    return f'<div class="tiles">\n{chr(10).join(tiles)}\n</div>'


def _tile(title: str, score: ScoreDict, labels: LabelSet) -> str:
    classes = sum(value is not None for value in score["iou"].values())
    more = [f"mIoU, {classes} classes", *(f"{name} {percent(mean_of(score, name))}" for name in labels.means)]
    return (
        f'<div class="tile"><span class="name">{escape(title)}</span>'
        f'<span class="number">{percent(score["miou"])}</span>'
        f'<span class="more">{escape(" · ".join(more))}</span></div>'
    )


def _facts(runs: Sequence[Run]) -> str:
    """A column per run; what all of them share is said once."""
    rows = []
    for key in dict.fromkeys(key for run in runs for key in run.facts):
        values = [escape(str(run.facts.get(key, ABSENT))) for run in runs]
        if len(runs) > 1 and len(set(values)) == 1:
            rows.append(f'<tr><td>{escape(key)}</td><td colspan="{len(runs)}">{values[0]}</td></tr>')
        else:
            rows.append(_row("td", [escape(key), *values]))
    return _table(_row("th", ["", *(escape(run.name) for run in runs)]), rows, kind="facts")


def _class_table(scores: Scores) -> str:
    table = tabulate(scores.columns, scores.labels, scores.difference)

    def row(cells: tuple[str, ...], chip: str = "") -> str:
        name, *numbers = cells
        marked = [escape(n) for n in numbers]
        if scores.difference:
            marked[-1] = f'<span class="{_tone(numbers[-1])}">{marked[-1]}</span>'
        return _row("td", [chip + escape(name), *marked])

    rows = [
        *(row(cells, _chip(c)) for cells, c in zip(table.classes, scores.labels.palette, strict=True)),
        *(row(cells).replace("<tr>", '<tr class="mean">', 1) for cells in table.means),
    ]
    notes = "".join(f'\n<p class="note">{escape(note)}</p>' for note in table.notes)
    return _table(_row("th", map(escape, table.head)), rows, kind="scores") + notes


def _panels(panels: Sequence[Panel], labels: LabelSet | None) -> str:
    figures = []
    for p in panels:
        columns = "\n".join(_picture(*column, p.caption) for column in p.columns)
        caption = f'<p class="note">{escape(p.caption)}</p>\n' if p.caption else ""
        figures.append(f'{caption}<div class="panel">\n{columns}\n</div>')
    return (_legend(labels) if labels else "") + "\n".join(figures)


def _picture(title: str, picture_HW3: np.ndarray, caption: str) -> str:
    small = reduced(picture_HW3)
    # A tiny picture is enlarged by the browser: squares, not blur. A photograph is reduced, and must not be sampled.
    sharp = small.width < ENLARGED_BELOW
    image = _image(png(small), f"{title} {caption}".strip(), "sharp" if sharp else "")
    return f"<figure>{image}<figcaption>{escape(title)}</figcaption></figure>"


def _legend(labels: LabelSet) -> str:
    entries = [*zip(labels.classes, labels.palette, strict=True), ("ignored", (0, 0, 0))]
    items = "".join(f"<li>{_chip(colour)}{escape(name)}</li>" for name, colour in entries)
    return f'<ul class="legend">{items}</ul>\n'


def _curves(curves: Mapping[str, bytes]) -> str:
    figures = "\n".join(f"<figure>{_image(data, title)}</figure>" for title, data in curves.items())
    return f'<div class="curves">\n{figures}\n</div>'


def _table(head: str, rows: Iterable[str], kind: str) -> str:
    body = "\n".join(rows)
    return f'<div class="wide"><table class="{kind}">\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _chip(colour: tuple[int, int, int]) -> str:
    return f'<i style="background:rgb{colour}"></i>'


def _image(data: bytes, alt: str, kind: str = "") -> str:
    return f'<img class="{kind}" alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _tone(difference: str) -> str:
    return {"+": "up", "-": "down"}.get(difference[0], "even")


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #202124; --soft: #5f6368; --line: #e3e6ea; --up: #1e7e45;
  --down: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --paper: #17191c; --ink: #e8eaed; --soft: #9aa0a6; --line: #33373c;
  --up: #6fcf97; --down: #f28b82; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .7rem; }
.lead, .note, .more { color: var(--soft); }
.lead { margin: 0 0 1rem; }
.note, figcaption { font-size: .85rem; margin: .4rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin-top: 1.2rem; }
.tile { border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; display: grid; }
.number { font-size: 2.2rem; line-height: 1.2; font-weight: 600; font-variant-numeric: tabular-nums; }
.more { font-size: .8rem; }
.up { color: var(--up); } .down { color: var(--down); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .28rem .8rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; }
th:first-child, td:first-child { padding-left: 0; }
.scores td, .facts td:first-child { white-space: nowrap; }
.facts td:first-child { color: var(--soft); }
.facts td { overflow-wrap: anywhere; }
.scores th:not(:first-child), .scores td:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
.mean td { font-weight: 600; }
i { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin-right: .5em; vertical-align: -.05em;
  outline: 1px solid var(--line); }
.legend { list-style: none; padding: 0; margin: 0 0 1rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem;
  font-size: .85rem; }
.panel, .curves { display: grid; gap: .6rem; margin-bottom: 1.2rem; }
.panel { grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); }
.curves { grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; border-radius: .3rem; }
.sharp { image-rendering: pixelated; }
figcaption { color: var(--soft); }
@media (max-width: 32rem) { th, td { padding: .25rem .4rem; } table { font-size: .84rem; } }
"""
