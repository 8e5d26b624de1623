"""The gradient that aggregation spreads, against the equations written out in float64, and its picture."""

import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from plca_dist.data.labels import IGNORE, label_set
from plca_dist.data.whole_images import Pair, whole_pairs
from plca_dist.errors import UserError
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.deeplab import Network, build_network
from plca_dist.ops.settings import Pairwise
from plca_dist.report.associations import Maps, associations
from plca_dist.report.diffusion_picture import DiffusionPicture, diffused, diffusion_picture
from plca_dist.storage import resolve
from tests.colour_pair import PAIR, RED, Colours, cells

LABELS = label_set("toytown")
SOURCE, TARGET, CHANNELS = (3, 4), (4, 5), 6


def normalized(score_NM: Tensor) -> Tensor:
    """Eq. 5, 6: by the mean and standard deviation of the row, which carry no gradient."""
    return (score_NM - score_NM.mean(1, keepdim=True).detach()) / (score_NM.std(1, keepdim=True).detach() + 1e-10)


def similarity_of(a_NC: Tensor, b_MC: Tensor, similarity: str) -> Tensor:
    """Eq. 1, Eq. 9."""
    if similarity == "cosine":
        return (a_NC / a_NC.norm(dim=1, keepdim=True)) @ (b_MC / b_MC.norm(dim=1, keepdim=True)).T
    return -(a_NC[:, None] * ((a_NC + 1e-10).log()[:, None] - (b_MC + 1e-10).log()[None])).sum(-1)


def written_out(
    source_NC: Tensor, target_MC: Tensor, labels_N: Tensor, j: int, ratio: float, similarity: str, contrast: bool
) -> Tensor:
    """The equations in the docstring of `diffused`, one after the other."""
    target_MC = target_MC.clone().requires_grad_()
    weight = similarity_of(target_MC, target_MC, similarity)
    if similarity == "cosine" or contrast:
        weight = normalized(weight)
    aggregated_MC = (1 - ratio) * target_MC + ratio * weight.softmax(1) @ target_MC
    constant_MC = aggregated_MC.detach()
    seen_MC = torch.cat([constant_MC[:j], aggregated_MC[j : j + 1], constant_MC[j + 1 :]])
    there = similarity_of(source_NC, seen_MC, similarity)
    back = similarity_of(seen_MC, source_NC, similarity)
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(len(source_NC)):
        if there[i].argmax() == j and labels_N[i] != IGNORE and labels_N[back[j].argmax()] == labels_N[i]:
            loss = loss - normalized(there).log_softmax(1)[i, j]
            loss = loss - normalized(back).log_softmax(1)[j, back[j].argmax()]
    [gradient_MC] = torch.autograd.grad(loss, target_MC)
    return gradient_MC.norm(dim=1)


def drawn(similarity: str) -> Maps:
    generator = torch.Generator().manual_seed(3)
    both = [torch.randn(1, CHANNELS, *s, generator=generator, dtype=torch.float64) for s in (SOURCE, TARGET)]
    labels = torch.randint(0, 2, (1, *SOURCE), generator=generator)
    labels[0, 0, 0] = IGNORE
    source, target = ((2 * x).softmax(1) if similarity == "kl" else x for x in both)
    return Maps(source, target, labels, similarity)


@pytest.mark.parametrize(("similarity", "contrast"), [("cosine", False), ("kl", False), ("kl", True)])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("backend", ["dense", "streaming"])
def test_the_gradient_is_that_of_the_equations(similarity: str, contrast: bool, ratio: float, backend: str) -> None:
    of = drawn(similarity)
    inference = InferenceSettings(contrast, Pairwise(backend=backend))
    associated = associations(of, aggregation=ratio, inference=inference).through.nonzero().flatten().tolist()
    assert associated
    for j in associated:
        norm_hw = diffused(of, divmod(j, TARGET[1]), aggregation=ratio, inference=inference)
        flat = (of.source[0].flatten(1).T, of.target[0].flatten(1).T, of.labels.flatten())
        expected_M = written_out(*flat, j, ratio, similarity, contrast)
        torch.testing.assert_close(norm_hw.flatten(), expected_M, rtol=1e-10, atol=1e-13)
        assert (norm_hw.flatten().nonzero().flatten().tolist() == [j]) == (ratio == 0)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return build_network("tiny", len(LABELS), rates=(1, 2))


@pytest.fixture(scope="module")
def pair(toytown_shards: Path) -> Pair:
    shards = resolve(str(toytown_shards))
    return next(iter(whole_pairs(shards.child("source"), shards.child("target"), LABELS, 1, 0, 1)))


@pytest.fixture(scope="module")
def found(network: Network, pair: Pair) -> DiffusionPicture:
    made = diffusion_picture(network, pair, size=(64, 128), aggregation=0.5)
    assert made is not None
    return made


def heat(png: bytes, panel: int, count: int) -> np.ndarray:
    """Mask of a panel without title and edges: True where the colour is not that of the scale's low end."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    width = pixels.shape[1] // count
    inside = pixels[32 : pixels.shape[0] - 60, panel * width + 12 : (panel + 1) * width - 12]
    # Grey lies under the colour, so the difference of red and green is the colour's alone.
    red, green, _ = matplotlib.colormaps["viridis"](0.0)[:3]
    return abs(inside[..., 0] - inside[..., 1] - 0.6 * 255 * (red - green)) > 3


def test_the_picture_is_a_cell_without_aggregation_and_a_map_with_it(found: DiffusionPicture) -> None:
    assert 0.05 < found.elsewhere < 0.95
    one_cell = 1 / (8 * 16)
    assert 0.5 * one_cell < heat(found.png, 1, 3).mean() < 2 * one_cell
    assert heat(found.png, 2, 3).mean() > 0.5


def test_a_position_can_be_chosen(network: Network, pair: Pair, found: DiffusionPicture) -> None:
    again = diffusion_picture(network, pair, size=(64, 128), aggregation=0.5, position=found.position)
    assert again == found
    with pytest.raises(UserError, match=r"position 8, 0 is outside the grid of 8 rows and 16 columns"):
        diffusion_picture(network, pair, size=(64, 128), aggregation=0.5, position=(8, 0))
    of_none = pair._replace(source_label=torch.full_like(pair.source_label, IGNORE))
    with pytest.raises(UserError, match="no consistent cycle through it"):
        diffusion_picture(network, of_none, size=(64, 128), aggregation=0.5, position=found.position)


def test_nothing_is_drawn_where_nothing_is_associated(network: Network, pair: Pair) -> None:
    of_none = pair._replace(source_label=torch.full_like(pair.source_label, IGNORE))
    assert diffusion_picture(network, of_none, size=None, aggregation=0.5) is None


def test_nothing_is_drawn_where_all_is_alike() -> None:
    of_one = Pair(cells([[RED, RED]]), cells([[0, 0]]), cells([[RED, RED], [RED, RED]]))
    assert diffusion_picture(Colours(), of_one, size=None, aggregation=0.5) is None
    assert diffusion_picture(Colours(), PAIR, size=None, aggregation=0.5) is not None


def test_without_aggregation_all_of_it_stays(network: Network, pair: Pair) -> None:
    found = diffusion_picture(network, pair, size=(64, 128), aggregation=0.0, level="prediction")
    assert found is not None
    assert found.elsewhere == 0
    assert 0.5 < 8 * 16 * heat(found.png, 1, 2).mean() < 2
