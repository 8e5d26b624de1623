"""Lovász-softmax against the Lovász extension of the Jaccard loss, computed from explicit sets of pixels."""

import pytest
import torch
import torch.nn.functional as F

from plca_dist.errors import UserError
from plca_dist.method.lovasz import lovasz_softmax
from plca_dist.method.settings import SCOPES


def jaccard_loss(wrong: set[int], foreground: set[int]) -> float:
    """1 − |prediction ∩ truth| / |prediction ∪ truth| where exactly the pixels of `wrong` are predicted wrongly."""
    prediction = (foreground - wrong) | (wrong - foreground)
    return 1 - len(prediction & foreground) / len(prediction | foreground)


def by_sets(probabilities_KP: torch.Tensor, labels: list[int], ignore: int) -> torch.Tensor:
    """The extension as Choquet's integral ∫ Δ({p: m_p ≥ t}) dt over t in [0, 1]: no sorting, no weights."""
    losses = []
    for c in range(len(probabilities_KP)):
        foreground = {p for p, y in enumerate(labels) if y == c and y != ignore}
        if not foreground:
            continue
        errors = {
            p: 1 - probabilities_KP[c, p] if p in foreground else probabilities_KP[c, p]
            for p, y in enumerate(labels)
            if y != ignore
        }
        loss, below = 0 * probabilities_KP.sum(), 0.0
        for threshold in sorted(errors.values(), key=lambda e: e.item()):
            wrong = {p for p, e in errors.items() if e.item() >= threshold.item()}
            loss = loss + (threshold - below) * jaccard_loss(wrong, foreground)
            below = threshold
        losses.append(loss)
    return torch.stack(losses).mean() if losses else 0 * probabilities_KP.sum()


def expected_loss(probabilities, labels, scope, ignore=255):
    if scope == "batch":
        joined = probabilities.transpose(0, 1).flatten(1)
        return by_sets(joined, labels.flatten().tolist(), ignore)
    pairs = zip(probabilities.flatten(2), labels.flatten(1).tolist(), strict=True)
    return torch.stack([by_sets(p, y, ignore) for p, y in pairs]).mean()


@pytest.mark.parametrize("ignore", [255, 0])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_its_definition_in_value_and_gradient(draw, draw_labels, scope, seed, ignore):
    probabilities = (2 * draw(3, 5, 4, 6, seed=seed)).softmax(1).requires_grad_()
    labels = draw_labels(3, 4, 6, classes=4, seed=seed)  # class 4 is nowhere
    labels[labels == 255] = ignore
    labels[1] = ignore
    found = lovasz_softmax(probabilities, labels, ignore_index=ignore, scope=scope)
    expected = expected_loss(probabilities, labels, scope, ignore)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    gradients = [torch.autograd.grad(loss, probabilities)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)
    assert torch.count_nonzero(gradients[0].permute(0, 2, 3, 1)[labels == ignore]) == 0


def test_it_passes_gradcheck(draw, draw_labels):
    labels = draw_labels(2, 3, 4, classes=3)
    logits = draw(2, 3, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: lovasz_softmax(z.softmax(1), labels), logits)


def test_of_certain_predictions_it_is_one_minus_the_mean_iou():
    labels = torch.tensor([[[0, 0, 0, 1], [1, 1, 255, 0]]])
    predicted = torch.tensor([[[0, 0, 1, 1], [1, 0, 0, 2]]])
    probabilities = F.one_hot(predicted, 3).movedim(-1, 1).double()
    # class 0: intersection 2, union 5; class 1: intersection 2, union 4; class 2 is not in the labels
    assert lovasz_softmax(probabilities, labels).item() == pytest.approx(((1 - 2 / 5) + (1 - 2 / 4)) / 2)
    right = F.one_hot(labels.clamp(max=2), 3).movedim(-1, 1).double()
    assert lovasz_softmax(right, labels).item() == 0


@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_labelled_is_a_zero_with_a_graph(draw, scope):
    logits = draw(2, 3, 4, 4).requires_grad_()
    loss = lovasz_softmax(logits.softmax(1), torch.full((2, 4, 4), 255), scope=scope)
    assert loss.item() == 0
    loss.backward()
    assert torch.count_nonzero(logits.grad) == 0


def test_negative_labels_are_ignored(draw, draw_labels):
    probabilities, labels = draw(2, 3, 4, 5).softmax(1), draw_labels(2, 4, 5, classes=3)
    labels[:, 0] = 255
    negative = torch.where(labels == 255, -1, labels)
    assert torch.equal(lovasz_softmax(probabilities, negative), lovasz_softmax(probabilities, labels))


def test_an_image_without_labels_counts_in_the_mean(draw, draw_labels):
    probabilities, labels = draw(2, 3, 4, 4, similarity="kl"), draw_labels(2, 4, 4, classes=3)
    labels[1] = 255
    whole = lovasz_softmax(probabilities, labels)
    torch.testing.assert_close(whole, lovasz_softmax(probabilities[:1], labels[:1]) / 2)


def test_ties_and_uniform_probabilities_are_finite():
    probabilities = torch.full((1, 4, 5, 5), 0.25, requires_grad=True)
    labels = torch.arange(25).view(1, 5, 5) % 4
    loss = lovasz_softmax(probabilities, labels)
    # All foreground errs by 3/4 and all background by 1/4: the integral is 1/4 · 1 + 1/2 · 1 per class.
    assert loss.item() == pytest.approx(0.75)
    loss.backward()
    assert probabilities.grad.isfinite().all()


def test_float32_does_not_cancel_on_a_large_image(draw, draw_labels):
    probabilities = draw(1, 2, 400, 500, similarity="kl").requires_grad_()
    labels = draw_labels(1, 400, 500)
    single = probabilities.detach().float().requires_grad_()
    double_loss, single_loss = lovasz_softmax(probabilities, labels), lovasz_softmax(single, labels)
    (expected,) = torch.autograd.grad(double_loss, probabilities)
    (found,) = torch.autograd.grad(single_loss, single)
    assert single_loss.item() == pytest.approx(double_loss.item(), rel=1e-5)
    # Errors closer than float32 can tell may swap places: compare the bulk.
    relative = ((found - expected).abs() / expected.abs().max()).flatten()
    assert relative.median() < 1e-6
    assert relative.quantile(0.99) < 1e-3


def test_integer_labels_of_any_width_and_lower_precision(draw, draw_labels):
    probabilities, labels = draw(2, 3, 4, 4, similarity="kl", dtype=torch.bfloat16), draw_labels(2, 4, 4, classes=3)
    loss = lovasz_softmax(probabilities, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, lovasz_softmax(probabilities.float(), labels.to(torch.uint8)))


def test_bad_arguments_are_named():
    with pytest.raises(UserError, match=r"lovasz_scope 'images' is unknown; known: image, batch. Did you mean 'image'"):
        lovasz_softmax(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3), scope="images")
    with pytest.raises(ValueError, match=r"got \(1, 2, 3, 3\) and \(1, 3, 4\)"):
        lovasz_softmax(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 4))
