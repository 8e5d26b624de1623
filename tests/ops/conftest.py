"""Fixtures of the operations' tests: poisoned memory, small blocks, bfloat16 operands on the CPU."""

import pytest
import torch

from benchmarks.association_measure import lower_products
from plca_dist.ops import blocks


@pytest.fixture(autouse=True)
def poisoned():
    """Fill uninitialized memory with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16 rows, whatever the number of keys, so that a test crosses many of them."""
    monkeypatch.setattr(blocks, "_CPU_BLOCK", 1)
    monkeypatch.setattr(blocks, "_FEWEST_ROWS", 16)


@pytest.fixture
def emulated_bf16():
    """Compute on the CPU as products="bf16" does on CUDA."""
    with lower_products():
        yield
