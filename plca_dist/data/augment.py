"""Augmentation as pure functions of (image, label, random numbers).

Legend: images are uint8 RGB (3, H, W), labels uint8 (H, W) with train ids.
"""

import platform
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch.nn.functional import interpolate, pad

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
    height, width = image_3HW.shape[1:]
    size: tuple[int, int] = (height, width)
    if shorter_edge is not None:
        edge = _uniform(edge_draw, *shorter_edge)
        scale = edge / min(height, width)
        size = (edge, round(width * scale)) if height <= width else (round(height * scale), edge)
        image_3HW = resize_for_test(image_3HW, size)
    for number in range(crops):
        if number:
            top_draw, left_draw = rng.random(2)
        top = _uniform(top_draw, 0, max(size[0], crop[0]) - crop[0])
        left = _uniform(left_draw, 0, max(size[1], crop[1]) - crop[1])
        window = (slice(top, top + crop[0]), slice(left, left + crop[1]))
        cut = None if label_HW is None else _resized_label(label_HW, size, window)
        if enough is None or cut is None or enough(cut):
            break
    mirror = flip and flip_draw < 0.5
    label = None if cut is None else _finished(cut, crop, mirror, ignore_index)
    return _finished(image_3HW[:, *window], crop, mirror, 0), label


def resize_for_test(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The image (..., 3, H, W) uint8 at `size` (height, width): bilinear, antialiased, rounded to uint8.

    The same pixels as torchvision's `resize`, whose import takes seconds.
    """
    if image.shape[-2:] == size:
        return image
    batch = image.reshape(-1, *image.shape[-3:])
    if len(batch) == 1 and batch.is_contiguous(memory_format=torch.channels_last):
        # Of a single image torch overlooks this order of memory, and would copy the image twice.
        batch = batch.as_strided(batch.shape, (batch.numel(), *batch.stride()[1:]))
    in_bytes = batch.is_cpu and _resizes_bytes()
    resized = interpolate(
        batch if in_bytes else batch.float(), size, mode="bilinear", align_corners=False, antialias=True
    )
    resized = resized if in_bytes else resized.round_().to(torch.uint8)
    return resized.reshape(*image.shape[:-3], *resized.shape[1:])


@cache
def _resizes_bytes() -> bool:
    """Whether torch is quick to resize bytes on this processor; elsewhere it is quicker with floats."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in ("aarch64", "arm64")


def resize_label(label_HW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The label (H, W) at `size` (height, width): each pixel has the value that lies at its centre."""
    return _resized_label(label_HW, size, (slice(None), slice(None)))


def _resized_label(label_HW: torch.Tensor, size: tuple[int, int], window: tuple[slice, slice]) -> torch.Tensor:
    """`window` of the resized label; of the rest nothing is computed."""
    if size == label_HW.shape:
        return label_HW[window]
    rows, columns = (_centres(*lengths)[part] for *lengths, part in zip(label_HW.shape, size, window, strict=True))
    return torch.from_numpy(label_HW.numpy()[rows].take(columns, axis=1))


def _centres(length: int, new: int) -> np.ndarray:
    """(new,) the pixels out of `length` at the centres of `new` pixels, as torch's "nearest-exact" finds them.

    As the bilinear resizing of images, it looks up centres; plain "nearest" is shifted against it by half a pixel.
    """
    pixels = torch.arange(length, dtype=torch.float32)
    return interpolate(pixels[None, None], size=new, mode="nearest-exact")[0, 0].numpy().astype(np.int64)


def _finished(pixels: torch.Tensor, crop: tuple[int, int], mirror: bool, padding: int) -> torch.Tensor:
    """Cut pixels (…, h, w), padded at the bottom and on the right to the size of the crop, mirrored, contiguous."""
    bottom, right = crop[0] - pixels.shape[-2], crop[1] - pixels.shape[-1]
    if bottom or right:
        pixels = pad(pixels, (0, right, 0, bottom), value=padding)
    return (pixels.flip(-1) if mirror else pixels).contiguous()


def _uniform(draw: float, low: int, high: int) -> int:
    """The integer in [low, high] that a uniform draw from [0, 1) falls on."""
    return low + int(draw * (high - low + 1))
