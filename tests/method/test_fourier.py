"""The Fourier swap against the discrete transform's own definition, and what it keeps."""

import cmath
import math

import numpy as np
import pytest
import torch

from plca_dist.method.fourier import in_style_of


def images(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    source, target = (torch.randint(0, 256, (2, 3, height, width), generator=generator) for _ in range(2))
    return (source // 2 + 40).to(torch.uint8), (target // 3 + 60).to(torch.uint8)


def swapped(source: np.ndarray, target: np.ndarray, half: int) -> np.ndarray:
    """One channel, by sums of exponentials: amplitudes of the target at |u|, |v| ≤ half, phases of the source."""
    height, width = source.shape
    result = np.zeros((height, width))
    for u in range(-(height // 2), height - height // 2):
        for v in range(-(width // 2), width - width // 2):
            wave = np.array(
                [[cmath.exp(-2j * math.pi * (u * y / height + v * x / width)) for x in range(width)]
                 for y in range(height)]
            )  # fmt: skip
            of_source, of_target = (source * wave).sum(), (target * wave).sum()
            amplitude = abs(of_target) if max(abs(u), abs(v)) <= half else abs(of_source)
            result += (amplitude * cmath.exp(1j * cmath.phase(of_source)) / wave).real
    return result / (height * width)


@pytest.mark.parametrize(("height", "width", "beta", "half"), [(6, 7, 0.2, 1), (8, 6, 0.4, 2), (5, 9, 0.1, 0)])
def test_it_is_its_definition(height, width, beta, half):
    source, target = images(height, width)
    found = in_style_of(source, target, beta)
    assert found.dtype == torch.uint8
    for b in range(2):
        for c in range(3):
            exact = swapped(source[b, c].numpy().astype(float), target[b, c].numpy().astype(float), half)
            away = np.abs(found[b, c].numpy() - exact.clip(0, 255))
            assert away.max() < 0.5 + 1e-3


def test_it_takes_the_target_s_mean_colour_and_keeps_the_source_s_shapes():
    source = torch.full((1, 3, 32, 64), 60, dtype=torch.uint8)
    source[..., 12:20, 30:40] = 90
    target = torch.full((1, 3, 32, 64), 150, dtype=torch.uint8)
    found = in_style_of(source, target, 0.01).float()
    assert found.mean() == pytest.approx(150, abs=0.6)
    square, around = found[..., 12:20, 30:40], found[..., :8, :]
    assert square.mean() - around.mean() == pytest.approx(30, abs=1)
    assert torch.equal(in_style_of(source, source, 0.09), source)


def test_each_pair_is_on_its_own():
    source, target = images(16, 16)
    alone = torch.cat([in_style_of(s, t, 0.1) for s, t in zip(source.split(1), target.split(1), strict=True)])
    assert torch.equal(in_style_of(source, target, 0.1), alone)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"one size"):
        in_style_of(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 9, dtype=torch.uint8), 0.1)
