"""Augmentation as pure functions of (image, label, random numbers).

Legend: images are uint8 RGB (3, H, W), labels uint8 (H, W) with train ids.
"""

from collections.abc import Callable

import numpy as np
import torch
import torchvision.transforms.v2.functional as tvf
from torch.nn.functional import pad
from torchvision.transforms import InterpolationMode

from plca_dist.data.labels import IGNORE


def augment(
    image_3HW: torch.Tensor,
    label_HW: torch.Tensor | None,
    rng: np.random.Generator,
    *,
    shorter_edge: tuple[int, int] | None,
    crop: tuple[int, int],
    flip: bool,
    ignore_index: int = IGNORE,
    enough: Callable[[torch.Tensor], bool] | None = None,
    crops: int = 1,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Random scale, random crop, random horizontal flip; the same for the image and its label.

    Four numbers are always drawn, with any settings and with or without a label. So a change of one setting leaves
    the random numbers of the others as they were.

    Args:
        image_3HW: uint8 image.
        label_HW: uint8 train ids of the same height and width, or None.
        rng: see `order.sample_rng`.
        shorter_edge: bounds, both inclusive, of the length in pixels that the shorter edge is resized to; None keeps
            the image's own size. The paper uses (760, 988).
        crop: height and width of the result. An image that is smaller is padded at the bottom and on the right,
            with black and `ignore_index`.
        flip: mirror left and right in half of the cases.
        ignore_index: label of padding.
        enough: whether a crop of the label will do. Where it will not, another one is drawn, and the `crops`-th is
            taken as it is. None: the first one.

    Returns:
        The image (3, *crop) and the label (*crop), or None where none was given; both contiguous.
    """
    edge_draw, top_draw, left_draw, flip_draw = rng.random(4)
    if shorter_edge is not None:
        height, width = image_3HW.shape[1:]
        edge = _uniform(edge_draw, *shorter_edge)
        scale = edge / min(height, width)
        size = (edge, round(width * scale)) if height <= width else (round(height * scale), edge)
        image_3HW = resize_for_test(image_3HW, size)
        if label_HW is not None:
            label_HW = _resize_label(label_HW, size)
    image_3HW, label_HW = _pad(image_3HW, label_HW, crop, ignore_index)
    for number in range(crops):
        if number:
            top_draw, left_draw = rng.random(2)
        top = _uniform(top_draw, 0, image_3HW.shape[1] - crop[0])
        left = _uniform(left_draw, 0, image_3HW.shape[2] - crop[1])
        window = (..., slice(top, top + crop[0]), slice(left, left + crop[1]))
        if enough is None or label_HW is None or enough(label_HW[window]):
            break
    mirror = flip and flip_draw < 0.5
    image_3HW = _cut(image_3HW, window, mirror)
    return image_3HW, None if label_HW is None else _cut(label_HW, window, mirror)


def resize_for_test(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The image (..., 3, H, W) uint8 at `size` (height, width): bilinear, antialiased, rounded to uint8."""
    return tvf.resize(image, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)


def _resize_label(label_HW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    # NEAREST_EXACT looks up pixel centres, as bilinear does; plain NEAREST is shifted against it by half a pixel.
    return tvf.resize(label_HW[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT)[0]


def _pad(
    image_3HW: torch.Tensor, label_HW: torch.Tensor | None, crop: tuple[int, int], ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    bottom = max(0, crop[0] - image_3HW.shape[1])
    right = max(0, crop[1] - image_3HW.shape[2])
    if bottom or right:
        image_3HW = pad(image_3HW, (0, right, 0, bottom))
        if label_HW is not None:
            label_HW = pad(label_HW, (0, right, 0, bottom), value=ignore_index)
    return image_3HW, label_HW


def _cut(pixels: torch.Tensor, window: tuple, mirror: bool) -> torch.Tensor:
    pixels = pixels[window]
    return (pixels.flip(-1) if mirror else pixels).contiguous()


def _uniform(draw: float, low: int, high: int) -> int:
    """The integer in [low, high] that a uniform draw from [0, 1) falls on."""
    return low + int(draw * (high - low + 1))
