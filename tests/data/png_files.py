"""PNGs written by hand: chunk by chunk, and row by row where no library writes such ones."""

import struct
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, colour_type: int, *, bits: int = 8, interlaced: bool = False) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced))


def png_file(*chunks: bytes) -> bytes:
    """A file of these chunks, and of the one that ends it."""
    return b"".join([SIGNATURE, *chunks, chunk(b"IEND", b"")])


def in_parts(stream: bytes, parts: int = 1) -> Iterable[bytes]:
    """The chunks of compressed pixels that are cut into so many."""
    step = -(-len(stream) // parts)
    return (chunk(b"IDAT", stream[at : at + step]) for at in range(0, len(stream), step))


def rows_of(pixels_HWC: np.ndarray, filters: Sequence[int] = (0,)) -> bytes:
    """The rows of 8-bit pixels behind their filters, which take turns."""
    padded = np.pad(pixels_HWC.astype(int), ((1, 0), (1, 0), (0, 0)))
    here, left, up, corner = padded[1:, 1:], padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    guess = left + up - corner
    off_left, off_up, off_corner = (abs(guess - other) for other in (left, up, corner))
    paeth = np.where((off_left <= off_up) & (off_left <= off_corner), left, np.where(off_up <= off_corner, up, corner))
    filtered = [here, here - left, here - up, here - (left + up) // 2, here - paeth]
    turns = [filters[k % len(filters)] for k in range(len(pixels_HWC))]
    return b"".join(
        bytes([kind]) + (filtered[kind][k] % 256).astype(np.uint8).tobytes() for k, kind in enumerate(turns)
    )
