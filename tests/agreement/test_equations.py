"""The whole objective against the paper's equations, written out in plain floats: values and gradient."""

from typing import NamedTuple

import pytest
import torch

from plca_dist.method.objective import Objective
from plca_dist.method.output import NetworkOutput
from plca_dist.method.settings import ObjectiveSettings
from tests.agreement.equations import (
    BETA_1,
    BETA_2,
    BETA_3,
    CHANNELS,
    CLASSES,
    GAMMA,
    IGNORED,
    IMAGE,
    SOURCE,
    TARGET,
    HeldConstants,
    Map,
    Pair,
    by_equations,
    gradient,
    places,
)  # fmt: skip


def positions(x_CHW: torch.Tensor) -> Map:
    return x_CHW.flatten(1).T.tolist()


class Drawn(NamedTuple):
    source: NetworkOutput
    labels: torch.Tensor
    target: NetworkOutput

    def pairs(self) -> list[Pair]:
        outputs = zip(*self.source, *self.target, self.labels, strict=True)
        return [Pair(*map(positions, maps), labels.flatten().tolist()) for *maps, labels in outputs]


def draw() -> Drawn:
    """Two pairs; of the labels of both some are ignored, and the grid's cells have few classes."""
    generator = torch.Generator().manual_seed(0)

    def normal(channels: int, grid: tuple[int, int]) -> torch.Tensor:
        return torch.randn(2, channels, *grid, generator=generator, dtype=torch.float64).requires_grad_()

    labels = torch.randint(2, (2, *IMAGE), generator=generator)
    labels[:, 1::3, ::2] = 4
    labels[:, 0, 3:] = IGNORED
    return Drawn(
        NetworkOutput(normal(CHANNELS, SOURCE), normal(CLASSES, SOURCE)),
        labels,
        NetworkOutput(normal(CHANNELS, TARGET), normal(CLASSES, TARGET)),
    )


def label_so_that_no_cycle_comes_back(drawn: Drawn, pair: int, settings: tuple[float, bool, bool]) -> None:
    """A class of its own for every position of the grid, but for those that a cycle brings back to themselves."""
    _, ends = by_equations(drawn.pairs()[pair], *settings, HeldConstants())
    for own, (row, column) in enumerate(places(SOURCE, IMAGE)):
        drawn.labels[pair, row:, column:] = IGNORED if any(end[own] == own for end in ends) else own


SETTINGS = [
    (alpha, kl_contrast, contrasted)
    for alpha, kl_contrast in ((0.0, False), (0.5, False), (0.5, True), (0.3, False))
    for contrasted in (True, False)
]


@pytest.mark.parametrize("backend", ["dense", "streaming"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_objective_is_its_equations(settings: tuple[float, bool, bool], backend: str) -> None:
    """Every term of two pairs, the second without a consistent cycle, and the gradient at everything that enters."""
    drawn = draw()
    label_so_that_no_cycle_comes_back(drawn, 1, settings)
    alpha, kl_contrast, contrasted = settings
    chosen = ObjectiveSettings(
        lovasz=BETA_1,
        association=BETA_2,
        smoothing=BETA_3,
        smoothness=GAMMA,
        aggregation=alpha,
        kl_aggregation_contrast=kl_contrast,
        contrast=contrasted,
        backend=backend,
    )
    found = Objective(chosen, ignore_index=IGNORED)(*drawn)
    of_pairs = [by_equations(pair, *settings, HeldConstants())[0] for pair in drawn.pairs()]
    for level in ("feature", "prediction"):
        assert 0 < of_pairs[0][f"consistent_{level}"] < 1
        assert of_pairs[0][level] != 0
        assert of_pairs[1][f"consistent_{level}"] == of_pairs[1][level] == 0
    assert all((labels != IGNORED).any() and (labels == IGNORED).any() for labels in drawn.labels)

    for name, value in found.as_dict().items():
        expected = (of_pairs[0].pop(name) + of_pairs[1].pop(name)) / 2
        single = name.startswith("consistent")  # shares are counted in float32
        assert float(value) == pytest.approx(expected, abs=1e-7 if single else 1e-10, rel=0), name
    assert not of_pairs[0]

    leaves = [*drawn.source, *drawn.target]
    slopes = zip(*(gradient(pair, *settings) for pair in drawn.pairs()), strict=True)
    for leaf, by_autograd, by_differences in zip(leaves, torch.autograd.grad(found.total, leaves), slopes, strict=True):
        expected = torch.tensor(by_differences, dtype=torch.float64).mT.reshape(leaf.shape) / 2
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(by_autograd, expected, atol=1e-9, rtol=0)
