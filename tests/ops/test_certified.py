"""With operands in bfloat16 the associations are those of exact scores, whatever lies close together."""

import pytest
import torch

from plca_dist.ops import operations as ops
from plca_dist.ops.certified import Certificate
from plca_dist.ops.matching import Matching
from plca_dist.ops.settings import Pairwise

pytestmark = pytest.mark.usefixtures("small_blocks", "emulated_bf16")
BF16 = Pairwise("bf16", "streaming")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def crowded(N: int, C: int, seed: int) -> torch.Tensor:
    """Rows in clusters whose members differ by less than bfloat16 can tell, from a hundredth to a millionth, or not."""
    member_NC = draw(N // 8 + 1, C, seed=seed).repeat(8, 1)[:N]
    return (
        member_NC + draw(N, C, seed=seed + 1) * torch.logspace(-2, -6, N)[:, None] * (torch.arange(N) % 5 > 0)[:, None]
    )


def indices(source: torch.Tensor, target: torch.Tensor, shared: bool, pairwise: Pairwise) -> list[torch.Tensor]:
    sides = (source, source, target, target) if shared else (source, source.sin(), target, target.sin())
    labels = torch.randint(0, 2, source.shape[:2], generator=torch.Generator().manual_seed(3))
    found = ops.cycle(*sides, labels, cosine=shared, pairwise=pairwise)
    one_way = ops.match(source, target, cosine=shared, pairwise=pairwise).index
    return [found.target_index, found.source_index, found.consistent, one_way]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("N", "M", "C"), [(1, 1, 3), (100, 63, 40), (63, 257, 200)])
def test_the_associations_are_those_of_exact_scores(N, M, C, shared):
    source, target = crowded(2 * N, C, 0).reshape(2, N, C), crowded(2 * M, C, 0).reshape(2, M, C)
    oracle = indices(source.double(), target.double(), shared, Pairwise(backend="dense"))
    assert all(torch.equal(f, o) for f, o in zip(indices(source, target, shared, BF16), oracle, strict=True))


def test_rounding_would_change_them(monkeypatch):
    """What the other tests would not see if their rows were too far apart."""
    source, target = crowded(100, 40, 0)[None], crowded(63, 40, 0)[None]
    oracle = indices(source.double(), target.double(), True, Pairwise(backend="dense"))
    monkeypatch.setattr(Matching, "_certificate", lambda *_: None)
    found = indices(source, target, True, BF16)
    assert (found[0] != oracle[0]).float().mean() > 0.1


def test_of_equal_keys_the_first_is_taken():
    key = draw(20, 30).repeat(4, 1)[None]
    found = ops.match(draw(1, 50, 30, seed=1), key, cosine=True, pairwise=BF16)
    assert (found.index < 20).all()


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_is_not_finite_is_found_where_float32_finds_it(broken):
    source, target = draw(1, 40, 30), draw(1, 50, 30, seed=1)
    source[0, 7, 3] = target[0, 31, 2] = broken
    target[0, 9] = 0
    for x, y in ((source, target), (source, target[:, :30]), (source[:, 10:], target)):
        for shared in (True, False):
            oracle = indices(x, y, shared, Pairwise("float32", "dense"))
            found = indices(x, y, shared, BF16)
            assert torch.equal(found[3], oracle[3])
            assert torch.equal(found[0], oracle[0])


@pytest.mark.parametrize("unit", [True, False])
def test_the_slack_bounds_what_rounding_does_to_a_score(unit):
    """Also where all elements are rounded the same way, and their errors add up: then nearly all of it is used."""
    uneven = draw(8, 512).abs() + 0.01
    even = torch.full((8, 512), 1 + 2**-8 - 2**-12)  # just short of the middle of two numbers of bfloat16
    for x in (uneven, even):
        matching = Matching(x, "bf16")
        side = matching.side(x, unit)
        certificate = Certificate(side, side, matching.epilogue.settle)
        norm_N1 = x.double().norm(dim=1, keepdim=True) if unit else 1
        exact_NN = (x.double() / norm_N1) @ (x.double() / norm_N1).mT
        error_N = (side.rounded.double() @ side.rounded.double().mT - exact_NN).abs().amax(1)
        slack_N = certificate._query.slack(certificate._key).double()
        assert (2 * error_N <= slack_N).all()
    if not unit:
        assert (2 * error_N >= 0.9 * slack_N).all()
