"""Encoded images and labels <-> tensors.

torchvision decodes, because it is what training reads with: faster than Pillow, and it releases the interpreter lock,
so that threads are enough. Its one weakness is that a damaged PNG can end the process instead of raising an error;
`verified_image` therefore checks the file's own checksums before it lets torchvision near it.
"""

import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as tv_decode

_PNG = b"\x89PNG\r\n\x1a\n"


def decode_image(data: bytes) -> torch.Tensor:
    """Encoded PNG or JPEG -> uint8 RGB (3, H, W). The bytes must be known to be sound (see `verified_image`)."""
    image = tv_decode(_tensor(data), ImageReadMode.RGB)
    if image.dtype == torch.uint16:
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return image


def decode_label(data: bytes) -> torch.Tensor:
    """PNG as written by `encode_label` -> uint8 train ids (H, W)."""
    return tv_decode(_tensor(data), ImageReadMode.UNCHANGED)[0]


def encode_label(label_HW: np.ndarray) -> bytes:
    """uint8 train ids (H, W) -> single-channel PNG."""
    stream = io.BytesIO()
    Image.fromarray(label_HW).save(stream, "PNG")
    return stream.getvalue()


def verified_image(data: bytes) -> torch.Tensor:
    """`decode_image` for bytes from outside; raises ValueError saying what is wrong with them."""
    check_png(data)
    try:
        return decode_image(data)
    except RuntimeError as error:
        raise ValueError("it is no PNG or JPEG image, or a truncated one") from error


def index_image(data: bytes) -> np.ndarray:
    """The values (H, W) of a single-channel or palette PNG, a palette's as indices; ValueError for anything else."""
    check_png(data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in ("L", "P", "I;16"):
                raise ValueError(f"it is a colour image ({image.mode}); a label has one channel of class numbers")
            return np.asarray(image)
    except (OSError, SyntaxError) as error:  # Pillow's words for a file it cannot make sense of
        raise ValueError("it is no image, or a damaged one") from error


def first_channel(data: bytes) -> np.ndarray:
    """Channel 0 (H, W) of a PNG of 8 or 16 bits and any number of channels; ValueError for a damaged one.

    SYNTHIA's labels are 16-bit RGB, which Pillow would cut down to 8 bits.
    """
    check_png(data)
    try:
        return tv_decode(_tensor(data), ImageReadMode.UNCHANGED)[0].numpy()
    except RuntimeError as error:
        raise ValueError("it is no image, or a damaged one") from error


def check_png(data: bytes) -> None:
    """Raise ValueError where a PNG is incomplete or one of its chunks does not match its checksum.

    Anything that is not a PNG passes.
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


def _tensor(data: bytes) -> torch.Tensor:
    # An empty file makes frombuffer itself fail, with the wrong kind of error.
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
