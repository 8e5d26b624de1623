"""Train ids as colours, and pictures as PNG files. Shapes: H x W pixels; pictures are uint8 (H, W, 3)."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from plca_dist.data.labels import IGNORE
from plca_dist.errors import UserError

Colour = tuple[int, int, int]


def colour(label_HW: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """Train ids (H, W) -> colours (H, W, 3) uint8; 255 (ignored) gives black.

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


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()
