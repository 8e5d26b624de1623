"""Fixtures of the kernels' tests. Kernels are compiled where there is a GPU and interpreted by Triton elsewhere.

`tests/conftest.py` chooses. Every comparison is with float64; `close` states how far a result may be from it.
"""

from collections.abc import Callable

import pytest
import torch

#: Largest difference, relative to the largest value.
FLOAT32 = 1e-5
#: Largest difference of a bfloat16 number, relative to itself; its root mean square is at most half as large. Hardware
#: rounds to the nearest, the interpreter truncates.
BFLOAT16 = 2**-8 if torch.cuda.is_available() else 2**-7


@pytest.fixture(scope="session")
def device() -> str:
    """The device of the kernels. Without a GPU it is "cpu", and the interpreter must be on."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction

    from plca_dist.ops.triton import common

    if torch.cuda.is_available():
        return "cuda"
    compiled = [f.__module__ for f in (tl.max, common.first_best) if not isinstance(f, InterpretedFunction)]
    assert not compiled, f"{compiled} was imported (torchvision does) before TRITON_INTERPRET=1 was set: set it earlier"
    return "cpu"


@pytest.fixture(scope="session")
def draw() -> Callable[..., torch.Tensor]:
    """`draw(*shape, seed=…)`: normal numbers in float64."""

    def draw(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    """`close(actual, expected)` asserts that float32 or bfloat16 numbers are float64 ones within the bounds above.

    NaN and infinities must be at the same places.
    """

    def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = FLOAT32) -> None:
        expected = expected.detach().double().cpu()
        low, actual = actual.dtype == torch.bfloat16, actual.detach().double().cpu()
        assert actual.shape == expected.shape
        finite = expected.isfinite()
        torch.testing.assert_close(actual[~finite], expected[~finite], rtol=0, atol=0, equal_nan=True)
        actual, expected = actual[finite], expected[finite]
        error, size = (actual - expected).abs(), expected.abs().max() if len(expected) else torch.zeros(())
        allowed = tolerance * size
        if low:
            allowed = allowed + BFLOAT16 * expected.abs()
            relative = (error / expected.abs())[expected.abs() > 1e-3 * size]
            assert len(relative) < 50 or relative.square().mean().sqrt() <= BFLOAT16 / 2
        assert (error <= allowed).all(), f"off by {(error.max() / size).item():.2g} of the largest"

    return close
