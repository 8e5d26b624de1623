"""Association losses against the equations in scalar loops, and against the shape the authors gave them."""

import pytest
import torch
import torch.nn.functional as F

from plca_dist.method.association import association_loss, labels_to_grid, similarity_loss
from plca_dist.method.settings import AssociationSettings

LOSSES = [association_loss, similarity_loss]


def by_loops(paper, source, target, labels, similarity, aggregation, kl_contrast=False):
    """The definition for every pair."""
    results = []
    for s, t, y in zip(source, target, labels, strict=True):
        t_positions = paper.positions(t)
        D = paper.similarity[similarity]
        if aggregation:
            t_positions = paper.aggregate(t_positions, aggregation, D, similarity == "cosine" or kl_contrast)
        results.append(paper.associate(paper.positions(s), t_positions, y.flatten().tolist(), D))
    return results


@pytest.mark.parametrize("kl_contrast", [False, True])
@pytest.mark.parametrize("aggregation", [0, 0.3, 0.5])
@pytest.mark.parametrize("similarity", ["cosine", "kl"])
@pytest.mark.parametrize("function", LOSSES)
def test_it_is_its_definition_in_value_and_gradient(paper, draw_pairs, function, similarity, aggregation, kl_contrast):
    source, target, labels = draw_pairs(similarity)
    settings = {"similarity": similarity, "aggregation": aggregation, "kl_aggregation_contrast": kl_contrast}
    found = function(source, target, labels, AssociationSettings(**settings))
    expected = by_loops(paper, source, target, labels, similarity, aggregation, kl_contrast)

    assert found.target_index.tolist() == [e.target_index for e in expected]
    assert found.source_index.tolist() == [e.source_index for e in expected]
    assert found.consistent.tolist() == [e.consistent for e in expected]
    starts = (labels != 255).flatten(1).sum(1)
    assert (found.consistent.sum(1) > 0).all()
    assert (found.consistent.sum(1) < starts).all()
    assert (starts < labels[0].numel()).all()

    name = "loss" if function is association_loss else "closeness_loss"
    loss = sum(getattr(e, name) for e in expected) / len(expected)
    torch.testing.assert_close(found.loss, loss, atol=1e-10, rtol=1e-10)
    gradients = [torch.autograd.grad(x, (source, target)) for x in (found.loss, loss)]
    assert all(g.abs().max() > 1e-4 for g in gradients[1])
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("aggregation", [0, 0.5])
@pytest.mark.parametrize("similarity", ["cosine", "kl"])
def test_a_batch_of_one_is_the_authors_definition(draw_pairs, similarity, aggregation):
    """Whole matrices, −KL with entropies, normalized softmax scores multiplied, −log of the product averaged."""
    source, target, labels = draw_pairs(similarity, B=1, C=7, source=(6, 5), target=(4, 7))

    def matrix(a, b):
        a, b = a[0].flatten(1).T, b[0].flatten(1).T
        if similarity == "cosine":
            return F.cosine_similarity(a[:, None], b[None], dim=-1)
        return -(a[:, None] * ((a[:, None] + 1e-10).log() - (b[None] + 1e-10).log())).sum(-1)

    def normalized(D):
        mean, std = D.mean(1, keepdim=True).detach(), D.std(1, keepdim=True).detach()
        return (D - mean) / (std + 1e-10)

    x = target
    if aggregation:
        D = matrix(x, x)
        w = F.softmax(normalized(D) if similarity == "cosine" else D, dim=1)
        mixed = (w @ x[0].flatten(1).T).T.view_as(x[0])[None]
        x = (1 - aggregation) * x + aggregation * mixed
    there, back = matrix(source, x), matrix(x, source)
    j = there.argmax(1)
    i = back.argmax(1)[j]
    y = labels.flatten()
    kept = ((y == y[i]) & (y != 255)).nonzero()[:, 0]
    product = F.softmax(normalized(there), 1)[kept, j[kept]] * F.softmax(normalized(back), 1)[j[kept], i[kept]]
    expected = -product.log().mean()

    found = association_loss(source, target, labels, AssociationSettings(similarity, aggregation))
    assert found.consistent[0].nonzero()[:, 0].tolist() == kept.tolist()
    torch.testing.assert_close(found.loss, expected, atol=1e-10, rtol=1e-10)
    gradients = [torch.autograd.grad(loss, (source, target)) for loss in (found.loss, expected)]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("similarity", ["cosine", "kl"])
def test_sim_plca_passes_gradcheck(draw_pairs, similarity):
    """Without aggregation it has no statistics in it; the random cycles are far from ties."""
    source, target, labels = draw_pairs(similarity, source=(2, 3), target=(2, 2))
    assert torch.autograd.gradcheck(
        lambda s, t: similarity_loss(s, t, labels, AssociationSettings(similarity, aggregation=0)).loss,
        (source, target),
    )


@pytest.mark.parametrize("similarity", ["cosine", "kl"])
@pytest.mark.parametrize("function", LOSSES)
def test_a_batch_is_the_mean_of_its_pairs(draw_pairs, function, similarity):
    source, target, labels = draw_pairs(similarity, B=3)
    labels[1] = 255  # an empty Î still counts as a pair
    whole = function(source, target, labels, AssociationSettings(similarity))
    parts = [
        function(source[b : b + 1], target[b : b + 1], labels[b : b + 1], AssociationSettings(similarity))
        for b in range(3)
    ]
    mean = torch.stack([p.loss for p in parts]).mean()
    assert parts[1].loss == 0
    torch.testing.assert_close(whole.loss, mean, atol=1e-12, rtol=1e-12)
    gradients = [torch.autograd.grad(loss, (source, target)) for loss in (whole.loss, mean)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)
    assert torch.equal(whole.consistent, torch.cat([p.consistent for p in parts]))


@pytest.mark.parametrize("size", [(3, 4), (7, 5), (92, 92), (1, 1), (13, 17), (100, 129)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_labels_go_to_the_grid_by_nearest_neighbour(draw_labels, size, dtype):
    labels = draw_labels(2, 97, 129, classes=19).to(dtype)
    found = labels_to_grid(labels, size)
    assert found.dtype == dtype
    assert torch.equal(found, F.interpolate(labels[:, None].double(), size, mode="nearest")[:, 0].to(dtype))
    if 97 % size[0] == 0 and 129 % size[1] == 0:
        assert torch.equal(found, labels[:, :: 97 // size[0], :: 129 // size[1]])


def test_label_zero_of_a_large_image_is_the_top_left_of_its_cell():
    labels = torch.arange(64).view(1, 8, 8)
    assert labels_to_grid(labels, (2, 2)).tolist() == [[[0, 4], [32, 36]]]
