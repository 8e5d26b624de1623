"""One page of a data set before anything is trained on it: a few images, their labels in colour, and what they hold."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from plca_dist.data.codec import decode_image
from plca_dist.data.colours import colour, overlay, png
from plca_dist.data.datasets.dataset import ForeignLabels, Reader, Sample
from plca_dist.data.labels import LabelSet
from plca_dist.data.shards.statistics import Statistics, of_sample, percent, remarks, shares, total
from plca_dist.errors import UserError
from plca_dist.messages import Progress
from plca_dist.report.markup import Cell, PageTable, Row, Tile, render_page
from plca_dist.report.page import Panel
from plca_dist.report.panels import columns

#: Images on the page, evenly spread over the data set.
IMAGES = 6
_BLACK = (0, 0, 0)


def preview(
    title: str, reader: Reader, statistics: Statistics | None, progress: Progress, *, skip_broken: bool = False
) -> str:
    """The page as a string.

    Args:
        title: of the page.
        reader: of the data set, with labels or without.
        statistics: of the whole data set; None: those of the images that are shown, and the page says so.
        progress: called with (what, images done, images in all).

    Raises UserError for a broken image or label among those that are shown; with `skip_broken` they are left out.
    """
    chosen = np.unique(np.linspace(0, len(reader) - 1, min(IMAGES, len(reader))).round().astype(int)).tolist()
    labels = reader.label_set if reader.labelled else None
    panels, counted = [], []
    for done, i in enumerate(chosen, 1):
        try:
            sample = reader.load(i)
        except UserError as error:
            if not skip_broken or isinstance(error, ForeignLabels):
                raise
            continue
        counted.append(of_sample(sample, len(labels) if labels else None))
        panels.append(_panel(sample, labels))
        progress("preview", done, len(chosen))
    found = statistics or total(counted)
    of = "of all pixels" if statistics else "of the pixels shown"
    return render_page(
        "report/templates/preview.html.jinja",
        title=title,
        lead=f"{len(panels)} of {len(reader)} images, evenly spread over their order.{_black(labels)}",
        tiles=_headline(found, labels, len(reader), of),
        panels=[(p.caption, [(title, png(Image.fromarray(pixels))) for title, pixels in p.columns]) for p in panels],
        classes=_classes(found, labels, of) if labels else None,
        remarks=remarks(found, labels),
    )


def _black(labels: LabelSet | None) -> str:
    """What black means in the pictures of labels."""
    if labels is None:
        return ""
    names = [name for name, tint in zip(labels.classes, labels.palette, strict=True) if tint == _BLACK]
    return f" Black is {' and '.join([*names, 'what is ignored'])}."


def _panel(sample: Sample, labels: LabelSet | None) -> Panel:
    image_3HW = decode_image(sample.image).numpy()
    caption = f"{sample.id}: {sample.width} x {sample.height} pixels" + "".join(f"; {note}" for note in sample.notes)
    image, *drawn = columns(image_3HW, sample.label if labels else None, {}, labels or LabelSet("", (), ()))
    if not labels or sample.label is None:
        return Panel([image], caption)
    over_HW3 = overlay(image_3HW.transpose(1, 2, 0), colour(sample.label, labels.palette))
    (_, over), *_ = columns(over_HW3.transpose(2, 0, 1), None, {}, labels)
    return Panel([image, ("labels over it", over), ("labels", drawn[0][1])], caption)


def _headline(found: Statistics, labels: LabelSet | None, images: int, of: str) -> list[Tile]:
    sizes = sorted(found.sizes, key=lambda size: -found.sizes[size])
    tiles = [
        Tile("images", str(images), f"{sizes[0]} pixels{f', and {len(sizes) - 1} other sizes' if sizes[1:] else ''}")
    ]
    if labels:
        there = sum(1 for n in found.pixels if n)
        tiles.append(Tile("classes", str(len(labels)), f"of {labels.name}; {there} occur"))
        tiles.append(Tile("ignored", percent(shares(found)[1]), of))
    return tiles


def _classes(found: Statistics, labels: LabelSet, of: str) -> PageTable:
    each, ignored = shares(found)
    rows = [
        Row([Cell(name, tint), Cell(percent(share)), Cell(str(images))], "" if images else "faint")
        for name, tint, share, images in zip(labels.classes, labels.palette, each, found.occurs, strict=True)
    ]
    rows.append(Row([Cell("ignored", _BLACK), Cell(percent(ignored)), Cell("")], "mean"))
    return PageTable(["class", f"share {of}", "images with it"], rows, _notes(found))


def _notes(found: Statistics) -> Sequence[str]:
    return [f"counted over {found.images} images"]
