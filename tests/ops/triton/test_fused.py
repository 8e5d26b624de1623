"""The kernels that make their own scores against `ops/dense.py` in float64, every gradient included."""

import math

import pytest
import torch

from plca_dist.ops import dense
from plca_dist.ops import epilogue as plain
from plca_dist.ops.epilogue import Pull, Softmax
from plca_dist.ops.triton import fused

#: R, M, C, D: one of everything, tiles' edges met and passed, and all widths that tiles are chosen by.
SIZES = [(1, 1, 1, 1), (63, 100, 19, 19), (100, 63, 3, 33), (64, 96, 32, 16), (5, 257, 64, 7), (33, 40, 100, 128)]
#: Largest difference that rounding of the weights makes, relative to the largest value; the root mean square is at most
#: half of it. The interpreter truncates to bfloat16.
ROUNDED = {"float32": 1e-5, "tf32": 2e-3, "bf16": 1e-2}

# NaN and infinities are computed with on purpose; numpy warns of them.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid|All-NaN|overflow):RuntimeWarning")
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def inputs(draw, device):
    """Query and value as views of channel-first maps, key as part of a wider matrix, in `dtype`."""

    def inputs(R, M, C, D, dtype=torch.float32):
        query_CR, key_ML, value_DM = (draw(*s, seed=i) for i, s in enumerate(((C, R), (M, C + 3), (D, M))))
        made = (x.to(device, dtype) for x in (query_CR, key_ML, value_DM))
        return [view(x) for view, x in zip((torch.t, lambda x: x[:, 1 : C + 1], torch.t), made, strict=True)]

    return inputs


def by_dense(query_RC, key_MC, gradient_R):
    """Index, log-probability and the gradients of query and key."""
    leaves = [x.double().requires_grad_() for x in (query_RC, key_MC)]
    found = dense.match(*(x[None] for x in leaves))
    gradients = torch.autograd.grad((found.log_probability[0] * gradient_R.double()).sum(), leaves)
    return found.index[0], found.log_probability[0], *gradients


def by_dense_attend(query_RC, key_MC, value_MD, contrast, daverage_RD):
    """The average and the gradients of query, key and value."""
    leaves = [x.double().requires_grad_() for x in (query_RC, key_MC, value_MD)]
    average_RD = dense.attend(*(x[None] for x in leaves), contrast=contrast)[0]
    return average_RD, *torch.autograd.grad((average_RD * daverage_RD.double()).sum(), leaves)


def by_block(query_RC, key_MC, index_R, gradient_R):
    """Gradients of query and key for any index."""
    query_RC, key_MC = query_RC.double(), key_MC.double()
    softmax = plain.softmax_(query_RC @ key_MC.mT, True, torch.float64)[1]
    pull = Pull(softmax, index_R, gradient_R.double())
    gradient_RM = plain.match_gradient_(query_RC @ key_MC.mT, pull, None, torch.float64)
    return gradient_RM @ key_MC, gradient_RM.mT @ query_RC


def run_match(query_RC, key_MC, gradient_R, products="float32"):
    index_R, softmax = fused.match(query_RC, key_MC, products=products)
    pull = Pull(softmax, index_R, gradient_R)
    return index_R, -softmax.log_sum, *fused.match_gradient(query_RC, key_MC, pull, products=products)


def run_attend(query_RC, key_MC, value_MD, contrast, daverage_RD, products="float32"):
    average_RD, softmax = fused.attend(query_RC, key_MC, value_MD, contrast, products=products)
    backward = daverage_RD, (daverage_RD * average_RD).sum(1), softmax
    return average_RD, *fused.attend_gradient(query_RC, key_MC, value_MD, *backward, products=products)


def check(close, found, expected, tolerances):
    for f, e, tolerance in zip(found, expected, tolerances, strict=True):
        assert f.dtype == torch.float32
        close(f, e, tolerance)
        good = e.isfinite()
        error, size = (x[good].square().mean().sqrt() for x in (f - e, e))
        assert error <= tolerance / 2 * size


