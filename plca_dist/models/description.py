"""The description of a network that a weight file carries, and the differences between two descriptions."""

from collections.abc import Sequence
from typing import NamedTuple

from plca_dist.models.deeplab import Network


class Description(NamedTuple):
    """A network without its weights, with all that is needed to build it. `classes`: names in train-id order."""

    backbone: str
    style: str
    rates: tuple[int, ...]
    classes: tuple[str, ...]


def described(network: Network, classes: Sequence[str]) -> Description:
    """The description of a network whose classes are `classes`."""
    return Description(network.backbone_name, network.style.name, network.rates, tuple(classes))


def unlike(wanted: Description, here: Description, wording: str) -> list[str]:
    """Each field in which the two differ, e.g. `style 'caffe', not 'torchvision'` for the wording `{0}, not {1}`."""
    pairs = zip(Description._fields, wanted, here, strict=True)
    return [f"{field} {wording.format(_text(a), _text(b))}" for field, a, b in pairs if a != b]


def _text(value: object) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else repr(value)
