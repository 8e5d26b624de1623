"""Spatial aggregation and the inference procedure against Eq. 7 and 8 in loops."""

import pytest
import torch

from plca_dist.errors import UserError
from plca_dist.method.aggregation import aggregate, aggregated_prediction
from plca_dist.method.settings import InferenceSettings


def by_loops(paper, x, ratio, similarity, normalize):
    maps = []
    for image in x:
        rows = paper.aggregate(paper.positions(image), ratio, paper.similarity[similarity], normalize)
        maps.append(torch.stack(rows, dim=1).view_as(image))
    return torch.stack(maps)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize(
    ("similarity", "contrast", "normalize"),
    [("cosine", None, True), ("kl", None, False), ("cosine", False, False), ("kl", True, True), ("kl", False, False)],
)
def test_it_is_its_definition_in_value_and_gradient(paper, draw, similarity, contrast, normalize, ratio):
    x = (2 * draw(2, 4, 2, 3)).softmax(1) if similarity == "kl" else 2 * draw(2, 4, 2, 3)
    x.requires_grad_()
    weight = draw(2, 4, 2, 3, seed=9)
    found = aggregate(x, ratio, similarity, contrast=contrast)
    expected = by_loops(paper, x, ratio, similarity, normalize)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-10)


def test_kl_passes_gradcheck(draw):
    x = draw(1, 3, 2, 2, similarity="kl").requires_grad_()
    assert torch.autograd.gradcheck(lambda p: aggregate(p, 0.5, "kl"), x)


def test_ratio_zero_is_the_input_itself(draw):
    x = draw(1, 3, 2, 2)
    assert aggregate(x, 0, "cosine") is x


def test_probabilities_stay_probabilities(draw):
    aggregated = aggregate(draw(2, 5, 4, 4, similarity="kl"), 0.7, "kl", contrast=True)
    torch.testing.assert_close(aggregated.sum(1), torch.ones(2, 4, 4, dtype=torch.float64))
    assert aggregated.min() > 0


def test_equal_positions_stay_as_they_are():
    x = torch.tensor([1.0, 2.0, 3.0])[None, :, None, None].expand(1, 3, 4, 5)
    torch.testing.assert_close(aggregate(x, 0.5, "cosine"), x)


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5, float("nan")])
def test_a_ratio_out_of_range(draw, ratio):
    with pytest.raises(UserError, match=rf"aggregation {ratio} is out of range: use at least 0 .* less than 1"):
        aggregate(draw(1, 3, 2, 2), ratio, "cosine")


@pytest.mark.parametrize("normalize", [False, True])
def test_prediction_aggregates_features_then_probabilities(paper, draw, normalize):
    features, head = draw(2, 4, 2, 3), draw(5, 4, seed=1)

    def classify(x):
        return torch.einsum("kc,bchw->bkhw", head, x)

    found = aggregated_prediction(features, classify, 0.4, InferenceSettings(normalize))
    probabilities = classify(by_loops(paper, features, 0.4, "cosine", True)).softmax(1)
    torch.testing.assert_close(found, by_loops(paper, probabilities, 0.4, "kl", normalize))
    plain = aggregated_prediction(features, classify, 0)
    torch.testing.assert_close(plain, classify(features).softmax(1))


def test_the_classifier_gets_the_dtype_it_was_trained_in(draw):
    head = torch.nn.Conv2d(4, 3, 1).to(torch.bfloat16)
    found = aggregated_prediction(draw(1, 4, 2, 2, dtype=torch.bfloat16), head, 0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(1, 2, 2))
