"""A sample, the `Reader` that gives samples, and the `Dataset` that opens a reader."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from plca_dist.data.labels import LabelSet
from plca_dist.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One image with its label.

    `image` holds the encoded bytes as they came; `label` is (height, width) uint8 train ids, or None. `notes`: what
    reading the image does to its pixels beyond decoding, in words (see `formats.changes`).
    """

    id: str
    image: bytes
    label: np.ndarray | None
    height: int
    width: int
    notes: tuple[str, ...] = ()


class ForeignLabels(UserError):
    """A sound label file with values that the label set does not have: most often, all labels are coded otherwise."""


class Reader(Protocol):
    """The samples of a data set in a fixed order."""

    @property
    def dataset(self) -> str:
        """The data set's name in the manifest."""

    @property
    def label_set(self) -> LabelSet | None:
        """The label set of the train ids; None only for images without labels that name none."""

    @property
    def labelled(self) -> bool:
        """Whether `load` gives labels."""

    @property
    def ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def load(self, i: int) -> Sample:
        """Sample i, checked. Raises UserError naming the file that is broken; `ForeignLabels` where its values are."""

    def stamp(self, i: int) -> str:
        """A cheap fingerprint of the files behind `load(i)`; it changes when their content does."""


@dataclass(frozen=True)
class Dataset:
    """One kind of data set that can be opened.

    Attributes:
        layout: its files, described for a person.
        options: arguments of `open_dataset` that it takes beyond `root` and `with_labels`.
        open: makes its reader.
    """

    layout: str
    options: tuple[str, ...]
    open: Callable[..., Reader]
