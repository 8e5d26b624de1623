"""PNGs: what their chunks say, whether they are sound, and their fastest decoder.

Wuffs decodes those of drawn streets of GTA5's size in two fifths of Pillow's time, gives the same pixels and releases
the interpreter lock. The package `pywuffs`, which pip compiles, brings it: an extra, `plca-dist[png]`. What Wuffs is
not asked for, or will not decode, is left to Pillow (`codec.py`).
"""

import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from plca_dist.errors import first_line

try:
    from pywuffs import ImageDecoderQuirks, ImageDecoderType, PixelFormat
    from pywuffs.aux import ImageDecoder, ImageDecoderConfig
except ImportError as error:
    #: Why there is no Wuffs; None where there is.
    WITHOUT_WUFFS: str | None = first_line(error)
else:
    WITHOUT_WUFFS = None

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")  # width, height, bits, colour type, compression, filter, interlace
#: Colour type -> samples of a pixel.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: The passes of an interlaced image: first row and column, and steps between them.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
#: Colour types by the channels that are wanted: images are RGB, labels are grey or have the palette below.
_WANTED = {3: (2,), 1: (0, 3)}
#: A palette whose colours are the greys of their indices.
GREYS = bytes(np.arange(256, dtype=np.uint8).repeat(3))
#: Chunks that say nothing of the pixels, with the length that Pillow wants of them; None: it passes over them.
_HARMLESS = {
    b"IDAT": None, b"IEND": None, b"bKGD": None, b"sBIT": None, b"tIME": None,
    b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9,
}  # fmt: skip
#: Keywords of texts that say nothing either. Pillow takes some others for EXIF data, or for settings of its decoder.
_KEYWORDS = {b"Title", b"Author", b"Description", b"Copyright", b"Creation Time", b"Software", b"Source", b"Comment"}
_LONGEST_TEXT = 1024
_AT_ONCE = 1 << 20
#: Deflate makes nothing smaller than a 1032nd.
_MOST_PIXELS_OF_A_BYTE = 1040


def decode_plain(data: bytes, channels: int, most_pixels: int) -> np.ndarray | None:
    """The pixels, uint8, by Wuffs: of an RGB file (H, W, 3), channels 3; of a label (H, W), channels 1.

    None for what is left to Pillow: another format; a PNG of other samples, interlaced, with transparency, or with
    chunks that may say more of the pixels (EXIF, XMP, a colour profile); more pixels than most_pixels; pixels that do
    not decompress soundly; everything where there is no Wuffs.

    Raises ValueError where a PNG is incomplete or one of its chunks does not match its checksum.
    """
    if not data.startswith(SIGNATURE):
        return None
    chunks = list(_chunks(data))
    most_pixels = min(most_pixels, _MOST_PIXELS_OF_A_BYTE * len(data))
    if WITHOUT_WUFFS is not None or not _is_plain(chunks, channels, most_pixels):
        return None
    config = ImageDecoderConfig()
    config.enabled_decoders = [ImageDecoderType.PNG]
    config.pixel_format = PixelFormat.RGB if channels == 3 else PixelFormat.Y
    config.quirks = {ImageDecoderQuirks.IGNORE_CHECKSUM: 0}  # of a PNG's pixels it would ignore it
    decoded = ImageDecoder(config).decode(bytes(data))
    if decoded.error_message:
        return None
    pixels: np.ndarray = decoded.pixbuf
    return pixels if channels == 3 else pixels[..., 0]


def check_chunks(data: bytes) -> None:
    """Raise ValueError where a PNG is incomplete or one of its chunks does not match its checksum.

    Decoders accept some such files and give wrong pixels. A file that is no PNG passes: decoders check it.
    """
    if data.startswith(SIGNATURE):
        for _ in _chunks(data):
            pass


def check_pixels(data: bytes) -> None:
    """The same where the pixels of a PNG that Pillow has decoded are too few, or do not match their own checksum."""
    if not data.startswith(SIGNATURE):
        return
    chunks = list(_chunks(data))
    header = _header(chunks)
    if header is None:
        return
    try:
        length, ends = _decompressed(body for kind, body in chunks if kind == b"IDAT")
    except zlib.error as error:
        raise ValueError(f"it is a damaged PNG ({first_line(error)}); replace the file") from error
    if not ends or length < _bytes_of_pixels(*header):
        raise ValueError("it is a damaged PNG (pixels are missing); replace the file")


def _decompressed(parts: Iterable[memoryview]) -> tuple[int, bool]:
    """How many bytes the parts are, decompressed, and whether their stream ends. Little is in memory at once."""
    stream, length = zlib.decompressobj(), 0
    for part in parts:
        rest: memoryview | bytes = part
        while rest:
            length += len(stream.decompress(rest, _AT_ONCE))
            rest = stream.unconsumed_tail
    return length + len(stream.flush()), stream.eof


def _is_plain(chunks: list[tuple[bytes, memoryview]], channels: int, most_pixels: int) -> bool:
    header = _header(chunks)
    if header is None:
        return False
    width, height, bits, colour_type, *others = header
    return (
        bits == 8
        and colour_type in _WANTED[channels]
        and not any(others)
        and width * height <= most_pixels
        and all(_says_nothing(kind, body) for kind, body in chunks[1:])
    )


def _header(chunks: list[tuple[bytes, memoryview]]) -> tuple[int, ...] | None:
    """What the first chunk says, if it is a header."""
    kind, body = chunks[0]
    return _HEADER.unpack(body) if kind == b"IHDR" and len(body) == _HEADER.size else None


def _says_nothing(kind: bytes, body: memoryview) -> bool:
    """Whether the pixels are those of the samples, as far as this chunk is concerned."""
    if kind == b"PLTE":
        return body == GREYS
    if kind == b"tEXt":
        return len(body) <= _LONGEST_TEXT and bytes(body).partition(b"\0")[0] in _KEYWORDS
    return kind in _HARMLESS and _HARMLESS[kind] in (None, len(body))


def _bytes_of_pixels(width: int, height: int, bits: int, colour_type: int, _: int, __: int, interlace: int) -> int:
    """Rows, each behind the number of its filter."""
    bits_of_pixel = bits * _SAMPLES.get(colour_type, 1)
    passes = _PASSES if interlace else ((0, 0, 1, 1),)
    sizes = ((-(-(height - top) // down), -(-(width - left) // across)) for top, left, down, across in passes)
    return sum(rows * (1 + -(-columns * bits_of_pixel // 8)) for rows, columns in sizes if rows > 0 and columns > 0)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and body of every chunk up to IEND. ValueError for a file that ends before it, or a wrong checksum."""
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
