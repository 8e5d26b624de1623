"""The kernels on a block of scores against the same functions in plain torch, computed in float64."""

import math

import pytest
import torch

from plca_dist.ops import epilogue as plain
from plca_dist.ops.certified import Best
from plca_dist.ops.epilogue import Pull, Softmax
from plca_dist.ops.triton import epilogue as kernels

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
#: One block of a real pair, and one whose columns are many.
LARGE = [pytest.param(600, 8464, marks=gpu), pytest.param(64, 131072, marks=gpu)]
#: One row or column, odd, unequal, and more columns or rows than a tile holds.
SHAPES = [(1, 1), (1, 257), (63, 100), (100, 63), (257, 1), (2, 5000), *LARGE]
#: For a softmax, of which every row has a program of its own.
FEW_ROWS = [(1, 1), (5, 1), (1, 2), (8, 63), (5, 257), (2, 1500), (3, 5000), *LARGE]
DTYPES = [torch.float32, torch.bfloat16]

# NaN and infinities are computed with on purpose; numpy warns of them.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid|All-NaN|overflow):RuntimeWarning")


@pytest.fixture
def block(device):
    """The float32 block of some scores, as a slice of a larger matrix of NaN, and a check that only it was written."""
    made = []

    def block(score_RM):
        R, M = score_RM.shape
        large = torch.full((R + 2, M + 5), math.nan, device=device)
        large[1:-1, 3:-2] = score_RM.to(device)
        made.append(large)
        return large[1:-1, 3:-2]

    yield block
    for large in made:
        assert large[0].isnan().all()
        assert large[-1].isnan().all()
        assert large[:, :3].isnan().all()
        assert large[:, -2:].isnan().all()


@pytest.fixture
def scores(draw):
    """Numbers of float32 with a mean and spread that differ from row to row."""

    def scores(R, M, seed=0):
        spread = torch.logspace(-2, 1, R, dtype=torch.float64)[:, None]
        return (draw(R, M, seed=seed) * spread + draw(R, 1, seed=seed + 50)).float().double()

    return scores


@pytest.fixture
def pull(draw, device):
    """What the rows of some scores pull: every third nothing, every fifth at a place in another block."""

    def pull(score_RM, seed=0):
        R, M = score_RM.shape
        index_R, softmax, _ = plain.softmax_(score_RM.clone(), True, torch.float64)
        gradient_R = draw(R, seed=seed)
        gradient_R[1::3] = 0
        index_R[2::5] = torch.tensor([-1, M, -(2**33), 2**32])[torch.arange(len(index_R[2::5])) % 4]
        return Pull(softmax, index_R, gradient_R)

    return pull


def on(device, x):
    """A nest of float64 tensors as kernels take it."""
    if isinstance(x, torch.Tensor):
        return x.to(device, torch.float32 if x.dtype == torch.float64 else x.dtype)
    if isinstance(x, list):
        return [on(device, y) for y in x]
    return None if x is None else type(x)(*(on(device, y) for y in x))


