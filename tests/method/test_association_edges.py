"""Association where there is little to associate: ignored pixels, empty cycles, ties, flat inputs, low precision."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from plca_dist.errors import UserError
from plca_dist.method.association import association_loss, similarity_loss
from plca_dist.method.settings import AssociationSettings
from plca_dist.ops.settings import Pairwise

LOSSES = [association_loss, similarity_loss]


@pytest.mark.parametrize("similarity", ["cosine", "kl"])
@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("why", ["all ignored", "no cycle comes back"])
def test_an_empty_set_of_cycles_is_a_zero_with_a_graph(draw_pairs, function, similarity, why):
    source, target, labels = draw_pairs(similarity)
    if why == "all ignored":
        labels = torch.full_like(labels, 255)
    else:  # a label of its own for every position, and no position that comes back to itself
        labels = torch.arange(12).view(1, 3, 4).expand(2, 3, 4).clone()
        ends = function(source, target, labels, AssociationSettings(similarity)).source_index
        labels[(ends == torch.arange(12)).view_as(labels)] = 255
        assert (labels != 255).any()
    found = function(source, target, labels, AssociationSettings(similarity))
    assert not found.consistent.any()
    assert found.loss.item() == 0
    found.loss.backward()
    assert torch.count_nonzero(source.grad) == torch.count_nonzero(target.grad) == 0


@pytest.mark.parametrize("similarity", ["cosine", "kl"])
@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("ignore_index", [255, -1])
def test_negative_labels_are_ignored(draw_pairs, function, similarity, ignore_index):
    source, target, labels = draw_pairs(similarity)
    labels[:, 0] = 255
    settings = AssociationSettings(similarity)
    expected = function(source, target, labels, settings)
    assert expected.consistent.any()
    negative = torch.where(labels == 255, -1, labels)
    found = function(source, target, negative, dataclasses.replace(settings, ignore_index=ignore_index))
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(found.consistent, expected.consistent)


@pytest.mark.parametrize("function", LOSSES)
def test_ignored_pixels_remain_candidates(function):
    """The labelled start's cycle ends at its ignored twin, which lies closer to the target: inconsistent."""
    source = torch.tensor([[1.0, 0.5], [1.0, 0.0], [0.0, 1.0]]).T.reshape(1, 2, 1, 3)
    target = torch.tensor([[1.0, 0.1], [-1.0, -1.0]]).T.reshape(1, 2, 1, 2)
    found = function(source, target, torch.tensor([[[4, 255, 4]]]), AssociationSettings(aggregation=0))
    assert found.target_index.tolist() == [[0, 0, 0]]
    assert found.source_index.tolist() == [[1, 1, 1]]
    assert not found.consistent.any()
    labelled = function(source, target, torch.tensor([[[4, 4, 4]]]), AssociationSettings(aggregation=0))
    assert labelled.consistent.all()


def test_ignored_pixels_remain_terms_of_the_softmax(draw_pairs):
    source, target, labels = draw_pairs("cosine", B=1)
    whole = association_loss(source, target, labels, AssociationSettings(aggregation=0))
    (gradient,) = torch.autograd.grad(whole.loss, source)
    ignored = (labels == 255)[:, None].expand_as(gradient)
    assert (gradient[ignored].abs() > 1e-6).all()


def test_ties_go_to_the_lowest_index():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]).T.reshape(1, 2, 2, 2)
    found = association_loss(x, x, torch.zeros(1, 2, 2, dtype=torch.int64), AssociationSettings(aggregation=0))
    assert found.target_index.tolist() == [[0, 1, 0, 1]]
    assert found.source_index.tolist() == [[0, 1, 0, 1]]


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("similarity", ["cosine", "kl"])
def test_one_position_on_each_side(draw, function, similarity):
    source = draw(2, 3, 1, 1, seed=1, similarity=similarity).requires_grad_()
    target = draw(2, 3, 1, 1, seed=2, similarity=similarity).requires_grad_()
    found = function(source, target, torch.zeros(2, 1, 1, dtype=torch.int64), AssociationSettings(similarity))
    assert found.consistent.all()
    if function is association_loss:
        assert found.loss.item() == 0  # the only candidate has probability 1
    assert all(g.isfinite().all() for g in torch.autograd.grad(found.loss, (source, target)))


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize(
    ("similarity", "degenerate"),
    [("cosine", "all equal"), ("cosine", "all zero"), ("cosine", "one zero"), ("kl", "all equal"), ("kl", "certain")],
)
def test_degenerate_inputs_give_finite_losses_and_gradients(draw, function, similarity, degenerate):
    N, K = 12, 19
    if similarity == "kl":
        one_hot = F.one_hot(torch.arange(N) % 3, K).float()
        source = (one_hot if degenerate == "certain" else torch.full_like(one_hot, 1 / K)).T.reshape(1, K, 3, 4)
    else:
        source = draw(1, K, 3, 4, seed=1, dtype=torch.float32)
        if degenerate == "all equal":
            source = source[..., :1, :1].expand_as(source).clone()
        elif degenerate == "all zero":
            source = torch.zeros_like(source)
        else:
            source[..., 0, 0] = 0
    source.requires_grad_()
    target = source.detach().flip(-1).clone().requires_grad_()
    labels = torch.zeros(1, 3, 4, dtype=torch.int64)
    found = function(source, target, labels, AssociationSettings(similarity))
    gradients = torch.autograd.grad(found.loss, (source, target))
    assert found.loss.isfinite()
    assert all(g.isfinite().all() for g in gradients)
    if degenerate.startswith("all") and function is association_loss:
        assert found.loss.item() == pytest.approx(2 * math.log(N), rel=1e-6)
        assert all(torch.count_nonzero(g) == 0 for g in gradients)


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("similarity", ["cosine", "kl"])
def test_autocast_and_bfloat16_give_float32_losses(draw_pairs, function, similarity):
    source, target, labels = draw_pairs(similarity)
    source, target = source.detach().float(), target.detach().float()
    plain = function(source, target, labels, AssociationSettings(similarity))
    with torch.autocast("cpu", torch.bfloat16):
        cast = function(source, target, labels, AssociationSettings(similarity))
        low = function(source.bfloat16(), target.bfloat16(), labels, AssociationSettings(similarity))
    assert torch.equal(plain.loss, cast.loss)
    assert low.loss.dtype == torch.float32
    assert low.loss.isfinite()


def test_bad_arguments_are_named(draw_pairs):
    source, target, labels = draw_pairs("cosine")
    for function in LOSSES:
        with pytest.raises(UserError, match="similarity 'l2' is unknown"):
            function(source, target, labels, AssociationSettings(similarity="l2"))
        with pytest.raises(UserError, match="similarity 'l2' is unknown"):
            function(source, target, labels, AssociationSettings(similarity="l2", aggregation=0))
        with pytest.raises(UserError, match=r"aggregation 1\.0 is out of range"):
            function(source, target, labels, AssociationSettings(aggregation=1.0))
        with pytest.raises(UserError, match="backend 'fast' is unknown"):
            function(source, target, labels, AssociationSettings(pairwise=Pairwise(backend="fast")))
        with pytest.raises(ValueError, match=r"equal B and C, got \(2, 5, 3, 4\) and \(1, 5, 2, 5\)"):
            function(source, target[:1], labels)
        with pytest.raises(ValueError, match=r"equal B and C"):
            function(source, target[:, :4], labels)
        with pytest.raises(ValueError, match=r"expected labels \(2, 3, 4\) on the source's grid .*, got \(2, 4, 3\)"):
            function(source, target, labels.mT)
