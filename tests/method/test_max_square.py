"""Maximum squares against its definition in plain loops, with and without image-wise weights."""

import pytest
import torch

from plca_dist.method.max_square import max_square_loss


def by_definition(logits: torch.Tensor, image_weights: bool) -> torch.Tensor:
    images, classes, height, width = logits.shape
    total = logits.new_zeros(())
    for b in range(images):
        p = logits[b].flatten(1).T.exp()
        p = p / p.sum(1, keepdim=True)
        predicted = [max(range(classes), key=lambda k, n=n: p[n, k].item()) for n in range(height * width)]
        for n in range(height * width):
            count = predicted.count(predicted[n])
            weight = 1 / max(count**0.2 * (height * width) ** 0.8, 1) if image_weights else 1 / (2 * height * width)
            total = total - sum(p[n, k] ** 2 for k in range(classes)) * weight
    return total / (classes * images)


@pytest.mark.parametrize("image_weights", [False, True])
def test_it_is_its_definition_in_value_and_gradient(draw, image_weights):
    logits = (2 * draw(2, 4, 3, 5)).requires_grad_()
    found = max_square_loss(logits, image_weights=image_weights)
    expected = by_definition(logits, image_weights)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-12)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-14, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: max_square_loss(x, image_weights=image_weights), logits)


@pytest.mark.parametrize("image_weights", [False, True])
def test_a_batch_is_the_mean_of_its_images(draw, image_weights):
    logits = draw(4, 5, 3, 4)
    parts = torch.stack([max_square_loss(image, image_weights=image_weights) for image in logits.split(1)])
    torch.testing.assert_close(max_square_loss(logits, image_weights=image_weights), parts.mean())


def test_its_ends_are_known():
    even, certain = torch.zeros(1, 4, 2, 2), torch.tensor([99.0, 0, 0, 0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    assert max_square_loss(even).item() == pytest.approx(-1 / 32)
    assert max_square_loss(certain).item() == pytest.approx(-1 / 8)


def test_pixels_of_a_rare_class_weigh_more():
    logits = torch.zeros(1, 2, 1, 100)
    logits[:, 0, :, :99], logits[:, 1, :, 99] = 1.0, 1.0
    logits.requires_grad_()
    max_square_loss(logits, image_weights=True).backward()
    common, rare = logits.grad[0, 0, 0, 0].abs(), logits.grad[0, 0, 0, 99].abs()
    assert (rare / common).item() == pytest.approx(99**0.2, rel=1e-4)
