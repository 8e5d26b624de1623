"""How raw label files say which class a pixel has: numbers, palette indices, or colours.

A *code* is the raw value of a pixel as one number: the sample itself, or 0xRRGGBB of a colour.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np  # elsewhere imported where it is used: settings know label sets, and answer without it

#: The train id of pixels without a class.
IGNORE = 255
#: Marks a code that belongs to no class and is not ignored either.
REFUSED = 254
#: A train id is one byte, of which two values are taken.
MOST_CLASSES = 254
#: The form of label files -> what it is, for a person.
FORMS = {
    "index": "one channel of numbers, or the indices of a palette",
    "red": "numbers in the first channel of a colour image",
    "colour": "RGB colours",
}
#: The largest number that a label file of form "index" or "red" holds.
MOST_NUMBER = 65_535


@dataclass(frozen=True)
class Coding:
    """Codes of each class, in train-id order, and ignored ones; all others are refused. `form`: one of FORMS."""

    form: str
    codes: tuple[tuple[int, ...], ...]
    ignored: tuple[int, ...]

    @property
    def things(self) -> str:
        """What a pixel has: values or colours."""
        return "colours" if self.form == "colour" else "values"

    @property
    def allowed(self) -> tuple[int, ...]:
        """All codes that are not refused, ascending."""
        return tuple(sorted({code for codes in self.codes for code in codes} | set(self.ignored)))

    def text(self, codes: Iterable[int], most: int = 8) -> str:
        """Ascending codes in few characters: `0-3, 7, 255`, or `#804080, #ff0000`."""
        if self.form != "colour":
            return ranges(codes, most)
        shown = [f"#{code:06x}" for code in codes]
        return ", ".join(shown[:most] + (["..."] if len(shown) > most else []))

    def table(self) -> "np.ndarray":
        """Lookup table uint8 from codes to train ids, IGNORE or REFUSED; as long as the form has codes."""
        return _table(self)

    def record(self) -> dict[str, object]:
        """As plain data for JSON."""
        return {"form": self.form, "codes": [list(codes) for codes in self.codes], "ignored": list(self.ignored)}


@lru_cache(maxsize=4)
def _table(coding: Coding) -> "np.ndarray":
    import numpy as np

    table = np.full(1 << 24 if coding.form == "colour" else MOST_NUMBER + 1, REFUSED, np.uint8)
    table[list(coding.ignored)] = IGNORE
    for train_id, codes in enumerate(coding.codes):
        table[list(codes)] = train_id
    table.flags.writeable = False
    return table


def train_ids(classes: int) -> Coding:
    """The coding of label files that hold the train ids themselves, and 255 where there is nothing to learn."""
    return Coding("index", tuple((i,) for i in range(classes)), (IGNORE,))


def from_record(tree: dict[str, object]) -> Coding:
    """The inverse of `Coding.record`. Raises one of `parsing.MISFITS` for other data."""
    codes: Sequence[Sequence[int]] = tree["codes"]  # type: ignore[assignment]
    ignored: Sequence[int] = tree["ignored"]  # type: ignore[assignment]
    return Coding(str(tree["form"]), tuple(map(tuple, codes)), tuple(ignored))


def ranges(values: Iterable[int], most: int = 8) -> str:
    """`0-3, 7, 255`: ascending integers in few characters."""
    runs: list[list[int]] = []
    for value in map(int, values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return ", ".join(parts[:most] + (["..."] if len(parts) > most else []))
