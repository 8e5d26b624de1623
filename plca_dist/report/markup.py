"""Pieces of a self-contained HTML page: readable on a phone and in the dark, without scripts and without a network.

Everything is in the page itself (pictures as data URIs, style inline), so it can be mailed, put in a bucket, or opened
from a disk. Arguments named `text` are escaped here; those named `html` (and cells) are markup already.
"""

import base64
from collections.abc import Iterable, Mapping
from html import escape


def document(text: str, sections: Iterable[str], lead: str = "") -> str:
    """The whole page under the heading `text`, with a sentence or two below it; empty sections are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(text)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(text)}</h1>\n" + (f'<p class="lead">{escape(lead)}</p>\n' if lead else "")
        + "\n".join(filter(None, sections)) + "\n</main>\n</body>\n</html>\n"
    )  # fmt: skip


def section(text: str, html: str) -> str:
    return f"<section>\n<h2>{escape(text)}</h2>\n{html}\n</section>"


def note(text: str) -> str:
    """A paragraph in small letters."""
    return f'<p class="note">{escape(text)}</p>'


def tiles(html: Iterable[str]) -> str:
    """The headline: `tile`s beside each other."""
    return f'<div class="tiles">\n{chr(10).join(html)}\n</div>'


def tile(text: str, number: str, more: str, kind: str = "") -> str:
    """A large number under its name, with what belongs to it in small letters; `kind` is a class of the number."""
    return (
        f'<div class="tile"><span class="name">{escape(text)}</span>'
        f'<span class="{f"number {kind}".strip()}">{escape(number)}</span>'
        f'<span class="more">{escape(more)}</span></div>'
    )


def table(head: str, rows: Iterable[str], kind: str) -> str:
    """A table that scrolls sideways by itself where it is too wide; `head` and `rows` as of `row`."""
    body = "\n".join(rows)
    return f'<div class="wide"><table class="{kind}">\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def row(tag: str, cells: Iterable[str], kind: str = "") -> str:
    """A row of cells (markup); `tag` is "th" in a head."""
    opened = f'<tr class="{kind}">' if kind else "<tr>"
    return opened + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def figures(pictures: Mapping[str, bytes]) -> str:
    """PNG files, as many beside each other as fit, by what they show."""
    shown = "\n".join(f"<figure>{image(data, title)}</figure>" for title, data in pictures.items())
    return f'<div class="curves">\n{shown}\n</div>'


def image(data: bytes, text: str, kind: str = "") -> str:
    """A PNG file with `text` for those who cannot see it."""
    return f'<img class="{kind}" alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #202124; --soft: #5f6368; --line: #e3e6ea; --up: #1e7e45;
  --down: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --paper: #17191c; --ink: #e8eaed; --soft: #9aa0a6; --line: #33373c;
  --up: #6fcf97; --down: #f28b82; } .curves img { filter: invert(.9) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
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
table { border-collapse: collapse; font-size: .92rem; overflow-wrap: break-word; }
th, td { padding: .28rem .8rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  max-width: 26rem; }
th { font-weight: 600; }
th:first-child, td:first-child { padding-left: 0; }
.scores td, .facts td:first-child { white-space: nowrap; }
.scores th { max-width: 9rem; }
.attempts th, .attempts td:nth-child(n+2):not(:last-child) { white-space: nowrap; }
.attempts td:last-child { min-width: 14rem; }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--paper); }
.facts td:first-child { color: var(--soft); }
.scores th:not(:first-child), .scores td:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
.mean td { font-weight: 600; }
.faint td { color: var(--soft); }
i { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin-right: .5em; vertical-align: -.05em;
  outline: 1px solid var(--line); }
.legend { list-style: none; padding: 0; margin: 0 0 1rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem;
  font-size: .85rem; }
.panel, .curves { display: grid; gap: .6rem; margin-bottom: 1.2rem; }
.panel { grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.curves { grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
figure { margin: 0; }
section > figure { margin-bottom: 1.4rem; }
.curves figure { max-width: 36rem; }
img { display: block; width: 100%; height: auto; border-radius: .3rem; }
figcaption { color: var(--soft); }
@media (max-width: 32rem) { th, td { padding: .25rem .4rem; max-width: 13rem; } table { font-size: .84rem; }
  th:first-child, .facts td:first-child, .attempts td:first-child { max-width: 9rem; white-space: normal; }
  section > figure { overflow-x: auto; } section > figure img { width: 44rem; } }
"""
