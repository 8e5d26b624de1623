"""The paper's Figure 1 of one pair of images: cycles source -> target -> source, coloured by class.

Shapes: H x W pixels, h x w the network's grid.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke
from torch import Tensor

from plca_dist.data.labels import IGNORE, LabelSet
from plca_dist.data.whole_images import Pair
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.deeplab import Network
from plca_dist.report.associations import Associations, associations, maps
from plca_dist.report.figure import GREY, painted

_WIDTH, _HEAD, _ROW = 1280, 30, 24  # px; the last is the height of a row of the key
_COLUMNS = 8  # in the key
_GAP = 0.12  # between the images, as a share of their height
_FAINT = 24  # how many inconsistent cycles are drawn
#: One for each class beside its colour, because not everyone can tell the colours apart.
_MARKERS = "os^vDPpXhd<>8H*"
_DASHED = (0, (4, 2))
_Point = tuple[float, float]
_Colour = tuple[float, float, float]


@dataclass(frozen=True)
class AssociationPicture:
    """A PNG file, and statistics of all cycles of its pair: shares between 0 and 1 (see `associations.Associations`).

    `correct` is None where no cycle can be judged, for instance without labels of the target.
    """

    png: bytes = field(repr=False)
    consistent: float
    covered: float
    correct: float | None

    @property
    def caption(self) -> str:
        text = f"{self.consistent:.0%} of the labelled starts consistent, {self.covered:.0%} of the target covered"
        return text if self.correct is None else f"{text}, {self.correct:.0%} of the associations correct"


class _Side(NamedTuple):
    """One of the two images, drawn 1 high: its pixels (H, W, 3), its grid (h, w), and the x of its left edge."""

    pixels: np.ndarray
    grid: tuple[int, int]
    left: float

    @property
    def right(self) -> float:
        return self.left + self.pixels.shape[1] / self.pixels.shape[0]

    def at(self, position: int | Tensor) -> _Point:
        """x, y of the middle of a grid position, which is an index in row-major order."""
        row, column = divmod(int(position), self.grid[1])
        return self.left + (column + 0.5) / self.grid[1] * (self.right - self.left), (row + 0.5) / self.grid[0]


def association_picture(
    network: Network,
    pair: Pair,
    labels: LabelSet,
    *,
    size: tuple[int, int] | None,
    aggregation: float,
    target_label: Tensor | None = None,
    level: str = "feature",
    inference: InferenceSettings = InferenceSettings(),
    shown: int = 24,
    seed: int = 0,
) -> AssociationPicture:
    """Draw `shown` consistent cycles of the pair, spread over its classes, and some inconsistent ones faintly.

    Args:
        pair: images, each resized to `size` for the network (None: as they are), and the source's label.
        aggregation, inference: λ and the other settings of the network's training.
        target_label: (H', W') uint8 train ids of the target image; only `correct` needs them.
        level: "feature" (Eq. 4) or "prediction" (Eq. 10).
        seed: of the random choice of cycles.

    Raises UserError for an unknown level.
    """
    cycles = associations(
        maps(network, pair, size=size, level=level),
        aggregation=aggregation,
        inference=inference,
    )
    rng = np.random.default_rng(seed)
    drawn = _spread(cycles, cycles.consistent, shown, rng)
    faint = _spread(cycles, ~cycles.consistent & (cycles.label != IGNORE), _FAINT, rng)
    return AssociationPicture(
        _drawn(pair, labels, cycles, drawn, faint),
        cycles.consistent_share,
        cycles.covered_share,
        None if target_label is None else cycles.correct_share(target_label),
    )


def _spread(cycles: Associations, among: Tensor, most: int, rng: np.random.Generator) -> list[int]:
    """At most `most` random starts of the mask `among`.

    The classes take turns, so that a class of few positions is seen beside one of many.
    """
    by_class: dict[int, list[int]] = {}
    for start in rng.permutation(among.nonzero().flatten().numpy()).tolist():
        by_class.setdefault(int(cycles.label[start]), []).append(start)
    turns = [(turn, label, start) for label, starts in by_class.items() for turn, start in enumerate(starts)]
    return [start for _, _, start in sorted(turns)[:most]]


def _drawn(pair: Pair, labels: LabelSet, cycles: Associations, shown: list[int], faint: list[int]) -> bytes:
    source_HW3, target_HW3 = (image.permute(1, 2, 0).numpy() for image in (pair.source_image, pair.target_image))
    source = _Side(source_HW3, cycles.source_grid, 0)
    target = _Side(target_HW3, cycles.target_grid, source.right + _GAP)
    points = _points(labels, {int(cycles.label[start]) for start in shown})
    height = round(_WIDTH / target.right)
    foot = _ROW * (2 + max(-(-len(points) // _COLUMNS), 1))
    whole = _HEAD + height + foot

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, foot / whole, 1, height / whole))
        axes.set(xlim=(0, target.right), ylim=(1, 0))
        axes.axis("off")
        for side, title in ((source, "source"), (target, "target")):
            axes.imshow(side.pixels, extent=(side.left, side.right, 1, 0), aspect="auto", alpha=0.85)
            axes.text(side.left, -0.02, title, va="bottom", weight="bold", fontsize=10)
        for start in [*faint, *shown]:
            label = int(cycles.label[start]) if cycles.consistent[start] else None
            _draw_cycle(
                axes, source.at(start), target.at(cycles.target[start]), source.at(cycles.back[start]), label, labels
            )
        figure.legend(
            handles=points, loc="lower center", bbox_to_anchor=(0.5, _ROW / whole), ncols=_COLUMNS, fontsize=10
        )
        figure.legend(handles=_lines(), loc="lower center", ncols=4, fontsize=10)

    return painted(draw, (_WIDTH, whole))


def _draw_cycle(axes: Axes, begin: _Point, there: _Point, end: _Point, label: int | None, labels: LabelSet) -> None:
    """A solid line to the target and a dashed line back, in the colour of the class `label`; None: thin and grey."""
    style: dict[str, Any] = {"color": GREY, "linewidth": 0.7}
    if label is not None:
        ink, halo = _inks(labels, label)
        outline = withStroke(linewidth=3.4, foreground=halo, alpha=0.6)
        style = {"color": ink, "linewidth": 1.4, "path_effects": [outline]}
    for a, b, dash in ((begin, there, "-"), (there, end, _DASHED)):
        line = FancyArrowPatch(a, b, arrowstyle="-", connectionstyle="arc3,rad=-0.03", shrinkA=0, shrinkB=0)
        line.set(linestyle=dash, clip_on=False, **style)
        axes.add_patch(line)
    if label is not None:
        for point, fill, edge in ((begin, ink, halo), (there, ink, halo), (end, "white", ink)):
            axes.plot(*point, _marker(label), markersize=7, color=fill, markeredgecolor=edge, zorder=3)


def _points(labels: LabelSet, present: Iterable[int]) -> list[Line2D]:
    """The key to the points: the classes present."""
    return [_entry(labels.classes[k], marker=_marker(k), color=_inks(labels, k)[0], ls="none") for k in sorted(present)]


def _lines() -> list[Line2D]:
    """The key to the lines."""
    return [
        _entry("to the best target", color="black"),
        _entry("back to the best source of that", color="black", ls=_DASHED),
        _entry("end of the cycle", marker="o", color="white", markeredgecolor="black", ls="none"),
        _entry("inconsistent", color=GREY, linewidth=0.7),
    ]


def _entry(text: str, **style: Any) -> Line2D:
    return Line2D([], [], label=text, markersize=7, **style)


def _marker(label: int) -> str:
    return _MARKERS[label % len(_MARKERS)]


def _inks(labels: LabelSet, label: int) -> tuple[_Colour, str]:
    """The class's colour, and the colour of its outline: white around a dark colour, black around a light one."""
    red, green, blue = (part / 255 for part in labels.palette[label])
    return (red, green, blue), "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