@pytest.mark.parametrize(("R", "M", "C", "D"), SIZES)
def test_match_is_that_of_dense_in_value_and_gradient(inputs, draw, close, device, R, M, C, D):
    query_RC, key_MC, _ = inputs(R, M, C, D)
    gradient_R = draw(R, seed=4).float().to(device)
    index_R, *found = run_match(query_RC, key_MC, gradient_R)
    expected_R, *expected = by_dense(query_RC, key_MC, gradient_R)
    assert index_R.dtype == torch.int64
    assert torch.equal(index_R, expected_R)
    assert torch.equal(fused.best(query_RC, key_MC, products="float32"), index_R)
    check(close, found, expected, [1e-5] * 3)
    for gradient, x in zip(found[1:], (query_RC, key_MC), strict=True):
        assert gradient.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("contrast", [True, False])
@pytest.mark.parametrize(("R", "M", "C", "D"), SIZES)
def test_attend_is_that_of_dense_in_value_and_gradient(inputs, draw, close, device, R, M, C, D, contrast):
    given, daverage_RD = inputs(R, M, C, D), draw(R, D, seed=4).float().to(device)
    found = run_attend(*given, contrast, daverage_RD)
    check(close, found, by_dense_attend(*given, contrast, daverage_RD), [1e-5] * 4)
    assert found[0].mT.is_contiguous()
    for gradient, x in zip(found[1:], given, strict=True):
        assert gradient.stride() == torch.empty_like(x).stride()


def test_tf32_is_the_nearest_number_and_not_the_one_towards_zero(draw, device):
    def rounded(x):
        bits = x.view(torch.int32)
        return ((bits + 0xFFF + ((bits >> 13) & 1)) >> 13 << 13).view(torch.float32)

    query_RC, key_MC = draw(33, 19).float(), draw(40, 19, seed=1).float()
    expected_R = (rounded(query_RC).double() @ rounded(key_MC).double().mT).amax(1)
    _, softmax = fused.match(query_RC.to(device), key_MC.to(device), products="tf32")
    torch.testing.assert_close(softmax.best.cpu().double(), expected_R, rtol=2e-6, atol=2e-6)
    exact_R = (query_RC.double() @ key_MC.double().mT).amax(1)
    assert (exact_R - expected_R).abs().max() > 1e-4, "rounding shows"


