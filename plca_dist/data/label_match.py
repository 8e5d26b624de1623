"""Classes of one label set as those of another, by their names.

A class becomes the one of its name. Else it becomes the class that says so: `merges` and `same_as` of the set that is
wanted, then `same_as` of its own set. A class that fits nothing is ignored, and never mistaken for another class.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from plca_dist.data.labels import IGNORE, LabelSet
from plca_dist.errors import nearest

if TYPE_CHECKING:
    import numpy as np


def matched(there: LabelSet, here: LabelSet) -> tuple[int | None, ...]:
    """For each class of `there` the train id that it has in `here`, or None."""
    return tuple(_match(name, there, here) for name in there.classes)


def _match(name: str, there: LabelSet, here: LabelSet) -> int | None:
    if name in here.classes:
        return here.classes.index(name)
    own_names = (name, *there.same_as.get(name, ()))
    for known in own_names:
        for candidate in here.classes:
            if known in (candidate, *here.same_as.get(candidate, ()), *here.merges.get(candidate, ())):
                return here.classes.index(candidate)
    return None


def remap(there: LabelSet, here: LabelSet) -> "np.ndarray":
    """Lookup table (256,) uint8 from train ids of `there` to those of `here`; all others give IGNORE."""
    import numpy as np

    table = np.full(256, IGNORE, np.uint8)
    for train_id, other in enumerate(matched(there, here)):
        if other is not None:
            table[train_id] = other
    return table


def unmatched(there: LabelSet, here: LabelSet) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(classes of `there` that are ignored, classes of `here` that `there` does not have)."""
    found = matched(there, here)
    unused = tuple(name for name, other in zip(there.classes, found, strict=True) if other is None)
    return unused, tuple(name for i, name in enumerate(here.classes) if i not in found)


def with_nearest(names: Sequence[str], others: Sequence[str], whose: str) -> str:
    """The names, each with the nearest of the other set's names: `motorcycle (source: 'motorbike'?), train`."""
    parts = []
    for name in names:
        near = nearest(name, others).removeprefix(" Did you mean ").removesuffix("?")
        parts.append(f"{name} ({whose}: {near}?)" if near else name)
    return ", ".join(parts)
