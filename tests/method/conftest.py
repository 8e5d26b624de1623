"""The paper's equations in scalar loops, float64, written from the text alone: what the method's tests compare with.

A position is a 1-D tensor of channels, a map a list of positions in row-major order; one pair at a time.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

Position = torch.Tensor
Map = list[torch.Tensor]
Similarity = Callable[[Position, Position], torch.Tensor]


@pytest.fixture(params=["dense", "streaming"], autouse=True)
def automatic(request, monkeypatch):
    """What backend "auto" means: every test of the method holds for both."""
    monkeypatch.setattr("plca_dist.ops._SMALL", {"dense": 1 << 62, "streaming": 0}[request.param])


ZERO = torch.zeros((), dtype=torch.float64)


def dot(a: Position, b: Position) -> torch.Tensor:
    return sum((x * y for x, y in zip(a, b, strict=True)), ZERO)


def cosine(a: Position, b: Position) -> torch.Tensor:
    """Eq. 1."""
    return dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())


def minus_kl(p: Position, q: Position) -> torch.Tensor:
    """Eq. 9, entropy included."""
    return -sum((x * ((x + 1e-10).log() - (y + 1e-10).log()) for x, y in zip(p, q, strict=True)), ZERO)


def contrast(row: list[torch.Tensor]) -> list[torch.Tensor]:
    """Eq. 5, 6: mean and unbiased standard deviation as plain numbers, so without gradient."""
    numbers = [d.item() for d in row]
    mean = sum(numbers) / len(numbers)
    std = math.sqrt(sum((d - mean) ** 2 for d in numbers) / (len(numbers) - 1)) if len(numbers) > 1 else 0.0
    return [(d - mean) / (std + 1e-10) for d in row]


def softmax(row: list[torch.Tensor]) -> list[torch.Tensor]:
    total = sum((d.exp() for d in row), ZERO)
    return [d.exp() / total for d in row]


def first_argmax(row: list[torch.Tensor]) -> int:
    best = 0
    for j in range(len(row)):
        if row[j] > row[best]:
            best = j
    return best


def aggregate(x: Map, alpha: float, similarity: Similarity, normalize: bool) -> Map:
    """Eq. 7, 8."""
    result = []
    for own in x:
        row = [similarity(own, other) for other in x]
        weights = softmax(contrast(row) if normalize else row)
        average = sum((w * other for w, other in zip(weights, x, strict=True)), torch.zeros_like(own))
        result.append((1 - alpha) * own + alpha * average)
    return result


def cycle(source: Map, target: Map, similarity: Similarity, i: int) -> tuple[int, int, torch.Tensor, torch.Tensor]:
    """Eq. 2, 3: j*, i* and both rows of similarities."""
    there = [similarity(source[i], t) for t in target]
    j = first_argmax(there)
    back = [similarity(target[j], s) for s in source]
    return j, first_argmax(back), there, back


def associate(
    source: Map, target: Map, labels: list[int], similarity: Similarity, ignore: int = 255
) -> SimpleNamespace:
    """Eq. 2-6 for one pair: the contrastive loss and, as `closeness_loss`, that of Sim-PLCA."""
    losses, closeness, consistent, target_index, source_index = [], [], [], [], []
    for i in range(len(source)):
        j, end, there, back = cycle(source, target, similarity, i)
        target_index.append(j)
        source_index.append(end)
        consistent.append(labels[i] != ignore and labels[i] == labels[end])
        if consistent[-1]:
            losses.append(-(softmax(contrast(there))[j] * softmax(contrast(back))[end]).log())
            closeness.append(-(there[j] + back[end]))
    count = max(len(losses), 1)
    nothing = 0 * source[0].sum()
    return SimpleNamespace(
        loss=sum(losses, nothing) / count,
        closeness_loss=sum(closeness, nothing) / count,
        consistent=consistent,
        target_index=target_index,
        source_index=source_index,
    )


def positions(x_CHW: torch.Tensor) -> Map:
    return [x_CHW[:, r, c] for r in range(x_CHW.shape[1]) for c in range(x_CHW.shape[2])]


@pytest.fixture(scope="session")
def paper() -> SimpleNamespace:
    """The definitions above."""
    return SimpleNamespace(
        similarity={"cosine": cosine, "kl": minus_kl},
        positions=positions,
        aggregate=aggregate,
        associate=associate,
    )


@pytest.fixture(scope="session")
def draw() -> Callable[..., torch.Tensor]:
    """Normal numbers from a seed; `similarity="kl"` makes them probabilities over dimension 1."""

    def draw(
        *shape: int, seed: int = 0, similarity: str = "cosine", dtype: torch.dtype = torch.float64
    ) -> torch.Tensor:
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (x.softmax(1) if similarity == "kl" else x).to(dtype)

    return draw


@pytest.fixture(scope="session")
def draw_labels() -> Callable[..., torch.Tensor]:
    """Labels among `classes`; every sixth position of an image is ignored."""

    def draw_labels(*shape: int, classes: int = 2, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1000 + seed)
        labels = torch.randint(classes, shape, generator=generator)
        labels.view(shape[0], -1)[:, 3::6] = 255
        return labels

    return draw_labels


@pytest.fixture(scope="session")
def draw_pairs(draw, draw_labels) -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Source and target leaves on unequal grids, and labels among two classes with some ignored."""

    def draw_pairs(
        similarity: str, B: int = 2, C: int = 5, source: tuple[int, int] = (3, 4), target: tuple[int, int] = (2, 5)
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        leaves = [draw(B, C, *grid, seed=s, similarity=similarity) for grid, s in ((source, 1), (target, 2))]
        return leaves[0].requires_grad_(), leaves[1].requires_grad_(), draw_labels(B, *source)

    return draw_pairs


class Output(NamedTuple):
    """What a network gives."""

    features: torch.Tensor
    logits: torch.Tensor


@pytest.fixture(scope="session")
def batch(draw, draw_labels) -> Callable[..., tuple[Output, torch.Tensor, Output]]:
    """Four pairs: features of 6 channels and logits of 4 classes on 5x6 and 4x7 grids, labels of 17x23."""

    def outputs(grid: tuple[int, int], seed: int, dtype: torch.dtype) -> Output:
        logits = 2 * draw(4, 4, *grid, seed=seed + 1, dtype=dtype)
        return Output(draw(4, 6, *grid, seed=seed, dtype=dtype).requires_grad_(), logits.requires_grad_())

    def batch(dtype: torch.dtype = torch.float64) -> tuple[Output, torch.Tensor, Output]:
        return outputs((5, 6), 1, dtype), draw_labels(4, 17, 23, classes=4), outputs((4, 7), 3, dtype)

    return batch
