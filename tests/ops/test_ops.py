"""`match` and `attend` against their definitions, written out in scalar loops, in value and gradient."""

import math

import pytest
import torch

from plca_dist.errors import UserError
from plca_dist.ops import operations as ops
from plca_dist.ops.settings import BACKENDS, Pairwise

EVERY_BACKEND = [pytest.param(Pairwise(backend=backend), id=backend) for backend in BACKENDS]
SHAPES = [(1, 1, 1, 1), (1, 4, 1, 3), (1, 1, 6, 3), (2, 5, 7, 4), (3, 7, 5, 2)]
#: Largest difference to float64, relative to the largest value.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-5}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def contrast(row: list[torch.Tensor]) -> list[torch.Tensor]:
    """Eq. 5: (D − μ)/(σ + 1e-10) with μ and the unbiased σ as plain numbers, σ of one candidate being 0."""
    numbers = [d.item() for d in row]
    mean = sum(numbers) / len(numbers)
    std = math.sqrt(sum((d - mean) ** 2 for d in numbers) / (len(numbers) - 1)) if len(numbers) > 1 else 0.0
    return [(d - mean) / (std + 1e-10) for d in row]


def softmax(row: list[torch.Tensor]) -> list[torch.Tensor]:
    total = sum((d.exp() for d in row), torch.zeros((), dtype=torch.float64))
    return [d.exp() / total for d in row]


def scores(query: torch.Tensor, key: torch.Tensor) -> list[torch.Tensor]:
    return [sum((a * b for a, b in zip(query, k, strict=True)), torch.zeros((), dtype=torch.float64)) for k in key]


