"""Encoded images and labels <-> tensors.

Pillow decodes. It releases the interpreter lock while it does, so that threads are enough. torchvision's decoder is up
to a fifth faster for JPEG, but it is deprecated, and a damaged PNG can end the process in it.

A file may say that its pixels are to be turned (EXIF orientation). Everything here gives pixels as viewers show them,
images and labels alike, and heights and widths are those of the turned pixels.
"""

import io
import struct
import warnings
import zlib

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from plca_dist.errors import first_line

# Such data turn nothing (`_upright`). It is for no one to act on, and Pillow would write it for every decoding.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)

#: The most pixels of an image: its decoded bytes are three times as many, in every thread that decodes.
MOST_PIXELS = 178_956_970

#: Endings of names of files that are read, and of pictures that are not. Upper case counts as lower case.
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif")
OTHER_SUFFIXES = (".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2", ".heic", ".heif", ".avif", ".ppm", ".pgm", ".tga")

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
#: How files of other formats begin.
_OTHERS = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"RIFF": "WebP", b"BM": "BMP", b"GIF8": "GIF"}
#: Pillow stretches grey samples of 2 and 4 bits to 0-255. By the mode of the file's samples, the factor.
_STRETCHED = {"L;2": 85, "L;4": 17}


def decode_image(data: bytes) -> torch.Tensor:
    """Encoded PNG or JPEG of any kind -> uint8 RGB (3, H, W): a view of (H, W, 3) memory, which resizing prefers."""
    with _opened(data) as image:
        if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip instead of scaling
            grey_HW = _upright((np.asarray(image) >> 8).astype(np.uint8), image)
            return torch.from_numpy(grey_HW).expand(3, -1, -1)
        image.info.pop("transparency", None)  # converting warns of it
        pixels_HW3 = _upright(np.array(image if image.mode == "RGB" else image.convert("RGB")), image)
    return torch.from_numpy(pixels_HW3).permute(2, 0, 1)


def decode_label(data: bytes) -> torch.Tensor:
    """PNG as written by `encode_label` -> uint8 train ids (H, W)."""
    with _opened(data) as image:
        return torch.from_numpy(np.array(image))


def encode_label(label_HW: np.ndarray) -> bytes:
    """uint8 ids (H, W) -> single-channel PNG."""
    stream = io.BytesIO()
    Image.fromarray(label_HW).save(stream, "PNG")
    return stream.getvalue()


def verified_image(data: bytes) -> torch.Tensor:
    """`decode_image` for bytes from outside. Raises ValueError with the fault of the bytes and what to do about it."""
    check_png(data)
    try:
        return decode_image(data)
    except _RefusedError:
        raise
    except Exception as error:  # Pillow has no single error for a file that it cannot decode
        raise ValueError(_damaged(data, error)) from error


def index_image(data: bytes) -> np.ndarray:
    """The samples (H, W) of a single-channel PNG as the file has them, or a palette PNG's indices; 1 to 16 bits.

    ValueError for anything else.
    """
    return _label_values(data, any_channels=False)


def first_channel(data: bytes) -> np.ndarray:
    """Channel 0 (H, W) of a PNG of any number of bits and channels. ValueError for a damaged one."""
    return _label_values(data, any_channels=True)


def _label_values(data: bytes, any_channels: bool) -> np.ndarray:
    if not data.startswith(_PNG):
        raise ValueError("it is no PNG image; replace the file")
    check_png(data)
    try:
        with _opened(data) as image:
            raw_mode = str(image.tile[0].args)
            values = np.asarray(image)
            if values.ndim == 3 and raw_mode.endswith(";16B"):
                # Pillow keeps the high byte of 16-bit colours. Read as little-endian, the same file gives the low byte.
                with _opened(data) as low:
                    low.tile = [tile._replace(args=raw_mode.replace(";16B", ";16L")) for tile in low.tile]
                    values = values.astype(np.uint16) << 8 | np.asarray(low)
            values = _upright(values.astype(np.uint8) if values.dtype == bool else values, image)
    except _RefusedError:
        raise
    except Exception as error:  # see `verified_image`
        raise ValueError(_damaged(data, error)) from error
    if values.ndim == 3 and not any_channels:
        raise ValueError("it is a colour image; a label has one channel of class numbers")
    return values[..., 0] if values.ndim == 3 else values // _STRETCHED.get(raw_mode, 1)


class _RefusedError(ValueError):
    """A sound file that is not read; says why, and what to do."""


def _opened(data: bytes) -> ImageFile.ImageFile:
    """The image, its pixels not decoded yet. `Image.open` would warn of large images, and call the largest no image."""
    if data.startswith(_PNG):
        image: ImageFile.ImageFile = PngImageFile(io.BytesIO(data))
    elif data.startswith(_JPEG):
        image = JpegImageFile(io.BytesIO(data))
    else:
        kind = next((name for start, name in _OTHERS.items() if data.startswith(start)), None)
        what = f"it is no PNG or JPEG image but {kind}; convert it" if kind else None
        raise _RefusedError(what or "it is no PNG or JPEG image; replace the file")
    width, height = image.size
    if width * height > MOST_PIXELS:
        most = f"at most {MOST_PIXELS // 1_000_000} million are read"
        raise _RefusedError(f"it has {width} x {height} pixels, and {most}; cut it into tiles")
    return image


def _upright(pixels: np.ndarray, image: ImageFile.ImageFile) -> np.ndarray:
    """The decoded pixels (H, W, …) of the image, turned as its EXIF orientation says."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow has no single error for EXIF data that are no EXIF data; viewers pass over them
        orientation = 1
    if orientation not in range(2, 9):
        return pixels
    turned = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::rows, ::columns])


def _damaged(data: bytes, error: Exception) -> str:
    return f"it is a damaged {'PNG' if data.startswith(_PNG) else 'JPEG'} ({first_line(error)}); replace the file"


def check_png(data: bytes) -> None:
    """Raise ValueError where a PNG is incomplete or one of its chunks does not match its checksum.

    Decoders accept some such files and give wrong pixels. A file that is no PNG passes: decoders check it.
    """
    if not data.startswith(_PNG):
        return
    view, at, kind = memoryview(data), len(_PNG), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("it is a truncated PNG; replace the file")
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = bytes(view[at + 4 : at + 8]), at + 8 + length
        if end + 4 > len(data):
            raise ValueError("it is a truncated PNG; replace the file")
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"it is a damaged PNG (checksum of its {kind.decode('latin-1')} chunk); replace the file")
        at = end + 4
