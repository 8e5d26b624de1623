"""The paper's Figure 2: how spatial aggregation spreads one association's gradient over the target image.

Shapes: C channels or classes, h x w the target's grid, Nt = h·w its positions; B is 1.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from plca_dist.data.labels import IGNORE
from plca_dist.data.whole_images import Pair
from plca_dist.errors import UserError
from plca_dist.method.aggregation import aggregate
from plca_dist.method.association import cycles
from plca_dist.method.settings import AssociationSettings, InferenceSettings
from plca_dist.models.deeplab import Network
from plca_dist.report.associations import Maps, associations, maps
from plca_dist.report.figure import painted

_WIDTH, _GAP, _HEAD, _FOOT = 1280, 12, 30, 56  # px
#: Where the colour scale begins, as a share of the gradient that each position would get if all got the same.
_OF_EVEN = 0.1
_COLOURS = "viridis"  # its steps look even to every eye, and in print
_OPACITY = 0.6  # the same everywhere: grey amid purple looks like yellow, which is the other end of the scale


@dataclass(frozen=True)
class DiffusionPicture:
    """A PNG file, and its position j as row and column of the grid.

    `elsewhere`: with aggregation, the share of the gradient that is not at j itself, between 0 and 1.
    """

    png: bytes = field(repr=False)
    position: tuple[int, int]
    elsewhere: float


def diffusion_picture(
    network: Network,
    pair: Pair,
    *,
    size: tuple[int, int] | None,
    aggregation: float,
    position: tuple[int, int] | None = None,
    level: str = "feature",
    inference: InferenceSettings = InferenceSettings(),
) -> DiffusionPicture | None:
    """The target image, and on top of it the gradient of one association without aggregation and with λ.

    The picture shows `diffused` as a share of its sum over the image.

    Args:
        pair: images, each resized to `size` for the network (None: as they are), and the source's label.
        aggregation, inference: λ and the other settings of the network's training.
        position: j, as row and column of the target's grid. It must be associated: a consistent cycle goes through it,
            both without aggregation and with λ. None: the position that most such cycles go through.
        level: "feature" (Eq. 4) or "prediction" (Eq. 10).

    Returns:
        None where no position is associated, or where the association has no gradient because a map is constant.

    Raises UserError for an unknown level, and for a position that is outside the grid or not associated.
    """
    of = maps(network, pair, size=size, level=level)
    ratios = tuple(dict.fromkeys((0.0, aggregation)))
    through = torch.stack([associations(of, aggregation=ratio, inference=inference).through for ratio in ratios]).amin(
        0
    )
    place = _checked(position, of.target_grid, through) if position else _busiest(of.target_grid, through)
    if place is None:
        return None
    shares = {}
    for ratio in ratios:
        norm_hw = diffused(of, place, aggregation=ratio, inference=inference).double().cpu().numpy()
        if not norm_hw.any():
            return None
        shares[ratio] = norm_hw / norm_hw.sum()
    image_HW3 = pair.target_image.permute(1, 2, 0).numpy()
    return DiffusionPicture(_drawn(image_HW3, shares, place), place, 1 - float(shares[aggregation][place]))


def diffused(
    of: Maps,
    place: tuple[int, int],
    *,
    aggregation: float,
    inference: InferenceSettings = InferenceSettings(),
) -> Tensor:
    """The part of the gradient at j that reaches each target position j': ‖(∂F̂_j/∂F_j')ᵀ ∂L_j/∂F̂_j‖, (h, w).

    j is the position at `place`. L_j is the sum of Eq. 4's terms over the consistent cycles through j. F is the
    target's map and F̂ the aggregated one (Eq. 7). Without aggregation F̂_j is F_j, so the whole gradient stays at j.

    The other positions get a gradient of their own at any λ, because they are candidates of the same softmax.
    Aggregation does not spread that one. It is left out: the F̂ of the other positions is held constant.

    Settings as of `association_loss`.
    """
    with torch.enable_grad():
        target_1Chw = of.target.detach().requires_grad_()
        contrast = inference.kl_aggregation_contrast if of.similarity == "kl" else None
        aggregated_1Chw = aggregate(
            target_1Chw, aggregation, of.similarity, contrast=contrast, pairwise=inference.pairwise
        )
        is_j_hw = torch.zeros(of.target_grid, dtype=torch.bool, device=target_1Chw.device)
        is_j_hw[place] = True
        found = cycles(
            of.source,
            torch.where(is_j_hw, aggregated_1Chw, aggregated_1Chw.detach()),
            of.labels,
            AssociationSettings(of.similarity, aggregation=0.0, ignore_index=IGNORE, pairwise=inference.pairwise),
        )
        # The log-probability of an inconsistent cycle is 0.
        loss = -found.log_probability[found.target_index == is_j_hw.flatten().nonzero()[0]].sum()
        [gradient_1Chw] = torch.autograd.grad(loss, target_1Chw)
    return gradient_1Chw[0].norm(dim=0)


def _busiest(grid: tuple[int, int], through_N: Tensor) -> tuple[int, int] | None:
    return divmod(int(through_N.argmax()), grid[1]) if through_N.any() else None


def _checked(place: tuple[int, int], grid: tuple[int, int], through_N: Tensor) -> tuple[int, int]:
    row, column = place
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise UserError(f"position {row}, {column} is outside the grid of {grid[0]} rows and {grid[1]} columns.")
    if not through_N[row * grid[1] + column]:
        raise UserError(f"position {row}, {column} has no consistent cycle through it; leave it out to have one found.")
    return row, column


def _drawn(image_HW3: np.ndarray, shares: dict[float, np.ndarray], place: tuple[int, int]) -> bytes:
    """The image, and beside it for each ratio the image under that ratio's share map (h, w); `place` is marked."""
    rows, columns = next(iter(shares.values())).shape
    scale = LogNorm(_OF_EVEN / (rows * columns), 1)
    pictures = {"target": image_HW3}
    for ratio, share_hw in shares.items():
        title = f"gradient, aggregation λ = {ratio:g}" if ratio else "gradient, no aggregation"
        pictures[title] = _heated(image_HW3, share_hw, scale)
    width = (_WIDTH - (len(pictures) - 1) * _GAP) / len(pictures)
    height = width * image_HW3.shape[0] / image_HW3.shape[1]
    whole = round(_HEAD + height + _FOOT)

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        for k, (title, picture_HW3) in enumerate(pictures.items()):
            left = k * (width + _GAP) / _WIDTH
            axes = figure.add_axes((left, 1 - (_HEAD + height) / whole, width / _WIDTH, height / whole))
            axes.set_title(title, fontsize=10)
            axes.axis("off")
            axes.imshow(picture_HW3, extent=(0, columns, rows, 0), aspect="auto")
            _mark(axes, place)
        figure.text(0.19, (_FOOT - 18) / whole, "share of the gradient", ha="right", va="center", fontsize=9)
        bar_axes = figure.add_axes((0.2, (_FOOT - 24) / whole, 0.6, 12 / whole))
        bar = figure.colorbar(
            ScalarMappable(scale, _COLOURS), bar_axes, orientation="horizontal", extend="min", alpha=0.85
        )
        bar.ax.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")

    return painted(draw, (_WIDTH, whole))


def _heated(image_HW3: np.ndarray, share_hw: np.ndarray, scale: LogNorm) -> np.ndarray:
    """The image in pale grey under the colours of the shares. Each position is a cell; nothing is interpolated."""
    size = image_HW3.shape[:2]
    cells = np.ix_(*(np.arange(n) * cells // n for n, cells in zip(size, share_hw.shape, strict=True)))
    heat_HW3 = 255 * colormaps[_COLOURS](np.clip(scale(share_hw.clip(1e-30)), 0, 1))[cells][..., :3]
    grey_HW1 = 60 + 0.75 * np.dot(image_HW3, (0.299, 0.587, 0.114))[..., None]
    return (_OPACITY * heat_HW3 + (1 - _OPACITY) * grey_HW1).round().astype(np.uint8)


def _mark(axes: Axes, place: tuple[int, int]) -> None:
    for ink, thickness in (("white", 3.5), ("black", 1.2)):
        [ring] = axes.plot(place[1] + 0.5, place[0] + 0.5, "o", fillstyle="none", color=ink, markersize=15)
        ring.set(markeredgewidth=thickness, clip_on=False)
