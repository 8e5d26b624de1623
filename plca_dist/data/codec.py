"""Encoded images and labels <-> tensors.

Pillow decodes, and says what is wrong with a file; Wuffs decodes plain PNGs where it is installed (`png.py`). Both
release the interpreter lock while they do, so that threads are enough. The lock is held by pyspng and kornia-rs, which
are as fast as Wuffs or nearly; torchcodec, OpenCV and imagecodecs take a fifth to a third less than Pillow, and
torchvision's is deprecated.

A file may say that its pixels are to be turned (EXIF orientation). Everything here gives pixels as viewers show them,
images and labels alike, and heights and widths are those of the turned pixels.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageFile

from plca_dist.data.formats import (
    MOST_PIXELS,
    RefusedError,
    check_label_format,
    damaged,
    opened,
    raw_mode,
    upright,
)
from plca_dist.data.png import check_chunks, check_pixels, decode_plain

#: Pillow stretches grey samples of 2 and 4 bits to 0-255. By the mode of the file's samples, the factor.
_STRETCHED = {"L;2": 85, "L;4": 17}


def decode_image(data: bytes) -> torch.Tensor:
    """An image of shards, of any kind -> uint8 RGB (3, H, W): a view of (H, W, 3) memory, which resizing prefers.

    Of samples of 16 bits the high byte is taken; `formats.changes` says so.
    """
    pixels_HW3 = decode_plain(data, 3, MOST_PIXELS)
    return pillow_image(data) if pixels_HW3 is None else _planes(pixels_HW3)


def pillow_image(data: bytes) -> torch.Tensor:
    """`decode_image` without Wuffs."""
    with opened(data) as image:
        if image.mode in ("I", "F") and ";16" not in raw_mode(image):
            raise RefusedError("its samples have 32 bits, and nothing says which are black and white; write 8 or 16")
        if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip instead of scaling
            grey_HW = upright((np.asarray(image) >> 8).astype(np.uint8), image)
            return torch.from_numpy(grey_HW).expand(3, -1, -1)
        image.info.pop("transparency", None)  # converting warns of it
        pixels_HW3 = upright(np.array(image if image.mode == "RGB" else image.convert("RGB")), image)
    return _planes(pixels_HW3)


def _planes(pixels_HW3: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels_HW3).permute(2, 0, 1)


def decode_label(data: bytes) -> torch.Tensor:
    """A label of shards (`encode.encoded_label`) -> uint8 train ids (H, W)."""
    ids_HW = decode_plain(data, 1, MOST_PIXELS)
    return pillow_label(data) if ids_HW is None else torch.from_numpy(ids_HW)


def pillow_label(data: bytes) -> torch.Tensor:
    """`decode_label` without Wuffs."""
    with opened(data) as image:
        return torch.from_numpy(np.array(image))


def encode_label(label_HW: np.ndarray) -> bytes:
    """uint8 ids (H, W) -> single-channel PNG."""
    stream = io.BytesIO()
    Image.fromarray(label_HW).save(stream, "PNG")
    return stream.getvalue()


def verified_image(data: bytes) -> torch.Tensor:
    """`decode_image` for bytes from outside. Raises ValueError with the fault of the bytes and what to do about it."""
    pixels_HW3 = decode_plain(data, 3, MOST_PIXELS)
    if pixels_HW3 is not None:
        return _planes(pixels_HW3)
    with _soundly(data):
        return pillow_image(data)


def index_image(data: bytes) -> np.ndarray:
    """The samples (H, W) of a single-channel label file as it has them, or a palette's indices; 1 to 16 bits.

    ValueError for anything else.
    """
    values, stretched = _samples(data)
    if values.ndim == 3:
        grey = values.shape[2] > 2 and all(np.array_equal(values[..., 0], values[..., k]) for k in (1, 2))
        fix = "of equal channels; write coding: red" if grey else "; with coding: colour its colours say the class"
        raise ValueError(f"it is a colour image{' ' if grey else ''}{fix}, in a label-set file, or give numbers")
    return values // stretched


def first_channel(data: bytes) -> np.ndarray:
    """Channel 0 (H, W) of a label file of any number of bits and channels. ValueError for a damaged one."""
    values, stretched = _samples(data)
    return values[..., 0] if values.ndim == 3 else values // stretched


def colour_codes(data: bytes) -> np.ndarray:
    """The colours (H, W) of a label file as 0xRRGGBB, a palette's colours too. ValueError for a damaged file."""
    pixels = _decoded(data, _rgb_of_label).astype(np.uint32)
    return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]


def _rgb_of_label(image: ImageFile.ImageFile) -> np.ndarray:
    if image.mode.startswith(("I", "F")) or ";16" in raw_mode(image):
        raise RefusedError("its colours have more than 8 bits; write 8")
    if image.mode in ("RGBA", "LA", "PA") and np.asarray(image.getchannel("A")).min() < 255:
        raise RefusedError(
            "it is transparent in places, and what their class is it does not say; write it without alpha"
        )
    image.info.pop("transparency", None)
    return upright(np.array(image.convert("RGB")), image)


def _samples(data: bytes) -> tuple[np.ndarray, int]:
    """The samples (H, W) or (H, W, C), and the factor by which grey ones are stretched."""
    factor = 1

    def read(image: ImageFile.ImageFile) -> np.ndarray:
        nonlocal factor
        mode = raw_mode(image)
        factor = _STRETCHED.get(mode, 1)
        if image.mode == "F":
            raise RefusedError("its samples are no whole numbers; write class numbers")
        values = np.asarray(image)
        if values.ndim == 3 and mode.endswith((";16B", ";16L", ";16N")):
            values = _sixteen_bits(data, values, mode)
        return upright(values.astype(np.uint8) if values.dtype == bool else values, image)

    return _decoded(data, read), factor


def _sixteen_bits(data: bytes, high: np.ndarray, mode: str) -> np.ndarray:
    """Colours of 16 bits, of which Pillow keeps the high byte. Read in the other order, a file gives the low byte."""
    other = mode[:-1] + ("L" if mode.endswith("B") else "B")
    with opened(data) as low:
        if not isinstance(low.tile[0].args, str):
            raise RefusedError("it is a TIFF of colours with 16 bits; write numbers in one channel")
        low.tile = [tile._replace(args=other) for tile in low.tile]
        return high.astype(np.uint16) << 8 | np.asarray(low)


def _decoded(data: bytes, read: Callable[[ImageFile.ImageFile], np.ndarray]) -> np.ndarray:
    check_chunks(data)
    with _soundly(data), opened(data) as image:
        check_label_format(data, image)
        return read(image)


@contextmanager
def _soundly(data: bytes) -> Iterator[None]:
    """Pillow decodes the bytes inside the block. ValueError with the fault of those that are unsound."""
    try:
        yield
    except RefusedError:
        raise
    except Exception as error:  # Pillow has no single error for a file that it cannot decode
        raise ValueError(damaged(data, error)) from error
    check_pixels(data)
