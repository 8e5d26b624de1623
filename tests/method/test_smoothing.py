"""Adaptive label smoothing against Eq. 13, and where it comes to rest."""

import pytest
import torch

from plca_dist.errors import UserError
from plca_dist.method.smoothing import smoothing_loss


def test_it_is_its_definition_in_value_and_gradient(draw):
    logits = (3 * draw(2, 4, 2, 3)).requires_grad_()
    gamma = 2.0
    found = smoothing_loss(logits, gamma)
    terms = []
    for b in range(2):
        for r in range(2):
            for c in range(3):
                exponentials = [z.exp() for z in logits[b, :, r, c]]
                level = -sum((e / sum(exponentials)).log() for e in exponentials) / 4
                terms.append((level.item() / gamma - 1) * level)
    expected = sum(terms) / len(terms)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)


def logits_at(level: float) -> torch.Tensor:
    """Logits (1, 2, 1, 1) of two classes with ℓ = `level`, found by bisection."""
    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        z = torch.tensor([middle, 0.0], dtype=torch.float64)
        low, high = (middle, high) if -z.log_softmax(0).mean() < level else (low, middle)
    return torch.tensor([low, 0.0], dtype=torch.float64).view(1, 2, 1, 1).requires_grad_()


@pytest.mark.parametrize("gamma", [3.0, 10.0])
def test_it_rests_at_gamma_and_not_at_half_of_it(gamma):
    """d/dz of sg(ℓ/γ − 1)·ℓ vanishes at ℓ = γ; of (ℓ/γ − 1)·ℓ it would vanish at γ/2."""
    for level, sharpens in ((gamma, 0), (gamma / 2, 1), (2 * gamma, -1)):
        logits = logits_at(level)
        smoothing_loss(logits, gamma).backward()
        push = -logits.grad[0, 0, 0, 0].item()  # a descent step's effect on the larger logit
        if sharpens == 0:
            assert abs(push) < 1e-12
        else:
            assert push * sharpens > 1e-2


def test_uniform_predictions_have_a_known_value_and_no_gradient():
    logits = torch.zeros(2, 19, 3, 3, requires_grad=True)
    loss = smoothing_loss(logits)
    level = torch.tensor(19.0).log().item()
    assert loss.item() == pytest.approx((level / 10 - 1) * level, rel=1e-5)
    loss.backward()
    assert logits.grad.abs().max() < 1e-7


def test_very_certain_and_low_precision_logits_are_finite():
    logits = torch.tensor([300.0, 0.0, -300.0]).view(1, 3, 1, 1)
    assert smoothing_loss(logits).item() == pytest.approx((300 / 10 - 1) * 300)
    low = smoothing_loss(logits.bfloat16())
    assert low.dtype == torch.float32
    assert low.isfinite()


@pytest.mark.parametrize("gamma", [0, -1.0, float("inf"), float("nan")])
def test_gamma_out_of_range(gamma):
    with pytest.raises(UserError, match=rf"smoothness {gamma} is out of range: γ must be positive and finite"):
        smoothing_loss(torch.zeros(1, 2, 1, 1), gamma)