def test_a_softmax_without_odds_leaves_the_block_as_it_is(block, scores):
    score_RM = scores(5, 257)
    given_RM = block(score_RM)
    with_odds = kernels.softmax_(block(score_RM), True, torch.float32)
    index_R, softmax, odds_RM = kernels.softmax_(given_RM, True, None)
    assert odds_RM is None
    assert torch.equal(given_RM.cpu().double(), score_RM)
    assert all(torch.equal(a, b) for a, b in zip((index_R, *softmax), (with_odds[0], *with_odds[1]), strict=True))


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize(("R", "M", "C"), [(1, 1, 3), (5, 257, 40), (11, 130, 1500), (3, 2500, 7)])
def test_settle(block, draw, device, R, M, C, transposed):
    """Two blocks one after the other, scores that are off, several within the slack, ties, and what is not finite."""
    query_RC, key_MC = draw(R, C).float().double(), draw(3 * M, C, seed=1)
    key_MC[M:] = key_MC[torch.arange(2 * M) // 2] + 1e-4 * draw(2 * M, 1, seed=2).round()  # some are equal
    key_MC = key_MC.float().double()
    scale_M = 1 / key_MC.norm(dim=1)
    exact_RM = (query_RC @ key_MC.mT) * scale_M
    slack_R = torch.full((R,), 0.12, dtype=torch.float64)
    score_RM = exact_RM + 0.03 * draw(R, 3 * M, seed=4).clamp(-2, 2)
    score_RM[::4, M // 2] = math.inf
    score_RM[1::4, M] = math.nan
    score_RM[2::4] = -math.inf
    outcomes = []
    for module, place in ((plain, "cpu"), (kernels, device)):
        found = Best.of_none(R, place)
        for part in (slice(0, M), slice(M, 3 * M)):
            blocks_RM = score_RM.float()[:, part].to(place)
            if module is kernels:
                blocks_RM = block(score_RM[:, part].mT).mT if transposed else block(score_RM[:, part])
            sides = on(place, [slack_R, query_RC, key_MC[part]])
            module.settle(blocks_RM, *sides, scale_M[part].to(place), part.start, found)
        outcomes.append([x.cpu() for x in found])
    torch.testing.assert_close(outcomes[1][0], outcomes[0][0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(outcomes[1][2], outcomes[0][2])
    sound_R = torch.arange(R) % 4 == 3
    assert torch.equal(outcomes[1][2][sound_R], exact_RM.max(1).indices[sound_R])
    assert torch.equal(outcomes[1][2][0::4], torch.full((len(range(0, R, 4)),), M // 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("contrast", [True, False])
@pytest.mark.parametrize(("R", "M"), FEW_ROWS)
def test_softmax(block, scores, close, R, M, contrast, dtype):
    score_RM = scores(R, M)
    expected_index_R, expected_softmax, expected_odds_RM = plain.softmax_(score_RM.clone(), contrast, torch.float64)
    given_RM = block(score_RM)
    index_R, softmax, odds_RM = kernels.softmax_(given_RM, contrast, dtype)
    assert index_R.dtype == torch.int64
    assert torch.equal(index_R.cpu(), expected_index_R)
    for found, expected in zip(softmax, expected_softmax, strict=True):
        assert found.dtype == torch.float32
        close(found, expected)
    torch.testing.assert_close(softmax.scale.double().cpu(), expected_softmax.scale, rtol=1e-5, atol=0)
    assert odds_RM.dtype == dtype
    assert (odds_RM.data_ptr() == given_RM.data_ptr()) == (dtype == torch.float32)
    close(odds_RM, expected_odds_RM)


def test_softmax_of_ties_flat_rows_and_broken_rows(block, scores, close):
    score_RM = scores(13, 2500)
    score_RM[0] = score_RM[0].round()  # tens of equals at the best
    score_RM[1], score_RM[2], score_RM[3] = 0, -7.3, 1e30
    score_RM[4] = 1 + 2.0**-23 * (torch.arange(2500) % 2)  # the spread is rounding
    score_RM[5] = 1 + 2.0**-15 * (torch.arange(2500) % 2)  # it is not
    score_RM[6, [700, 2100]] = math.nan
    score_RM[7, 2300], score_RM[7, 100] = math.nan, math.inf
    score_RM[8, 30] = math.inf
    score_RM[9, 2499] = -math.inf
    score_RM[10] = -math.inf
    score_RM[11] = math.nan
    score_RM = score_RM.float().double()
    for contrast in (True, False):
        index_R, softmax, odds_RM = kernels.softmax_(block(score_RM), contrast, torch.float32)
        # In float32: what is flat depends on the precision.
        expected = plain.softmax_(score_RM.float(), contrast, torch.float32)
        assert torch.equal(index_R.cpu(), expected[0])
        for found, wanted in zip((*softmax, odds_RM), (*expected[1], expected[2]), strict=True):
            for row in range(len(score_RM)):
                close(found[row], wanted[row])
    assert index_R[6] == 700
    assert index_R[7] == 2300


@pytest.mark.parametrize(("R", "M"), SHAPES)
def test_column_best(block, scores, device, R, M):
    rows = scores(3 * R, M).round()  # ties, within a block and across blocks
    if R > 1:
        rows[R + 1, 5 % M], rows[2 * R, 5 % M], rows[R - 1, 0] = math.nan, math.nan, math.inf
    best_M, index_M = torch.full((M,), -torch.inf, device=device), torch.zeros(M, dtype=torch.int64, device=device)
    for start in range(0, 3 * R, R):
        kernels.column_best_(block(rows[start : start + R]), start, best_M, index_M)
    expected = rows.max(0)
    torch.testing.assert_close(best_M.double().cpu(), expected.values, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(index_M.cpu(), expected.indices)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sides", ["rows", "columns", "both"])
@pytest.mark.parametrize(("R", "M"), SHAPES)
def test_match_gradient(block, scores, pull, close, device, R, M, sides, dtype):
    score_RM = scores(R, M)
    rows = pull(score_RM) if sides != "columns" else None
    columns = pull(score_RM.mT, seed=1) if sides != "rows" else None
    expected_RM = plain.match_gradient_(score_RM.clone(), rows, columns, torch.float64)
    gradient_RM = kernels.match_gradient_(block(score_RM), on(device, rows), on(device, columns), dtype)
    assert gradient_RM.dtype == dtype
    close(gradient_RM, expected_RM)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_rows_that_do_not_pull_may_have_any_softmax(block, scores, pull, close, device, broken):
    score_RM = scores(20, 30)
    rows, columns = pull(score_RM), pull(score_RM.mT)
    expected_RM = plain.match_gradient_(score_RM.clone(), rows, columns, torch.float64)
    for side in (rows, columns):
        for of_rows in (side.softmax.best, side.softmax.log_sum):
            of_rows[side.gradient == 0] = broken
    gradient_RM = kernels.match_gradient_(block(score_RM), on(device, rows), on(device, columns), torch.float32)
    close(gradient_RM, expected_RM)


def test_a_gradient_may_be_a_view_of_one_number(block, scores, pull, close, device):
    score_RM = scores(5, 30)
    rows = pull(score_RM)._replace(gradient=torch.ones(1, dtype=torch.float64).expand(5))
    expected_RM = plain.match_gradient_(score_RM.clone(), rows, None, torch.float64)
    given = on(device, rows)._replace(gradient=torch.ones(1, device=device).expand(5))
    close(kernels.match_gradient_(block(score_RM), given, None, torch.float32), expected_RM)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("R", "M"), SHAPES)
def test_attend_gradient(block, scores, draw, close, device, R, M, dtype):
    score_RM, dweight_RM, delta_R = scores(R, M), draw(R, M, seed=5), draw(R, seed=6)
    softmax = pull_softmax(score_RM)
    expected = plain.attend_gradient_(score_RM.clone(), dweight_RM.clone(), softmax, delta_R, torch.float64)
    found = kernels.attend_gradient_(
        block(score_RM), block(dweight_RM), on(device, softmax), on(device, delta_R), dtype
    )
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == dtype
        close(f, e)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("R", "M"), SHAPES)
def test_attend_gradient_both(block, scores, draw, close, device, R, M, dtype):
    score_RM, dweight_RM, of_columns_RM = scores(R, M), draw(R, M, seed=5), draw(R, M, seed=6)
    sides = (pull_softmax(score_RM), draw(R, seed=7)), (pull_softmax(score_RM.mT), draw(M, seed=8))
    expected = plain.attend_gradient_both_(
        score_RM.clone(), dweight_RM.clone(), of_columns_RM.clone(), *sides, torch.float64
    )
    given = [tuple(on(device, x) for x in side) for side in sides]
    found = kernels.attend_gradient_both_(block(score_RM), block(dweight_RM), block(of_columns_RM), *given, dtype)
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == dtype
        close(f, e)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offsets_past_32_bits(device, close):
    score_RM = torch.zeros(16500, 131072, device=device)
    last_M = score_RM[-1].normal_(generator=torch.Generator(device).manual_seed(0)).double()
    index_R, softmax, odds_RM = kernels.softmax_(score_RM, True, torch.float32)
    expected_index_R, expected_softmax, expected_RM = plain.softmax_(last_M[None].clone(), True, torch.float64)
    assert index_R[-1] == expected_index_R[0]
    close(softmax.scale[-1:], expected_softmax.scale)
    close(odds_RM[-1:], expected_RM)
    best_M, index_M = odds_RM[0].clone(), torch.zeros(131072, dtype=torch.int64, device=device)
    odds_RM[-1, -1] = 2
    kernels.column_best_(odds_RM, 0, best_M, index_M)
    assert (best_M[-1].item(), index_M[-1].item()) == (2, 16499)


def pull_softmax(score_RM: torch.Tensor) -> Softmax:
    return plain.softmax_(score_RM.clone(), True, torch.float64)[1]


def test_a_grid_of_programs_has_one_dimension() -> None:
    """CUDA allows 65 535 along the others: blocks of more than 524 280 rows could not be launched."""
    assert kernels._tiles(torch.empty(600_001, 300, device="meta")) == (75_001 * 2,)
