"""Label sets: class names, colours, and the maps between them.

A label image holds *train ids*: the index of a class in its label set, or 255 where there is nothing to learn. Two
label sets are compared by class names alone (`remap`), so shards written with one set can train a recipe that uses
another. A class that only one of the two sets has is ignored, and never mistaken for another class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from plca_dist.errors import UserError, nearest

if TYPE_CHECKING:
    import numpy as np  # elsewhere imported where it is used: settings know label sets, and answer without it

IGNORE = 255

#: Cityscapes: name -> (label id used by the official evaluator, colour). The first 19 rows are train ids 0-18.
CITYSCAPES_CLASSES: dict[str, tuple[int, tuple[int, int, int]]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}

#: SYNTHIA lacks terrain, truck and train. Its 13-class mean, by convention, also leaves out wall, fence and pole.
_NOT_IN_SYNTHIA = ("terrain", "truck", "train")
_NOT_IN_13 = (*_NOT_IN_SYNTHIA, "wall", "fence", "pole")


@dataclass(frozen=True)
class LabelSet:
    """Classes in train-id order.

    `means`: averages that are reported beside the mean over all classes, as name -> train ids, for example
    `{"mIoU-16": (0, 1, ...)}`.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    means: dict[str, tuple[int, ...]] = field(default_factory=dict, hash=False)

    def __len__(self) -> int:
        return len(self.classes)


def _cityscapes_subset(name: str, drop: Sequence[str] = (), keep: Sequence[str] = ()) -> LabelSet:
    classes = tuple(c for c in CITYSCAPES_CLASSES if c not in drop and (not keep or c in keep))
    means = {}
    for count, dropped in ((16, _NOT_IN_SYNTHIA), (13, _NOT_IN_13)):
        rest = tuple(i for i, c in enumerate(classes) if c not in dropped)
        if count == len(rest) < len(classes):
            means[f"mIoU-{count}"] = rest
    return LabelSet(name, classes, tuple(CITYSCAPES_CLASSES[c][1] for c in classes), means)


_TOYTOWN = ("road", "sidewalk", "building", "pole", "traffic sign", "vegetation", "sky", "person", "car")
_CAMVID = (
    "sky", "building", "pole", "road", "sidewalk", "vegetation", "traffic sign", "fence", "car", "person", "bicyclist",
)  # fmt: skip

LABEL_SETS: dict[str, LabelSet] = {
    "cityscapes": _cityscapes_subset("cityscapes"),
    "synthia": _cityscapes_subset("synthia", drop=_NOT_IN_SYNTHIA),
    "toytown": _cityscapes_subset("toytown", keep=_TOYTOWN),
    "camvid": LabelSet(
        "camvid",
        _CAMVID,
        # CamVid has one class for rider and bicycle together; it has the rider's colour here.
        tuple(CITYSCAPES_CLASSES["rider" if c == "bicyclist" else c][1] for c in _CAMVID),
    ),
}


def label_set(name: str) -> LabelSet:
    """The label set called `name`. Raises UserError naming the known ones."""
    if name not in LABEL_SETS:
        raise UserError(f"label set {name!r} is unknown; known: {', '.join(LABEL_SETS)}.{nearest(name, LABEL_SETS)}")
    return LABEL_SETS[name]


def remap(source: Sequence[str], target: Sequence[str]) -> "np.ndarray":
    """Lookup table (256,) uint8 from train ids of classes `source` to those of `target`; all others give IGNORE."""
    import numpy as np

    table = np.full(256, IGNORE, np.uint8)
    for i, name in enumerate(source):
        if name in target:
            table[i] = target.index(name)
    return table


def cityscapes_label_ids(classes: Sequence[str]) -> "np.ndarray":
    """Lookup table (256,) uint8 from train ids of `classes` to the official evaluator's label ids (0: unlabelled).

    Raises UserError for a class that Cityscapes does not have.
    """
    import numpy as np

    foreign = [c for c in classes if c not in CITYSCAPES_CLASSES]
    if foreign:
        raise UserError(
            f"no Cityscapes label id for {', '.join(foreign)}: label ids exist for Cityscapes classes only."
        )

    table = np.zeros(256, np.uint8)
    table[: len(classes)] = [CITYSCAPES_CLASSES[c][0] for c in classes]
    return table
