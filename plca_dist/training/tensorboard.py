"""TensorBoard's event files: the records of metrics.jsonl, as `tensorboard --logdir STORAGE` shows them for every run.

Every attempt at a run fills a file of its own, which is named by the time it began and by its number. The file says
first at which step it continues; TensorBoard then drops what earlier files have from that step on, because a kill had
undone it.

The format is written here because it is small. A file is a list of records (length, checksum, data, checksum), and the
data are `Event` messages of protocol buffers, of which six fields are used. TensorBoard's own writers need a path on a
disk and import far more than a worker needs.
"""

import struct
import time
from collections.abc import Iterator
from numbers import Real

from plca_dist.messages import Record
from plca_dist.run_files import TENSORBOARD
from plca_dist.training.metrics import ELAPSED, STEP

# Field numbers, shifted, with their wire types (0 integer, 1 double, 2 bytes, 5 float).
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION = 1 << 3 | 1, 2 << 3, 3 << 3 | 2, 5 << 3 | 2, 7 << 3 | 2
_VALUE = 1 << 3 | 2  # of a summary
_TAG, _SIMPLE_VALUE = 1 << 3 | 2, 2 << 3 | 5  # of a value
_STATUS = 1 << 3  # of a session
_START = 1


class EventFile:
    """The event file of one attempt, kept in memory: object stores cannot append.

    Args:
        start_step: the step that this attempt continues from.
        generation: the attempt's number.

    Attributes:
        name: the file's name in the run's directory.
    """

    def __init__(self, start_step: int, generation: int) -> None:
        now = time.time()
        self.name = f"{TENSORBOARD}/events.out.tfevents.{now:017.6f}.plca.{generation:08d}"
        self._records: list[bytes] = []
        self._add(_double(_WALL_TIME, now) + _bytes(_FILE_VERSION, b"brain.Event:2"))
        self._add(
            _double(_WALL_TIME, now) + _number(_STEP, start_step + 1) + _bytes(_SESSION, _number(_STATUS, _START))
        )

    def add(self, record: Record) -> None:
        """Add the numbers of a record at its step, with the present time."""
        summary = b"".join(
            _bytes(_VALUE, _bytes(_TAG, key.encode()) + _float(_SIMPLE_VALUE, value))
            for key, value in record.items()
            if isinstance(value, Real) and key not in (STEP, ELAPSED)
        )
        self._add(_double(_WALL_TIME, time.time()) + _number(_STEP, record[STEP]) + _bytes(_SUMMARY, summary))

    def encoded(self) -> bytes:
        """The bytes of the file so far. Any thread may call it."""
        return b"".join(self._records)

    def _add(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._records.append(b"".join((length, _checksum(length), event, _checksum(event))))


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; a byte's highest bit says that more bytes follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(key: int, value: int) -> bytes:
    return _varint(key) + _varint(value)


def _double(key: int, value: float) -> bytes:
    return _varint(key) + struct.pack("<d", value)


def _float(key: int, value: Real) -> bytes:
    return _varint(key) + struct.pack("<f", float(value))


def _bytes(key: int, value: bytes) -> bytes:
    return _varint(key) + _varint(len(value)) + value


def _table() -> Iterator[int]:
    """CRC-32C, the Castagnoli polynomial, reversed, byte by byte."""
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
        yield entry


_CRC_TABLE = tuple(_table())


def _checksum(data: bytes) -> bytes:
    """CRC-32C of the data, rotated and shifted by a constant, so that a checksum of checksums is no special case."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
