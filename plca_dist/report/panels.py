"""Pictures of segmentations: image | truth | a prediction per run, side by side, with titles and a legend.

Shapes: H x W pixels. Pictures are uint8 arrays (H, W, 3), as Pillow takes them; labels are uint8 train ids (H, W).
"""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from plca_dist.data.labels import IGNORE, LabelSet
from plca_dist.errors import UserError

#: One picture of a panel: its title and its pixels (H, W, 3).
Column = tuple[str, np.ndarray]
Colour = tuple[int, int, int]

ENLARGED_BELOW = 320  # px of width: whole multiples of the picture, so that its pixels can be seen
REDUCED_ABOVE = 640  # px of width: enough to judge a picture, and a page of many stays small

_GAP, _TITLE, _FONT = 8, 26, 15  # px
_INK, _PAPER, _BLACK = (32, 33, 36), (255, 255, 255), (0, 0, 0)


def colour(label_HW: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """Train ids (H, W) -> their colours (H, W, 3) uint8; 255 (ignored) is black.

    Raises UserError for a value that is neither a class nor 255.
    """
    label_HW = np.asarray(label_HW)
    foreign = sorted(set(np.unique(label_HW).tolist()) - {*range(len(palette)), IGNORE})
    if foreign:
        raise UserError(
            f"label values {', '.join(map(str, foreign))} have no colour: "
            f"{len(palette)} classes are 0 to {len(palette) - 1}, and {IGNORE} is ignored; check the label set."
        )
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[: len(palette)] = palette
    return table[label_HW]


def overlay(image_HW3: np.ndarray, colour_HW3: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """The image tinted with the colours, (H, W, 3) uint8; black (ignored) leaves the image as it is.

    alpha: share of the colour, in [0, 1].
    """
    blend = (1 - alpha) * image_HW3.astype(np.float32) + alpha * colour_HW3
    return np.where(colour_HW3.any(-1, keepdims=True), blend.round().astype(np.uint8), image_HW3)


def columns(
    image_3HW: np.ndarray, truth_HW: np.ndarray | None, predictions: Mapping[str, np.ndarray], labels: LabelSet
) -> list[Column]:
    """The usual columns: the image (3, H, W), the truth where there is one, and a prediction (H, W) per title."""
    named = {"truth": truth_HW, **predictions}
    coloured = [(title, colour(label, labels.palette)) for title, label in named.items() if label is not None]
    return [("image", np.asarray(image_3HW).transpose(1, 2, 0)), *coloured]


def panel(columns: Sequence[Column]) -> Image.Image:
    """Pictures of one size side by side under their titles, on white."""
    return panel_rows([columns])


def panel_rows(rows: Sequence[Sequence[Column]]) -> Image.Image:
    """Panels below each other; titles that are those of the row above are not repeated.

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
    """The label set's colours and names, and black for what is ignored; wrapped to `width` pixels."""
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


def reduced(picture_HW3: np.ndarray) -> Image.Image:
    """The picture, at most `REDUCED_ABOVE` pixels wide."""
    picture = Image.fromarray(np.ascontiguousarray(picture_HW3))
    if picture.width <= REDUCED_ABOVE:
        return picture
    height = max(round(picture.height * REDUCED_ABOVE / picture.width), 1)
    return picture.resize((REDUCED_ABOVE, height), Image.Resampling.BOX)


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _strip(pictures: Sequence[np.ndarray], titles: Sequence[str] | None) -> Image.Image:
    shapes = {p.shape for p in pictures}
    if len(shapes) > 1:
        raise ValueError(f"pictures of one panel differ in size: {sorted(shapes)}")
    shown = [_enlarged(reduced(p)) for p in pictures]
    width, height = shown[0].size
    head = _TITLE if titles else 0
    strip = Image.new("RGB", (len(shown) * (width + _GAP) + _GAP, _GAP + head + height), _PAPER)
    draw = ImageDraw.Draw(strip)
    for k, picture in enumerate(shown):
        left = _GAP + k * (width + _GAP)
        if titles:
            draw.text((left, _GAP + head / 2 - 3), titles[k], _INK, _font(), anchor="lm")
        strip.paste(picture, (left, _GAP + head))
    return strip


def _enlarged(picture: Image.Image) -> Image.Image:
    """Whole multiples and nearest neighbour: a pixel stays a square, a label stays a label."""
    factor = -(-ENLARGED_BELOW // picture.width)
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


@cache
def _font() -> ImageFont.FreeTypeFont:
    # matplotlib brings its font along: the same letters on every machine, λ among them.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", _FONT)
