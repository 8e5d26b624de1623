"""Pictures of segmentations: image | truth | a prediction per run, side by side, with titles and a legend.

Shapes: H x W pixels. Pictures are uint8 arrays (H, W, 3), as Pillow takes them; labels are uint8 train ids (H, W).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from plca_dist.data.colours import colour
from plca_dist.data.labels import LabelSet

#: One picture of a panel: its title and its pixels (H, W, 3).
Column = tuple[str, np.ndarray]

WIDEST = 640  # px: large enough to judge a picture, small enough for a page of many

_GAP, _TITLE, _FONT = 8, 34, 21  # px
_NAMES = (1 / 18, 1 / 24)  # sizes of letters as shares of the picture's width; the second where the first has no room
_INK, _PAPER, _BLACK = (32, 33, 36), (255, 255, 255), (0, 0, 0)


def columns(
    image_3HW: np.ndarray, truth_HW: np.ndarray | None, predictions: Mapping[str, np.ndarray], labels: LabelSet
) -> list[Column]:
    """The usual columns: the image (3, H, W), the truth where there is one, and a prediction (H, W) per title.

    All have the same size, at most `WIDEST` wide. Class names are written into labels (see `named`).
    """
    labelled = {"truth": truth_HW, **predictions}
    image = _sized(Image.fromarray(np.asarray(image_3HW).transpose(1, 2, 0)), Image.Resampling.BOX)
    return [
        ("image", np.asarray(image)),
        *((title, np.asarray(named(label, labels))) for title, label in labelled.items() if label is not None),
    ]


def named(label_HW: np.ndarray, labels: LabelSet) -> Image.Image:
    """The labels in their colours, with each class's name written once, where a region of the class has room.

    Not everyone can tell Cityscapes' colours apart, hence the names. The picture is at most `WIDEST` wide.
    """
    picture = _sized(Image.fromarray(colour(label_HW, labels.palette)))
    shown_HW = np.asarray(_sized(Image.fromarray(np.asarray(label_HW, np.uint8))))
    draw = ImageDraw.Draw(picture)
    for k, name in enumerate(labels.classes):
        for font in (_font(round(size * picture.width)) for size in _NAMES):
            left, top, right, bottom = font.getbbox(name, stroke_width=2, anchor="mm")
            if place := _room(shown_HW == k, round(bottom - top) + _GAP, round(right - left) + _GAP):
                draw.text(place, name, "white", font, anchor="mm", stroke_width=2, stroke_fill=_BLACK)
                break
    return picture


def panel_rows(rows: Sequence[Sequence[Column]]) -> Image.Image:
    """Rows of pictures on white; the pictures of a row have one size and stand side by side under their titles.

    A row does not repeat the titles of the row above.

    Raises ValueError where there is nothing to draw or the pictures of a row differ in size.
    """
    if not rows or not all(rows):
        raise ValueError("a panel needs at least one picture in every row")
    strips, above = [], None
    for row in rows:
        titles = [title for title, _ in row]
        strips.append(_strip([picture for _, picture in row], titles if titles != above else None))
        above = titles
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips) + _GAP), _PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def legend(labels: LabelSet, width: int = 960) -> Image.Image:
    """The label set's colours and names, and black for ignored pixels; wrapped to `width` pixels."""
    entries = [*zip(labels.classes, labels.palette, strict=True), ("ignored", _BLACK)]
    chip, font, places = _FONT, _font(), []
    x, y = _GAP, _GAP
    for name, _ in entries:
        length = chip + 6 + round(font.getlength(name)) + 2 * _GAP
        if x > _GAP and x + length > width:
            x, y = _GAP, y + _TITLE
        places.append((x, y))
        x += length
    sheet = Image.new("RGB", (width, y + _TITLE), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for (name, fill), (x, y) in zip(entries, places, strict=True):
        draw.rectangle((x, y, x + chip, y + chip), fill)
        draw.text((x + chip + 6, y + chip / 2), name, _INK, font, anchor="lm")
    return sheet


def _strip(pictures: Sequence[np.ndarray], titles: Sequence[str] | None) -> Image.Image:
    shapes = {p.shape for p in pictures}
    if len(shapes) > 1:
        raise ValueError(f"pictures of one panel differ in size: {sorted(shapes)}")
    shown = [Image.fromarray(np.ascontiguousarray(p)) for p in pictures]
    width, height = shown[0].size
    head = _TITLE if titles else 0
    strip = Image.new("RGB", (len(shown) * (width + _GAP) + _GAP, _GAP + head + height), _PAPER)
    draw = ImageDraw.Draw(strip)
    for k, picture in enumerate(shown):
        left = _GAP + k * (width + _GAP)
        if titles:
            draw.text((left, _GAP + head / 2 - 3), _cut(titles[k], width), _INK, _font(), anchor="lm")
        strip.paste(picture, (left, _GAP + head))
    return strip


def _cut(title: str, width: int) -> str:
    """The end of a title that is wider than its picture: names mostly differ at their ends."""
    shown = title
    while _font().getlength(shown) > width and len(shown) > 2:
        shown = f"…{shown[2:]}"
    return shown


def _room(mask_HW: np.ndarray, height: int, width: int) -> tuple[int, int] | None:
    """x, y of the middle of a box of this size within the mask: the box nearest to the centre of all such boxes.

    None where no box fits.
    """
    if height > mask_HW.shape[0] or width > mask_HW.shape[1]:
        return None
    sums = np.pad(mask_HW, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    within = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    corners = np.argwhere(within == height * width)
    if not len(corners):
        return None
    y, x = corners[((corners - corners.mean(0)) ** 2).sum(1).argmin()]
    return int(x) + width // 2, int(y) + height // 2


def _sized(picture: Image.Image, resampling: Image.Resampling = Image.Resampling.NEAREST) -> Image.Image:
    """A wide picture is shrunk to `WIDEST`. A narrow one grows by a whole factor, so that its pixels stay squares."""
    factor = WIDEST / picture.width
    if factor >= 1:
        factor, resampling = int(factor), Image.Resampling.NEAREST
    return picture.resize((round(factor * picture.width), max(round(factor * picture.height), 1)), resampling)


@cache
def _font(size: int = _FONT) -> ImageFont.FreeTypeFont:
    # matplotlib's own font has the same letters on every machine, λ among them.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
