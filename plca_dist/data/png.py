"""PNGs: their chunks, and their fastest decoder.

Wuffs decodes a PNG of GTA5's size in two fifths of Pillow's time, gives the same pixels, releases the interpreter lock
and is written in a language whose compiler proves that it cannot leave its memory. Python gets it from the package
`pywuffs`, which pip compiles: it is an extra, `plca-dist[png]`. `codec.py` does without it, and where it stops.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

try:
    from pywuffs import ImageDecoderType, PixelFormat
    from pywuffs.aux import ImageDecoder, ImageDecoderConfig
except ImportError:
    WUFFS = False
else:
    WUFFS = True

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")  # width, height, bits, colour type, compression, filter, interlace
_COLOUR_TYPES = {3: (2,), 1: (0, 3)}
#: A palette whose colours are the greys of their indices.
GREYS = bytes(np.arange(256, dtype=np.uint8).repeat(3))
#: Chunks that say nothing of the pixels, or of how they are turned. A text may (EXIF, XMP), by its keyword.
_HARMLESS = {b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs", b"tIME"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_TURNING_TEXTS = (b"Raw profile", b"XML:")


def check_png(data: bytes) -> None:
    """Raise ValueError where a PNG is incomplete or one of its chunks does not match its checksum.

    Decoders accept some such files and give wrong pixels. A file that is no PNG passes: decoders check it.
    """
    if not data.startswith(SIGNATURE):
        return
    for _ in _chunks(data):
        pass


def decode_plain(data: bytes, channels: int, most_pixels: int) -> np.ndarray | None:
    """The pixels, uint8, by Wuffs: of an RGB file (H, W, 3), channels 3; of a grey one (H, W), channels 1.

    None for what is left to Pillow: all but a sound PNG of such samples of 8 bits that is not interlaced, has no
    transparency and is not to be turned; more pixels than most_pixels; everything where `pywuffs` is not installed.
    """
    if not WUFFS or not _is_plain(data, channels, most_pixels):
        return None
    config = ImageDecoderConfig()
    config.enabled_decoders = [ImageDecoderType.PNG]
    config.pixel_format = PixelFormat.RGB if channels == 3 else PixelFormat.Y
    decoded = ImageDecoder(config).decode(data)
    if decoded.error_message:
        return None
    pixels: np.ndarray = decoded.pixbuf
    return pixels if channels == 3 else pixels[..., 0]


def _is_plain(data: bytes, channels: int, most_pixels: int) -> bool:
    if not data.startswith(SIGNATURE):
        return False
    try:
        chunks = list(_chunks(data))
        width, height, bits, colour_type, *others = _HEADER.unpack(chunks[0][1])
    except (ValueError, struct.error):  # Pillow says what is wrong, or passes over it
        return False
    return (
        chunks[0][0] == b"IHDR"
        and bits == 8
        and colour_type in _COLOUR_TYPES[channels]
        and not any(others)
        and width * height <= most_pixels
        and all(_says_nothing(kind, body) for kind, body in chunks)
    )


def _says_nothing(kind: bytes, body: memoryview) -> bool:
    """Whether the pixels are those of the samples, as far as this chunk is concerned."""
    if kind in _TEXTS:
        return not bytes(body[:11]).startswith(_TURNING_TEXTS)
    return kind in _HARMLESS or (kind == b"PLTE" and body == GREYS)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and body of every chunk up to IEND. ValueError for a file that ends before it, or a wrong checksum.

    Wuffs does not compare the checksum of the last pixels' chunk.
    """
    view, at, kind = memoryview(data), len(SIGNATURE), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("it is a truncated PNG; replace the file")
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = bytes(view[at + 4 : at + 8]), at + 8 + length
        if end + 4 > len(data):
            raise ValueError("it is a truncated PNG; replace the file")
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"it is a damaged PNG (checksum of its {kind.decode('latin-1')} chunk); replace the file")
        yield kind, view[at + 8 : end]
        at = end + 4
