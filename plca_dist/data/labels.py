"""Label sets: class names, colours, and how raw labels are coded. Each is a YAML file; `label_file.py` reads it.

A label image holds *train ids*: the index of a class in its label set, or 255 where there is nothing to learn.
Shards of one set train a recipe of another; `label_match.py` says which class becomes which.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from plca_dist.data.coding import IGNORE as IGNORE
from plca_dist.data.coding import Coding
from plca_dist.errors import UserError, nearest

if TYPE_CHECKING:
    import numpy as np  # elsewhere imported where it is used: settings know label sets, and answer without it

Colour = tuple[int, int, int]
_FOLDER = Path(__file__).parent / "label_sets"


@dataclass(frozen=True)
class LabelSet:
    """Classes in train-id order.

    Attributes:
        means: averages that are reported beside the mean over all classes, as name -> train ids, for example
            `{"mIoU-16": (0, 1, ...)}`.
        groups: name -> train ids of classes that are also scored as one class.
        same_as: class -> names that other label sets have for this very class.
        merges: class -> classes of other label sets that this one takes in.
        coding: how label files are written that this set is named for; None: not known, of shards without their file.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    means: dict[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    same_as: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    merges: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    coding: Coding | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def averages(self) -> tuple[str, ...]:
        """Names of what is reported beside the mean over all classes."""
        return (*self.means, *self.groups)


class _Shipped(Mapping[str, LabelSet]):
    """The label sets in files of one folder by their names; a file is read when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        self._read = cache(self._of_file)

    def __getitem__(self, name: str) -> LabelSet:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def _of_file(self, name: str) -> LabelSet:
        from plca_dist.data.label_file import read_label_set  # it knows these sets, as bases of others

        return read_label_set(str(self._files[name]))


#: The shipped label sets, whose label files hold train ids.
LABEL_SETS: Mapping[str, LabelSet] = _Shipped(_FOLDER)
#: Classes of these sets in the codings of published data, by the name of the coding.
CODINGS: Mapping[str, LabelSet] = _Shipped(_FOLDER / "codings")


def label_set(name: str) -> LabelSet:
    """The shipped label set called `name`. Raises UserError naming the known ones."""
    if name not in LABEL_SETS:
        raise UserError(f"label set {name!r} is unknown; known: {', '.join(LABEL_SETS)}.{nearest(name, LABEL_SETS)}")
    return LABEL_SETS[name]


def cityscapes_ids() -> dict[str, int]:
    """Class name -> label id of the official evaluator, for the 19 classes of Cityscapes."""
    coded = CODINGS["cityscapes_label_ids"]
    assert coded.coding
    return {name: codes[0] for name, codes in zip(coded.classes, coded.coding.codes, strict=True)}


def cityscapes_label_ids(classes: Sequence[str]) -> "np.ndarray":
    """Lookup table (256,) uint8 from train ids of `classes` to the official evaluator's label ids (0: unlabelled).

    Raises UserError for a class that Cityscapes does not have.
    """
    import numpy as np

    ids = cityscapes_ids()
    foreign = [c for c in classes if c not in ids]
    if foreign:
        raise UserError(
            f"no Cityscapes label id for {', '.join(foreign)}: label ids exist for Cityscapes classes only."
        )

    table = np.zeros(256, np.uint8)
    table[: len(classes)] = [ids[c] for c in classes]
    return table
