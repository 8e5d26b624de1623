"""Thresholds, labels and losses of self-training against their definitions on sorted lists and in plain loops."""

import math

import pytest
import torch

from plca_dist.method.pseudo_labels import (
    BINS,
    Labels,
    assign,
    count_confidence,
    log_probabilities,
    log_thresholds,
    pseudo_label_loss,
    round_of,
    share_of_round,
)


def pixels(logits: torch.Tensor) -> list[list[float]]:
    """Class probabilities of every pixel."""
    rows = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
    return [[math.exp(z) / sum(map(math.exp, row)) for z in row] for row in rows.tolist()]


def test_log_probabilities_are_right_where_one_minus_p_is_lost_in_float32(draw):
    logits = 4 * draw(2, 5, 3, 4)
    log, odds = log_probabilities(logits)
    torch.testing.assert_close(log, logits.log_softmax(1))
    best = log.exp().amax(1)
    torch.testing.assert_close(odds, (best / (1 - best)).log())
    sure = torch.tensor([25.0, 0.0, -3.0]).view(1, 3, 1, 1)
    log, odds = log_probabilities(sure)
    others = math.exp(-25) + math.exp(-28)
    assert odds.item() == pytest.approx(-math.log(others), rel=1e-6)
    assert log[0, 0].item() == pytest.approx(-others, rel=1e-5)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_thresholds_are_those_of_sorted_lists(draw, share):
    logits = 3 * draw(3, 4, 40, 40)
    logits[:, 3] -= 2  # a rare class
    counts = sum(count_confidence(image) for image in logits.split(1))
    assert torch.equal(counts, count_confidence(logits))
    assert counts.sum() == 3 * 1600
    found = log_thresholds(counts, share)
    for k in range(4):
        confidence = sorted((max(p) for p in pixels(logits) if p.index(max(p)) == k), reverse=True)
        assert counts[k].sum() == len(confidence)
        exact = confidence[math.floor(len(confidence) * share) - 1]
        odds = [math.log(p / (1 - p)) for p in (exact, found[k].exp().item())]
        assert 0 <= odds[0] - odds[1] < 1 / 128 + 1e-9, "the lower end of its bin"


def test_a_class_without_a_share_has_threshold_one():
    counts = torch.zeros(3, BINS, dtype=torch.int64)
    counts[1, 700], counts[2, 700] = 4, 5
    found = log_thresholds(counts, 0.2)
    assert found[0] == found[1] == 0  # of 4 pixels 20 % are none
    assert found[2] == pytest.approx(-math.log1p(math.exp(8 - 700 / 128)))


def test_the_surest_share_of_every_class_gets_its_label(draw):
    """On the images that the thresholds are of, also where float32 rounds many of them to 1."""
    for scale in (3, 16):
        logits = (scale * draw(2, 4, 50, 50)).float()
        labels = assign(logits, log_thresholds(count_confidence(logits), 0.3))
        predicted = logits.argmax(1)
        for k in range(4):
            of_class = predicted == k
            share = (labels.chosen & of_class).sum() / of_class.sum()
            assert 0.29 < share < 0.36, (scale, k)


def test_hard_labels_are_their_definition(draw):
    logits, threshold = 2 * draw(2, 4, 3, 5), torch.tensor([0.9, 0.3, 0.6, 0.5], dtype=torch.float64)
    labels = assign(logits, threshold.log())
    ratios = [[p / t for p, t in zip(pixel, threshold.tolist(), strict=True)] for pixel in pixels(logits)]
    assert labels.best.flatten().tolist() == [r.index(max(r)) for r in ratios]
    assert labels.chosen.flatten().tolist() == [max(r) >= 1 for r in ratios]
    assert 0 < labels.chosen.sum() < 30
    assert (labels.best != logits.argmax(1)).any(), "a rare class wins against its rivals' higher thresholds"


def test_soft_labels_minimize_the_regularized_objective(draw):
    logits, threshold = 2 * draw(2, 4, 3, 5), torch.tensor([0.9, 0.3, 0.6, 0.5], dtype=torch.float64)
    labels = assign(logits, threshold.log(), 0.25)
    flat = labels.of_class.permute(0, 2, 3, 1).reshape(-1, 4)
    for pixel, found, chosen in zip(pixels(logits), flat.tolist(), labels.chosen.flatten().tolist(), strict=True):
        powers = [(p / t) ** 4 for p, t in zip(pixel, threshold.tolist(), strict=True)]
        assert found == pytest.approx([x / sum(powers) for x in powers], rel=1e-9)
        regularized = sum(-y * math.log(p) + 0.25 * y * math.log(y) for y, p in zip(found, pixel, strict=True))
        without = -sum(y * math.log(t) for y, t in zip(found, threshold.tolist(), strict=True))
        assert chosen == (regularized < without)


@pytest.mark.parametrize(("temperature", "smoothness"), [(0.0, 0.0), (0.0, 0.01), (0.25, 0.0)])
def test_the_loss_is_its_definition_in_value_and_gradient(draw, temperature, smoothness):
    logits = (2 * draw(3, 4, 3, 5)).requires_grad_()
    labels = assign(3 * draw(3, 4, 3, 5, seed=5), torch.tensor([0.8, 0.7, 0.9, 0.6]).log(), temperature)
    labels.chosen[2] = False  # an image without labels
    found = pseudo_label_loss(logits, labels, smoothness)
    total = logits.new_zeros(())
    for b in range(2):
        of_image = []
        for r in range(3):
            for c in range(5):
                if labels.chosen[b, r, c]:
                    p = logits[b, :, r, c].exp()
                    p = p / p.sum()
                    hard = [float(k == labels.best[b, r, c]) for k in range(4)]
                    y = hard if labels.of_class is None else labels.of_class[b, :, r, c].tolist()
                    loss = -sum(y[k] * p[k].log() + smoothness / 4 * p[k].log() for k in range(4))
                    of_image.append(loss)
        total = total + sum(of_image) / len(of_image)
    torch.testing.assert_close(found, total / 3, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, total / 3)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(lambda x: pseudo_label_loss(x, labels, smoothness), logits)


def test_images_without_any_label_keep_the_graph():
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    nothing = Labels(None, torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.bool))
    loss = pseudo_label_loss(logits, nothing, 0.01)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_rounds_begin_at_fixed_steps_and_the_last_one_lasts():
    turns = [round_of(step, 3, 2, 3) for step in range(11)]
    assert turns == [None] * 3 + [(0, True), (0, False), (1, True), (1, False), (2, True)] + [(2, False)] * 3
    assert [share_of_round(t, 0.2, 0.05, 0.5) for t in (0, 1, 2, 9)] == pytest.approx([0.2, 0.25, 0.3, 0.5])
    for length, rounds in ((0, 3), (2, 0)):
        with pytest.raises(ValueError, match="rounds of"):
            round_of(0, 0, length, rounds)
