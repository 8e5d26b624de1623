"""The discriminator and its losses: shapes, values, and who gets a gradient of what."""

import math

import pytest
import torch
from torch import nn

from plca_dist.errors import UserError
from plca_dist.method.adversarial import Discriminator, discriminator_loss, fooling_loss, seen_by_discriminator
from plca_dist.method.entropy import weighted_information


@pytest.fixture
def discriminator() -> Discriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Discriminator(5).double()


def test_it_has_the_published_layers(discriminator):
    kinds = [type(layer) for layer in discriminator.layers]
    assert kinds == [nn.Conv2d, nn.LeakyReLU] * 4 + [nn.Conv2d]
    convolutions, slopes = discriminator.layers[::2], [layer.negative_slope for layer in discriminator.layers[1::2]]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (5, 64), (64, 128), (128, 256), (256, 512), (512, 1),
    ]  # fmt: skip
    assert {(c.kernel_size, c.stride, c.padding) for c in convolutions} == {((4, 4), (2, 2), (1, 1))}
    assert slopes == [0.2] * 4
    assert discriminator(torch.zeros(2, 5, 64, 96).double()).shape == (2, 1, 2, 3)


def test_its_losses_are_their_definitions(discriminator, draw):
    source, target = draw(2, 5, 32, 64, seed=1), draw(2, 5, 64, 32, seed=2)
    said = [discriminator(maps).flatten().tolist() for maps in (source, target)]
    sigma = [[1 / (1 + math.exp(-z)) for z in of_domain] for of_domain in said]
    on_source = -sum(math.log(1 - s) for s in sigma[0]) / len(sigma[0])
    on_target = -sum(math.log(s) for s in sigma[1]) / len(sigma[1])
    assert discriminator_loss(discriminator, source, target).item() == pytest.approx((on_source + on_target) / 2)
    fooled = -sum(math.log(1 - s) for s in sigma[1]) / len(sigma[1])
    assert fooling_loss(discriminator, target).item() == pytest.approx(fooled)


def test_the_gradient_of_each_stays_on_its_side(discriminator, draw):
    logits = [draw(2, 5, 32, 32, seed=seed).requires_grad_() for seed in (1, 2)]
    source, target = (seen_by_discriminator(x, "probability") for x in logits)
    fooling_loss(discriminator, target).backward(retain_graph=True)
    assert all(weight.grad is None for weight in discriminator.parameters())
    assert logits[0].grad is None
    assert logits[1].grad.abs().max() > 0
    before = logits[1].grad.clone()
    discriminator_loss(discriminator, source, target).backward()
    assert all(weight.grad.abs().max() > 0 for weight in discriminator.parameters())
    assert logits[0].grad is None
    assert torch.equal(logits[1].grad, before)


@pytest.mark.parametrize("on", ["probability", "entropy"])
def test_the_segmenter_s_gradient_is_right(discriminator, draw, on):
    logits = draw(1, 5, 32, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(fooling_loss(discriminator, seen_by_discriminator(logits, on)), logits)
    direction = draw(1, 5, 32, 32, seed=9)
    with torch.no_grad():
        ends = [fooling_loss(discriminator, seen_by_discriminator(logits + s * direction, on)) for s in (1e-5, -1e-5)]
    torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-10)


def test_it_sees_probabilities_or_their_information(draw):
    logits = draw(2, 5, 3, 4)
    torch.testing.assert_close(seen_by_discriminator(logits, "probability"), logits.softmax(1))
    torch.testing.assert_close(seen_by_discriminator(logits, "entropy"), weighted_information(logits))


def test_what_it_says_of_a_batch_is_the_mean_over_images(discriminator, draw):
    maps = draw(4, 5, 32, 32)
    parts = torch.stack([fooling_loss(discriminator, image) for image in maps.split(1)])
    torch.testing.assert_close(fooling_loss(discriminator, maps), parts.mean())


def test_a_small_image_is_refused_in_one_line(discriminator):
    with pytest.raises(UserError, match=r"needs 32 pixels a side; got 31 x 64: take larger crops"):
        fooling_loss(discriminator, torch.zeros(1, 5, 31, 64).double())
