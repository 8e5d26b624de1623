"""Encoded images and labels <-> tensors.

Pillow decodes. It releases the interpreter lock while it does, so that threads are enough. torchvision's decoder is up
to a fifth faster for JPEG, but it is deprecated, and a damaged PNG can end the process in it.
"""

import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_FORMATS = ("PNG", "JPEG")


def decode_image(data: bytes) -> torch.Tensor:
    """Encoded PNG or JPEG of any kind -> uint8 RGB (3, H, W): a view of (H, W, 3) memory, which resizing prefers."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip instead of scaling
            return torch.from_numpy((np.asarray(image) >> 8).astype(np.uint8)).expand(3, -1, -1)
        pixels_HW3 = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return torch.from_numpy(pixels_HW3).permute(2, 0, 1)


def decode_label(data: bytes) -> torch.Tensor:
    """PNG as written by `encode_label` -> uint8 train ids (H, W)."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return torch.from_numpy(np.array(image))


def encode_label(label_HW: np.ndarray) -> bytes:
    """uint8 ids (H, W) -> single-channel PNG."""
    stream = io.BytesIO()
    Image.fromarray(label_HW).save(stream, "PNG")
    return stream.getvalue()


def verified_image(data: bytes) -> torch.Tensor:
    """`decode_image` for bytes from outside. Raises ValueError with the fault of the bytes."""
    check_png(data)
    try:
        return decode_image(data)
    except Exception as error:  # Pillow has no single error for a file that it cannot decode
        raise ValueError("it is no PNG or JPEG image, or a damaged one") from error


def index_image(data: bytes) -> np.ndarray:
    """The values (H, W) of a single-channel PNG, or a palette PNG's indices. ValueError for anything else."""
    return _label_values(data, any_channels=False)


def first_channel(data: bytes) -> np.ndarray:
    """Channel 0 (H, W) of a PNG of 8 or 16 bits and any number of channels. ValueError for a damaged one."""
    return _label_values(data, any_channels=True)


def _label_values(data: bytes, any_channels: bool) -> np.ndarray:
    check_png(data)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            raw_mode = image.tile[0].args
            values = np.asarray(image)
        if values.ndim == 3 and str(raw_mode).endswith(";16B"):
            # Pillow keeps the high byte of 16-bit colours. Read as little-endian, the same file gives the low byte.
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                image.tile = [tile._replace(args=str(raw_mode).replace(";16B", ";16L")) for tile in image.tile]
                values = values.astype(np.uint16) << 8 | np.asarray(image)
    except Exception as error:  # see `verified_image`
        raise ValueError("it is no PNG image, or a damaged one") from error
    if values.ndim == 3 and not any_channels:
        raise ValueError("it is a colour image; a label has one channel of class numbers")
    return values[..., 0] if values.ndim == 3 else values


def check_png(data: bytes) -> None:
    """Raise ValueError where a PNG is incomplete or one of its chunks does not match its checksum.

    Decoders accept some such files and give wrong pixels. A file that is no PNG passes: decoders check it.
    """
    if not data.startswith(_PNG):
        return
    view, at, kind = memoryview(data), len(_PNG), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("it is a truncated PNG")
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = bytes(view[at + 4 : at + 8]), at + 8 + length
        if end + 4 > len(data):
            raise ValueError("it is a truncated PNG")
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"it is a damaged PNG (checksum of its {kind.decode('latin-1')} chunk)")
        at = end + 4
