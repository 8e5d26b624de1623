"""What a GPU is given for a pair, counted on the CPU."""

import pytest
import torch

from benchmarks.launches import association
from plca_dist.ops.blocks import gpu_rows
from plca_dist.ops.rows import aligned

H100 = 132


def test_a_pair_takes_fewer_than_700_launches():
    counts = association()
    assert counts["softmax_"] == 5 + 5 + 5  # of attend, of the way there, of the targets' columns: five blocks each
    assert counts["settle"] == 5 + 5
    assert counts.total() < 700


@pytest.mark.parametrize("positions", [1, 100, 8464, 32768, 131072])
def test_the_plan_of_blocks(positions):
    rows = gpu_rows(positions, positions, 2048, H100)
    assert rows % 128 == 0
    assert 4 * rows * positions <= 256 << 20 or rows == 128
    assert rows >= 512 or positions == 131072


def test_the_papers_size_keeps_processors_busy():
    """Five blocks; of their tiles of 128 x 256, the last rounds leave at most a sixth idle."""
    rows = gpu_rows(8464, 8464, 2048, H100)
    assert rows == 1920
    tiles = -(-rows // 128) * -(-8464 // 256)
    assert tiles / (H100 * -(-tiles // H100)) > 5 / 6


def test_blocks_begin_their_rows_where_bfloat16_wants_them():
    for columns in (1, 16, 3001):
        block = aligned(3, columns, torch.bfloat16, torch.device("cpu"))
        assert block.shape == (3, columns)
        assert block.stride(0) % 16 == 0
        assert block.stride(0) - columns < 16