@pytest.mark.parametrize("products", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounded_products(inputs, draw, close, device, products, dtype):
    """Inputs are numbers of bfloat16 in any dtype: their products are exact, only weights are rounded."""
    given = [x.to(dtype) for x in inputs(70, 130, 19, 19, torch.bfloat16)]
    gradient_R, daverage_RD = (x.bfloat16().float().to(device) for x in (draw(70, seed=4), draw(70, 19, seed=5)))
    rounded = ROUNDED[products]
    index_R, *found = run_match(*given[:2], gradient_R, products)
    expected_R, *expected = by_dense(*given[:2], gradient_R)
    assert torch.equal(index_R, expected_R)
    check(close, found, expected, [1e-5, rounded, rounded])
    found = run_attend(*given, True, daverage_RD, products)
    check(close, found, by_dense_attend(*given, True, daverage_RD), [rounded] * 4)


def test_inputs_are_rounded_as_products_say(inputs, device):
    """What is lost tells one setting from the other."""
    query_RC, key_MC, value_MD = inputs(40, 50, 19, 19)
    exact_RD = by_dense_attend(query_RC, key_MC, value_MD, False, torch.ones_like(value_MD[:1]))[0]
    errors = {}
    for products in ("float32", "tf32", "bf16"):
        average_RD, _ = fused.attend(query_RC, key_MC, value_MD, False, products=products)
        errors[products] = ((average_RD - exact_RD).abs().max() / exact_RD.abs().max()).item()
    assert errors["float32"] < 1e-5
    assert 1e-5 < errors["tf32"] < 1e-2
    assert 1e-3 < errors["bf16"] < 1e-1


def test_ties_and_broken_scores(device):
    """Small integers: every score and most of the ties are exact."""
    generator = torch.Generator().manual_seed(0)
    query_RC, key_MC = (torch.randint(-2, 3, (n, 5), generator=generator).float().to(device) for n in (80, 300))
    assert torch.equal(fused.best(query_RC, key_MC, products="bf16"), (query_RC @ key_MC.mT).max(1).indices)
    query_RC[3, 2] = math.nan
    query_RC[4, 1] = math.inf  # infinities of both signs, and NaN where it meets a 0
    query_RC[5, 1] = -math.inf
    score_RM = (query_RC[:, None] * key_MC).sum(-1)
    index_R, softmax = fused.match(query_RC, key_MC, products="float32")
    assert torch.equal(index_R, score_RM.max(1).indices)
    assert torch.equal(softmax.log_sum.isnan().nonzero().flatten().cpu(), torch.tensor([3, 4, 5]))
    average_RC, _ = fused.attend(query_RC, key_MC, key_MC, False, products="float32")
    assert torch.equal(average_RC.isnan().all(1).nonzero().flatten().cpu(), torch.tensor([3, 4, 5]))

    key_MC[[170, 290], 0] = math.nan  # in every row, and not in the first tile
    index_R, softmax = fused.match(query_RC, key_MC, products="float32")
    assert index_R[[0, 79]].tolist() == [170, 170]
    assert all(s.isnan().all() for s in softmax)


@pytest.mark.parametrize("flat", ["zero query", "zero keys", "equal keys", "one key", "keys equal but for rounding"])
def test_flat_rows_are_uniform_and_pass_no_gradient(inputs, close, device, flat):
    R, M = 40, 1 if flat == "one key" else 90
    query_RC, key_MC, value_MD = (x.abs() + 0.5 for x in inputs(R, M, 19, 4))
    if flat == "zero query":
        query_RC = torch.zeros_like(query_RC)
    elif flat == "zero keys":
        key_MC = torch.zeros_like(key_MC)
    elif flat == "equal keys":
        key_MC = key_MC[:1].expand(M, 19)
    elif flat == "keys equal but for rounding":
        key_MC = key_MC[:1] * (1 + 2.0**-23 * torch.arange(M, device=device)[:, None].remainder(2))
    _, log_probability_R, *gradients = run_match(query_RC, key_MC, torch.ones(R, device=device))
    close(log_probability_R, torch.full((R,), -math.log(M), dtype=torch.float64))
    assert all(torch.count_nonzero(g) == 0 for g in gradients)
    average_RD, *gradients = run_attend(query_RC, key_MC, value_MD, True, torch.ones(1, 1, device=device).expand(R, 4))
    close(average_RD, value_MD.double().mean(0).expand(R, 4))
    assert all(torch.count_nonzero(g) == 0 for g in gradients[:2])
    close(gradients[2], torch.full((M, 4), R / M, dtype=torch.float64))


def test_scores_far_beyond_the_range_of_exp(inputs, draw, close, device):
    """Negative, too: what lies past the last key or query, a score of 0, must not count."""
    query_RC, key_MC, value_MD = inputs(33, 65, 19, 19)
    query_RC, key_MC, daverage_RD = 1e3 * query_RC.abs(), -key_MC.abs() - 1, draw(33, 19, seed=4).float().to(device)
    index_R, *found = run_match(query_RC, key_MC, torch.ones(33, device=device))
    assert torch.equal(index_R, by_dense(query_RC, key_MC, torch.ones(33, device=device))[0])
    for contrast in (True, False):
        found += run_attend(query_RC, key_MC, value_MD, contrast, daverage_RD)
    assert all(f.isfinite().all() for f in found)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_any_index_may_pull_and_rows_that_do_not_may_have_any_softmax(inputs, draw, close, device, broken):
    query_RC, key_MC, _ = inputs(70, 45, 19, 1)
    gradient_R = draw(70, seed=4).float().to(device)
    gradient_R[::3] = 0
    index_R = torch.arange(70, device=device) * 13 % 60 - 7  # every fourth lies outside
    index_R[1], index_R[2] = 2**32 + 3, -(2**33)
    _, softmax = fused.match(query_RC, key_MC, products="float32")
    softmax.best[::6], softmax.log_sum[3::6] = broken, broken
    found = fused.match_gradient(query_RC, key_MC, Pull(softmax, index_R, gradient_R), products="float32")
    check(close, found, by_block(query_RC, key_MC, index_R, gradient_R), [1e-5, 1e-5])


@pytest.mark.parametrize("products", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize(("R", "M"), [(70, 130), pytest.param(8464, 8464, marks=gpu)])
def test_two_runs_give_the_same_bits(inputs, draw, device, R, M, products):
    given = inputs(R, M, 19, 19)
    gradient_R, daverage_RD = (x.float().to(device) for x in (draw(R, seed=4), draw(R, 19, seed=5)))
    runs = [
        (*run_match(*given[:2], gradient_R, products), *run_attend(*given, True, daverage_RD, products))
        for _ in range(2)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("products", [pytest.param(p, marks=gpu) for p in ("float32", "tf32", "bf16")])
@pytest.mark.parametrize("M", [8464, 32768])
def test_real_sizes(inputs, draw, close, device, M, products):
    given = inputs(8464, M, 19, 19, torch.bfloat16)
    query_RC, key_MC, _ = given
    gradient_R, daverage_RD = (x.bfloat16().float().to(device) for x in (draw(8464, seed=4), draw(8464, 19, seed=5)))
    rounded = ROUNDED[products]
    index_R, *found = run_match(query_RC, key_MC, gradient_R, products)
    score_RM = query_RC.double() @ key_MC.double().mT
    best_R = score_RM.amax(1)
    chosen_R = score_RM.gather(1, index_R[:, None]).squeeze(1)
    assert (best_R - chosen_R <= 1e-5 * best_R.abs()).all()  # where two are equal but for rounding, either will do
    log_probability_R = -plain.softmax_(score_RM, True, torch.float64)[1].log_sum
    expected = log_probability_R, *by_block(query_RC, key_MC, index_R, gradient_R)
    check(close, found, expected, [1e-5, rounded, rounded])
    found = run_attend(*given, True, daverage_RD, products)
    check(close, found, by_dense_attend(*given, True, daverage_RD), [rounded] * 4)


@pytest.mark.parametrize("which", ["query", "key", "value"])
def test_what_the_kernels_do_not_take_is_refused(inputs, device, which):
    def given(change):
        x = dict(zip(("query", "key", "value"), inputs(4, 5, 6, 7), strict=True))
        return [change(t) if name == which else t for name, t in x.items()]

    with pytest.raises(ValueError, match=rf"expected {which} in float32.*got torch.float64 with [67]"):
        fused.attend(*given(torch.Tensor.double), True, products="float32")
    with pytest.raises(ValueError, match=rf"expected {which} .* at most 128 channels, got torch.float32 with 129"):
        fused.attend(*given(lambda t: t.new_zeros(len(t), 129)), True, products="float32")
    with pytest.raises(ValueError, match=r"expected query \(R, C\), key \(M, C\).*got"):
        fused.attend(*given(lambda t: t.new_zeros(len(t) - 1, 5)), True, products="float32")
    with pytest.raises(ValueError, match="products to be one of float32, tf32, bf16, got 'fp8'"):
        fused.best(*inputs(4, 5, 6, 7)[:2], products="fp8")


def test_an_empty_softmax_is_still_a_softmax(device):
    index_R, softmax = fused.match(torch.zeros(0, 4, device=device), torch.ones(3, 4, device=device), products="bf16")
    assert index_R.shape == softmax.best.shape == (0,)
    assert isinstance(softmax, Softmax)
