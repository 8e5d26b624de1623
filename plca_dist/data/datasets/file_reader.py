"""The reader of image files and their label files.

Each file is checked when it is read. Nothing downstream has to expect a broken image, a label of another size, or a
class number that the label set does not know.
"""

import hashlib
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from plca_dist.data.codec import verified_image
from plca_dist.data.datasets.dataset import ForeignLabels, Sample
from plca_dist.data.labels import IGNORE, LabelSet
from plca_dist.errors import UserError

#: Marks a raw label value that a data set does not have.
REFUSED = -1
#: How much of a file's end enters its stamp. A PNG ends with checksums of all its pixels.
_STAMP_TAIL = 4096


class LabelCode(NamedTuple):
    """How a data set writes labels: `decode` gives raw values (H, W), `train_ids` (256,) int16 maps them."""

    decode: Callable[[bytes], np.ndarray]
    train_ids: np.ndarray


def value_table(train_ids: dict[int, int], legal: Sequence[int]) -> np.ndarray:
    """Table (256,) int16 for `LabelCode`: raw value -> train id; the other `legal` values are ignored."""
    table = np.full(256, REFUSED, np.int16)
    table[list(legal)] = IGNORE
    for raw, train_id in train_ids.items():
        table[raw] = train_id
    return table


@dataclass(frozen=True)
class FileReader:
    """Samples from image files and their label files, in the same order; `labels` None: images alone."""

    dataset: str
    label_set: LabelSet | None
    ids: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[Path, ...] | None
    code: LabelCode

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, i: int) -> Sample:
        path = self.images[i]
        data = _contents(path)
        try:
            height, width = verified_image(data).shape[1:]
        except ValueError as error:
            raise UserError(f"{path}: cannot be decoded: {error}.") from error
        label = None
        if self.labels is not None:
            label = self._label(self.labels[i])
            if label.shape != (height, width):
                raise UserError(
                    f"{self.labels[i]}: the label is {label.shape[1]}x{label.shape[0]} pixels, "
                    f"its image {path} is {width}x{height}; the two must be of one size."
                )
        return Sample(self.ids[i], data, label, height, width)

    def stamp(self, i: int) -> str:
        paths = (self.images[i], self.labels[i]) if self.labels is not None else (self.images[i],)
        return "+".join(_stamp(path) for path in paths)

    def _label(self, path: Path) -> np.ndarray:
        try:
            raw = self.code.decode(_contents(path))
        except ValueError as error:
            raise UserError(f"{path}: cannot be read as a label: {error}.") from error
        values = np.flatnonzero(np.bincount(raw.reshape(-1), minlength=256))
        table = self.code.train_ids
        outside = [int(v) for v in values if v > 255 or table[v] == REFUSED]
        if outside:
            raise ForeignLabels(
                f"{path}: label values {_ranges(outside)} are not {self.dataset}'s; "
                f"allowed: {_ranges(np.flatnonzero(table != REFUSED))}. Is this the right label file and label set?"
            )
        return table.astype(np.uint8)[raw]


def _contents(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file to read. UserError for what is none: to open a pipe would wait for its writer, a device may act."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: is no file but a directory, pipe, socket or device; take it away.")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error


def _stamp(path: Path) -> str:
    """Size and a hash of the last bytes: times of change do not survive copying a data set to another machine."""
    try:
        with _opened(path) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _STAMP_TAIL))
            return f"{size}:{hashlib.sha256(file.read()).hexdigest()[:16]}"
    except UserError:
        return "unreadable"  # `load` says so, where it can be listed as a broken sample


def _ranges(values: Sequence[int] | np.ndarray, most: int = 8) -> str:
    """`0-3, 7, 255`: ascending integers in few characters."""
    runs: list[list[int]] = []
    for value in map(int, values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return ", ".join(parts[:most] + (["..."] if len(parts) > most else []))
