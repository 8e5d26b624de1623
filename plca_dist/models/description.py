"""The description of a network that a weight file carries, and the differences between two descriptions."""

from collections.abc import Sequence
from typing import NamedTuple

from plca_dist.models.architecture import OUTPUT_STRIDE, TIMM, Style
from plca_dist.models.deeplab import Network, build_network
from plca_dist.models.timm_backbone import timm_style


class Description(NamedTuple):
    """A network without its weights, with all that is needed to build it.

    Attributes:
        classes: names in train-id order.
        mean: with `std` the input of a network of timm, in units of 0-255; empty for a ResNet, whose style says it.
    """

    backbone: str
    style: str
    rates: tuple[int, ...]
    classes: tuple[str, ...]
    head: str = "deeplab"
    stride: int = OUTPUT_STRIDE
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def written(self) -> dict[str, object]:
        """As files hold it. What came later is left out at its default, so that files of ResNets stay as they were."""
        late = self._field_defaults
        return {key: value for key, value in self._asdict().items() if key not in late or value != late[key]}

    def build(self) -> Network:
        """The network, freshly initialized. Raises UserError as `build_network` does."""
        style: str | Style = timm_style(self.mean, self.std) if self.backbone.startswith(TIMM) else self.style
        return build_network(
            self.backbone, len(self.classes), style=style, rates=self.rates, head=self.head, stride=self.stride
        )


def described(network: Network, classes: Sequence[str]) -> Description:
    """The description of a network whose classes are `classes`."""
    style = network.style
    input_of_timm = (style.mean, style.std) if network.backbone_name.startswith(TIMM) else ((), ())
    return Description(
        network.backbone_name,
        style.name,
        network.rates,
        tuple(classes),
        network.head,
        network.stride,
        *input_of_timm,
    )


def unlike(wanted: Description, here: Description, wording: str) -> list[str]:
    """Each field in which the two differ, e.g. `style 'caffe', not 'torchvision'` for the wording `{0}, not {1}`."""
    pairs = zip(Description._fields, wanted, here, strict=True)
    return [f"{field} {wording.format(_text(a), _text(b))}" for field, a, b in pairs if a != b]


def _text(value: object) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else repr(value)
