"""What a term of the objective is that needs more than two outputs: it sees the whole scene of a forward pass.

Shapes: B pairs, K classes, H x W the images' size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from plca_dist.method.output import NetworkOutput

T = TypeVar("T")


class Passing(Protocol):
    """The network that trains, for images of a term's own (B, 3, H, W), uint8 or float RGB in 0-255."""

    def __call__(self, image_B3HW: Tensor, *, keep_statistics: bool = False) -> NetworkOutput:
        """`keep_statistics`: batch norm's running statistics stay as they are. It normalizes by the batch as ever."""


@dataclass(frozen=True)
class Scene:
    """One forward pass of B pairs, the k-th source with the k-th target.

    Attributes:
        source: the network's output for the source images.
        labels_BHW: int64 labels of the source.
        target: the same for the target; None where no term looks at it.
        source_image_B3HW: uint8 or float RGB in 0-255.
        target_image_B3HW: the same of the target.
        network: the network that trains, in training mode.
        draw: `draw("class_mix", n)` gives (B, n) float32 numbers, uniform in [0, 1), on the device. A row depends on
            the recipe's seed, the step, the pair's slot and the name alone: not on the ranks, nor on the micro-batch.
    """

    source: NetworkOutput
    labels_BHW: Tensor
    target: NetworkOutput | None
    source_image_B3HW: Tensor
    target_image_B3HW: Tensor | None
    network: Passing
    draw: Callable[[str, int], Tensor]
    _shared: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once a forward pass: several terms share it."""
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]


class Term(Protocol):
    """A term beside those of the paper. `name` is that of its weight in the settings, and of its loss in `LossTerms`.

    The loss is a mean over pairs of a value of the pair alone. So a batch's loss does not depend on how it is split.
    """

    name: str

    def __call__(self, scene: Scene) -> Mapping[str, Tensor]:
        """The loss, unweighted, under `name`; beside it what is measured on the way, under other names of LossTerms."""


class Companion(Protocol):
    """State beside the network: a teacher, a discriminator with its optimizer, thresholds.

    Every rank holds all of it, and the same. Rank 0 saves it in each checkpoint, and every rank loads that. So what
    changes it has to be the same on every rank: the weights, or what the ranks have summed.
    """

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, which determine all that follows."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse. Raises KeyError or RuntimeError for the state of another object."""

    def after_step(self, network: nn.Module, done: int) -> None:
        """The optimizer has made its `done`-th step of the run on `network`, whose weights are whole. Collective."""
