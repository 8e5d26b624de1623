"""Classes of countable things, as against surfaces: cars and persons, not road and sky."""

from collections.abc import Sequence

from plca_dist.data.labels import LabelSet
from plca_dist.errors import UserError, nearest

#: As label sets of street scenes call them.
THINGS = frozenset(
    {
        "traffic light", "traffic sign", "person", "pedestrian", "rider", "bicyclist", "car", "autorickshaw",
        "truck", "bus", "train", "motorcycle", "bicycle",
    }
)  # fmt: skip


def things_of(labels: LabelSet, names: Sequence[str] | None) -> tuple[int, ...]:
    """Train ids of the classes `names`, or of those in `THINGS` where None are given.

    Raises UserError for a name that is no class, and where there are none.
    """
    for name in names or ():
        if name not in labels.classes:
            raise UserError(
                f"feature_distance.classes: {name!r} is no class of {labels.name!r}; its classes: "
                f"{', '.join(labels.classes)}.{nearest(name, labels.classes)}"
            )
    wanted = THINGS if names is None else frozenset(names)
    found = tuple(k for k, name in enumerate(labels.classes) if name in wanted)
    if not found:
        raise UserError(
            f"objective.feature_distance: {labels.name!r} has no class that is known as a thing; name some of its "
            f"classes in feature_distance.classes, out of {', '.join(labels.classes)}."
        )
    return found
