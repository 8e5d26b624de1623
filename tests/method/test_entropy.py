"""Entropy minimization against its definition in plain loops, and what each penalty does."""

import math

import pytest
import torch

from plca_dist.errors import UserError
from plca_dist.method.entropy import entropy_loss, weighted_information


def probabilities(logits: torch.Tensor) -> list[torch.Tensor]:
    """Of every pixel, (K,) each, by the softmax's definition."""
    exponentials = logits.exp().permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
    return [e / e.sum() for e in exponentials]


@pytest.mark.parametrize("penalty", ["linear", "robust"])
def test_it_is_its_definition_in_value_and_gradient(draw, penalty):
    logits = (3 * draw(2, 5, 3, 4)).requires_grad_()
    found = entropy_loss(logits, penalty)
    values = []
    for p in probabilities(logits):
        entropy = -sum(x * x.log() for x in p) / math.log(5)
        values.append(entropy if penalty == "linear" else (entropy * entropy + 1e-8) * (entropy * entropy + 1e-8))
    expected = sum(values) / 24
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-12)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-14, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: entropy_loss(x, penalty), logits)


def test_the_maps_add_up_to_the_entropy(draw):
    maps = weighted_information(draw(2, 5, 3, 4))
    torch.testing.assert_close(maps.sum(1).mean(), entropy_loss(draw(2, 5, 3, 4)))
    assert weighted_information(torch.zeros(1, 7, 1, 1)).sum().item() == pytest.approx(1)


def test_a_batch_is_the_mean_of_its_images(draw):
    logits = draw(4, 5, 3, 4)
    for penalty in ("linear", "robust"):
        parts = torch.stack([entropy_loss(image, penalty) for image in logits.split(1)])
        torch.testing.assert_close(entropy_loss(logits, penalty), parts.mean())


def test_the_robust_penalty_leaves_certain_pixels_alone_and_pushes_even_ones_harder():
    for level, harder in ((0.3, True), (8.0, False)):
        pushes = []
        for penalty in ("linear", "robust"):
            logits = torch.tensor([level, 0.0]).view(1, 2, 1, 1).requires_grad_()
            entropy_loss(logits, penalty).backward()
            pushes.append(logits.grad.abs().max())
        assert (pushes[1] > pushes[0]) == harder


@pytest.mark.parametrize("penalty", ["linear", "robust"])
def test_certain_logits_of_low_precision_are_finite(penalty):
    logits = torch.tensor([300.0, 0.0, -300.0], dtype=torch.bfloat16).view(1, 3, 1, 1).requires_grad_()
    loss = entropy_loss(logits, penalty)
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(loss.item()) < 1e-6
    assert logits.grad.isfinite().all()


def test_an_unknown_penalty_is_refused():
    with pytest.raises(UserError, match=r"entropy_penalty 'robusst' is unknown; known: linear, robust\. Did you mean"):
        entropy_loss(torch.zeros(1, 2, 1, 1), "robusst")