def match_by_loops(query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    index, log_probability = [], []
    for b in range(len(query)):
        for q in query[b]:
            row = scores(q, key[b])
            best = max(range(len(row)), key=lambda j: (row[j].item(), -j))
            index.append(best)
            log_probability.append(softmax(contrast(row))[best].log())
    shape = query.shape[:2]
    return torch.tensor(index).view(shape), torch.stack(log_probability).view(shape)


def attend_by_loops(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, normalize: bool) -> torch.Tensor:
    rows = []
    for b in range(len(query)):
        for q in query[b]:
            row = scores(q, key[b])
            weights = softmax(contrast(row) if normalize else row)
            rows.append(sum((w * v for w, v in zip(weights, value[b], strict=True)), torch.zeros_like(value[b, 0])))
    return torch.stack(rows).view(*query.shape[:2], -1)


def leaves(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [t.clone().requires_grad_() for t in tensors]


def assert_same(actual: list[torch.Tensor], expected: list[torch.Tensor], atol: float = 1e-10) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, atol=atol, rtol=1e-10)


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
@pytest.mark.parametrize(("B", "N", "M", "C"), SHAPES)
def test_match_is_its_definition_in_value_and_gradient(pairwise, B, N, M, C):
    inputs = leaves(draw(B, N, C, seed=1), draw(B, M, C, seed=2))
    weight = draw(B, N, seed=3)  # every row's gradient differs
    index, expected = match_by_loops(*inputs)
    found = ops.match(*inputs, pairwise=pairwise)
    assert found.index.dtype == torch.int64
    assert torch.equal(found.index, index)
    assert_same([found.log_probability], [expected])
    assert_same(
        list(torch.autograd.grad((found.log_probability * weight).sum(), inputs)),
        list(torch.autograd.grad((expected * weight).sum(), inputs)),
    )


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("B", "N", "M", "C"), SHAPES)
def test_attend_is_its_definition_in_value_and_gradient(pairwise, normalize, B, N, M, C):
    inputs = leaves(draw(B, N, C, seed=1), draw(B, M, C, seed=2), draw(B, M, 3, seed=3))
    weight = draw(B, N, 3, seed=4)
    expected = attend_by_loops(*inputs, normalize)
    found = ops.attend(*inputs, contrast=normalize, pairwise=pairwise)
    assert_same([found], [expected])
    assert_same(
        list(torch.autograd.grad((found * weight).sum(), inputs)),
        list(torch.autograd.grad((expected * weight).sum(), inputs)),
    )


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
def test_attend_without_contrast_passes_gradcheck(pairwise):
    inputs = leaves(draw(2, 4, 3, seed=1), draw(2, 5, 3, seed=2), draw(2, 5, 2, seed=3))
    how = {"contrast": False, "pairwise": pairwise}
    assert torch.autograd.gradcheck(lambda q, k, v: ops.attend(q, k, v, cosine=True, **how), inputs)
    assert torch.autograd.gradcheck(lambda x: ops.attend(x, x, x, ratio=0.3, **how), inputs[:1])


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
def test_gradient_is_the_numerical_one_with_the_statistics_held(pairwise):
    """Gradcheck proper would move σ, which the equations hold still; so difference a form whose σ is a constant."""
    query, key = leaves(draw(1, 4, 3, seed=1), draw(1, 5, 3, seed=2))
    std = (query @ key.mT).std(-1, keepdim=True).detach()

    def held(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (q @ k.mT / (std + 1e-10)).log_softmax(-1).amax(-1).sum()

    found = ops.match(query, key, pairwise=pairwise)
    analytic = torch.autograd.grad(found.log_probability.sum(), (query, key))
    for which, gradient in enumerate(analytic):
        for position in range(gradient.numel()):
            shifted = []
            for step in (1e-6, -1e-6):
                inputs = [query.detach().clone(), key.detach().clone()]
                inputs[which].view(-1)[position] += step
                shifted.append(held(*inputs).item())
            assert gradient.flatten()[position].item() == pytest.approx((shifted[0] - shifted[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_ties_go_to_the_lowest_index(pairwise, dtype):
    key = torch.tensor([[[0, 1], [2, 1], [1, 2], [2, 1], [1, 2]]], dtype=dtype)
    query = torch.tensor([[[1, 0], [0, 1], [1, 1], [0, 0]]], dtype=dtype)
    assert ops.match(query, key, pairwise=pairwise).index.tolist() == [[1, 2, 1, 0]]


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("flat", ["zero query", "zero keys", "equal keys", "one key", "keys equal but for rounding"])
def test_flat_rows_are_uniform_and_pass_no_gradient(pairwise, dtype, flat):
    M, C = 9, 19
    query, key = draw(1, 4, C, dtype=dtype).abs() + 0.5, draw(1, M, C, seed=1, dtype=dtype)
    if flat == "zero query":
        query = torch.zeros_like(query)
    elif flat == "zero keys":
        key = torch.zeros_like(key)
    elif flat == "one key":
        key, M = key[:, :1], 1
    elif flat == "equal keys":
        key = key[:, :1].expand(1, M, C)
    else:
        key = key[:, :1].abs() * (1 + torch.finfo(dtype).eps * torch.arange(M, dtype=dtype)[:, None].remainder(2))
    query, key = leaves(query, key)
    found = ops.match(query, key, pairwise=pairwise)
    torch.testing.assert_close(found.log_probability, torch.full((1, 4), -math.log(M), dtype=dtype))
    gradients = torch.autograd.grad(found.log_probability.sum(), (query, key))
    assert all(torch.count_nonzero(g) == 0 for g in gradients)

    value = draw(1, M, 2, seed=3, dtype=dtype).requires_grad_()
    average = ops.attend(query, key, value, pairwise=pairwise)
    torch.testing.assert_close(average, value.mean(1, keepdim=True).expand(1, 4, 2))
    gradients = torch.autograd.grad(average.sum(), (query, key, value))
    assert torch.count_nonzero(gradients[0]) == torch.count_nonzero(gradients[1]) == 0
    torch.testing.assert_close(gradients[2], torch.full_like(value, 4 / M))


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
def test_a_small_but_real_spread_is_not_taken_for_flat(pairwise):
    key = 1 + 1e-4 * draw(1, 50, 4, dtype=torch.float32)
    query = draw(1, 3, 4, seed=1, dtype=torch.float32)
    _, expected = match_by_loops(query.double(), key.double())
    found = ops.match(query, key, pairwise=pairwise).log_probability
    torch.testing.assert_close(found.double(), expected, atol=2e-2, rtol=0)
    assert expected.max() > -math.log(50) + 0.5


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_contrast_takes_the_scale_out(pairwise, factor):
    query, key = draw(2, 6, 4, dtype=torch.float32), draw(2, 63, 4, seed=1, dtype=torch.float32)
    plain, scaled = (ops.match(x, key, pairwise=pairwise) for x in (query, factor * query))
    assert torch.equal(plain.index, scaled.index)
    torch.testing.assert_close(plain.log_probability, scaled.log_probability, atol=2e-4, rtol=0)


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("N", "M"), [(63, 100), (100, 63), (128, 128)])
def test_lower_precision_is_computed_in_float32(pairwise, dtype, N, M):
    query, key, value = draw(2, N, 33, dtype=dtype), draw(2, M, 33, seed=1, dtype=dtype), draw(2, M, 9, dtype=dtype)
    results = {}
    for precision in (dtype, torch.float64):
        inputs = leaves(query.to(precision), key.to(precision), value.to(precision))
        found = ops.match(*inputs[:2], pairwise=pairwise)
        average = ops.attend(*inputs, pairwise=pairwise)
        of_match = torch.autograd.grad(found.log_probability.sum(), inputs[:2])
        of_attend = torch.autograd.grad(average.square().sum(), inputs)
        results[precision] = [found.log_probability, average, *of_match, *of_attend]
    assert all(r.dtype == torch.float32 for r in results[dtype][:2])
    for low, high in zip(results[dtype], results[torch.float64], strict=True):
        # A bfloat16 input's gradient is rounded to bfloat16 once, at the end.
        tolerance = TOLERANCE[dtype] if low.dtype == torch.float32 else 2**-8
        assert (low.double() - high).abs().max() <= tolerance * high.abs().max()


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
def test_autocast_changes_nothing(pairwise):
    query, key = draw(1, 20, 8, dtype=torch.float32), draw(1, 30, 8, seed=1, dtype=torch.float32)
    plain = [*ops.match(query, key, pairwise=pairwise), ops.attend(query, key, key, pairwise=pairwise)]
    with torch.autocast("cpu", torch.bfloat16):
        assert (query @ key.mT).dtype == torch.bfloat16
        cast = [*ops.match(query, key, pairwise=pairwise), ops.attend(query, key, key, pairwise=pairwise)]
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
def test_scores_far_beyond_the_range_of_exp(pairwise):
    query, key = 1e6 * draw(1, 5, 4, dtype=torch.float32), draw(1, 40, 4, seed=1, dtype=torch.float32)
    for contrasted in (True, False):
        assert ops.attend(query, key, key, contrast=contrasted, pairwise=pairwise).isfinite().all()
    assert ops.match(query, key, pairwise=pairwise).log_probability.isfinite().all()


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_score_is_not_hidden(pairwise, bad):
    query, key = draw(1, 3, 4), draw(1, 5, 4, seed=1)
    query[0, 1, 0] = bad
    assert ops.match(query, key, pairwise=pairwise).log_probability.isnan().tolist() == [[False, True, False]]
    assert ops.attend(query, key, key, pairwise=pairwise).isnan().all(-1).tolist() == [[False, True, False]]


@pytest.mark.parametrize("pairwise", EVERY_BACKEND)
def test_inputs_are_left_alone(pairwise):
    query, key, value = draw(1, 3, 4), draw(1, 5, 4, seed=1), draw(1, 5, 2, seed=2)
    copies = [query.clone(), key.clone(), value.clone()]
    ops.match(query, key, pairwise=pairwise)
    ops.attend(query, key, value, pairwise=pairwise)
    ops.cycle(query, query, key, key, torch.zeros(1, 3), cosine=True, pairwise=pairwise)
    assert all(torch.equal(a, b) for a, b in zip(copies, (query, key, value), strict=True))


def test_an_unknown_backend_names_the_known_ones():
    assert BACKENDS[0] == "auto"
    with pytest.raises(UserError, match=r"'dens' is unknown; known: auto, .*dense.* Did you mean 'dense'\?"):
        Pairwise(backend="dens")
    with pytest.raises(UserError, match="unknown"):
        Pairwise(backend="")


@pytest.mark.parametrize(("query", "key"), [((2, 3), (2, 3)), ((1, 2, 3), (2, 2, 3)), ((1, 2, 3), (1, 2, 4))])
def test_shapes_that_do_not_fit_are_named(query, key):
    with pytest.raises(ValueError, match=r"expected query \(B, N, C\) and key \(B, M, C\).*got"):
        ops.match(torch.zeros(query), torch.zeros(key))


def test_a_mixture_needs_a_value_of_its_own_and_labels_a_position():
    with pytest.raises(ValueError, match=r"ratio 0.5 mixes an average with its own value, hence N = M"):
        ops.attend(torch.zeros(1, 2, 3), torch.zeros(1, 5, 3), torch.zeros(1, 5, 2), ratio=0.5)
    x = torch.zeros(1, 4, 3)
    for labels, key in ((torch.zeros(1, 5), x), (torch.zeros(1, 4), x[:, :2])):
        with pytest.raises(ValueError, match=r"one shape \(B, N, C\) and labels \(B, N\)"):
            ops.cycle(x, key, x, x, labels)


def test_values_must_go_with_keys_and_there_must_be_a_key():
    with pytest.raises(ValueError, match=r"expected value \(1, 5, D\).*got \(1, 4, 2\)"):
        ops.attend(torch.zeros(1, 2, 3), torch.zeros(1, 5, 3), torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match="M > 0"):
        ops.match(torch.zeros(1, 2, 3), torch.zeros(1, 0, 3))
