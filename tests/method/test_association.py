"""Association losses against the equations in scalar loops, and against the shape the authors gave them."""

import math

import pytest
import torch
import torch.nn.functional as F

from plca_dist.errors import UserError
from plca_dist.method.association import association_loss, labels_to_grid, similarity_loss

LOSSES = [association_loss, similarity_loss]


def pairs(draw, draw_labels, similarity, B=2, C=5, source=(3, 4), target=(2, 5), seed=0):
    """Source and target leaves, and labels among two classes with some ignored."""
    leaves = [
        draw(B, C, *grid, seed=s, similarity=similarity).requires_grad_()
        for grid, s in ((source, seed + 1), (target, seed + 2))
    ]
    return *leaves, draw_labels(B, *source, seed=seed)


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
def test_it_is_its_definition_in_value_and_gradient(
    paper, draw, draw_labels, function, similarity, aggregation, kl_contrast
):
    source, target, labels = pairs(draw, draw_labels, similarity)
    settings = {"similarity": similarity, "aggregation": aggregation, "kl_aggregation_contrast": kl_contrast}
    found = function(source, target, labels, **settings)
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
def test_a_batch_of_one_is_the_authors_definition(draw, draw_labels, similarity, aggregation):
    """Whole matrices, −KL with entropies, normalized softmax scores multiplied, −log of the product averaged."""
    source, target, labels = pairs(draw, draw_labels, similarity, B=1, C=7, source=(6, 5), target=(4, 7))

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

    found = association_loss(source, target, labels, similarity=similarity, aggregation=aggregation)
    assert found.consistent[0].nonzero()[:, 0].tolist() == kept.tolist()
    torch.testing.assert_close(found.loss, expected, atol=1e-10, rtol=1e-10)
    gradients = [torch.autograd.grad(loss, (source, target)) for loss in (found.loss, expected)]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("similarity", ["cosine", "kl"])
def test_sim_plca_passes_gradcheck(draw, draw_labels, similarity):
    """Without aggregation it has no statistics in it; the random cycles are far from ties."""
    source, target, labels = pairs(draw, draw_labels, similarity, source=(2, 3), target=(2, 2))
    assert torch.autograd.gradcheck(
        lambda s, t: similarity_loss(s, t, labels, similarity=similarity, aggregation=0).loss, (source, target)
    )


@pytest.mark.parametrize("similarity", ["cosine", "kl"])
@pytest.mark.parametrize("function", LOSSES)
def test_a_batch_is_the_mean_of_its_pairs(draw, draw_labels, function, similarity):
    source, target, labels = pairs(draw, draw_labels, similarity, B=3)
    labels[1] = 255  # an empty Î still counts as a pair
    whole = function(source, target, labels, similarity=similarity)
    parts = [function(source[b : b + 1], target[b : b + 1], labels[b : b + 1], similarity=similarity) for b in range(3)]
    mean = torch.stack([p.loss for p in parts]).mean()
    assert parts[1].loss == 0
    torch.testing.assert_close(whole.loss, mean, atol=1e-12, rtol=1e-12)
    gradients = [torch.autograd.grad(loss, (source, target)) for loss in (whole.loss, mean)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)
    assert torch.equal(whole.consistent, torch.cat([p.consistent for p in parts]))


@pytest.mark.parametrize("similarity", ["cosine", "kl"])
@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("why", ["all ignored", "no cycle comes back"])
def test_an_empty_set_of_cycles_is_a_zero_with_a_graph(draw, draw_labels, function, similarity, why):
    source, target, labels = pairs(draw, draw_labels, similarity)
    if why == "all ignored":
        labels = torch.full_like(labels, 255)
    else:  # a label of its own for every position, and no position that comes back to itself
        labels = torch.arange(12).view(1, 3, 4).expand(2, 3, 4).clone()
        ends = function(source, target, labels, similarity=similarity).source_index
        labels[(ends == torch.arange(12)).view_as(labels)] = 255
        assert (labels != 255).any()
    found = function(source, target, labels, similarity=similarity)
    assert not found.consistent.any()
    assert found.loss.item() == 0
    found.loss.backward()
    assert torch.count_nonzero(source.grad) == torch.count_nonzero(target.grad) == 0


@pytest.mark.parametrize("function", LOSSES)
def test_ignored_pixels_remain_candidates(function):
    """The labelled start's cycle ends at its ignored twin, which lies closer to the target: inconsistent."""
    source = torch.tensor([[1.0, 0.5], [1.0, 0.0], [0.0, 1.0]]).T.reshape(1, 2, 1, 3)
    target = torch.tensor([[1.0, 0.1], [-1.0, -1.0]]).T.reshape(1, 2, 1, 2)
    found = function(source, target, torch.tensor([[[4, 255, 4]]]), aggregation=0)
    assert found.target_index.tolist() == [[0, 0, 0]]
    assert found.source_index.tolist() == [[1, 1, 1]]
    assert not found.consistent.any()
    labelled = function(source, target, torch.tensor([[[4, 4, 4]]]), aggregation=0)
    assert labelled.consistent.all()


def test_ignored_pixels_remain_terms_of_the_softmax(draw, draw_labels):
    source, target, labels = pairs(draw, draw_labels, "cosine", B=1)
    whole = association_loss(source, target, labels, aggregation=0)
    (gradient,) = torch.autograd.grad(whole.loss, source)
    ignored = (labels == 255)[:, None].expand_as(gradient)
    assert (gradient[ignored].abs() > 1e-6).all()


def test_ties_go_to_the_lowest_index():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]).T.reshape(1, 2, 2, 2)
    found = association_loss(x, x, torch.zeros(1, 2, 2, dtype=torch.int64), aggregation=0)
    assert found.target_index.tolist() == [[0, 1, 0, 1]]
    assert found.source_index.tolist() == [[0, 1, 0, 1]]


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("similarity", ["cosine", "kl"])
def test_one_position_on_each_side(draw, function, similarity):
    source = draw(2, 3, 1, 1, seed=1, similarity=similarity).requires_grad_()
    target = draw(2, 3, 1, 1, seed=2, similarity=similarity).requires_grad_()
    found = function(source, target, torch.zeros(2, 1, 1, dtype=torch.int64), similarity=similarity)
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
    found = function(source, target, labels, similarity=similarity)
    gradients = torch.autograd.grad(found.loss, (source, target))
    assert found.loss.isfinite()
    assert all(g.isfinite().all() for g in gradients)
    if degenerate.startswith("all") and function is association_loss:
        assert found.loss.item() == pytest.approx(2 * math.log(N), rel=1e-6)
        assert all(torch.count_nonzero(g) == 0 for g in gradients)


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("similarity", ["cosine", "kl"])
def test_autocast_and_bfloat16_give_float32_losses(draw, draw_labels, function, similarity):
    source, target, labels = pairs(draw, draw_labels, similarity)
    source, target = source.detach().float(), target.detach().float()
    plain = function(source, target, labels, similarity=similarity)
    with torch.autocast("cpu", torch.bfloat16):
        cast = function(source, target, labels, similarity=similarity)
        low = function(source.bfloat16(), target.bfloat16(), labels, similarity=similarity)
    assert torch.equal(plain.loss, cast.loss)
    assert low.loss.dtype == torch.float32
    assert low.loss.isfinite()


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


def test_bad_arguments_are_named(draw, draw_labels):
    source, target, labels = pairs(draw, draw_labels, "cosine")
    for function in LOSSES:
        with pytest.raises(UserError, match="similarity 'l2' is unknown"):
            function(source, target, labels, similarity="l2")
        with pytest.raises(UserError, match="similarity 'l2' is unknown"):
            function(source, target, labels, similarity="l2", aggregation=0)
        with pytest.raises(UserError, match=r"aggregation 1\.0 is out of range"):
            function(source, target, labels, aggregation=1.0)
        with pytest.raises(UserError, match="backend 'fast' is unknown"):
            function(source, target, labels, backend="fast")
        with pytest.raises(ValueError, match=r"equal B and C, got \(2, 5, 3, 4\) and \(1, 5, 2, 5\)"):
            function(source, target[:1], labels)
        with pytest.raises(ValueError, match=r"equal B and C"):
            function(source, target[:, :4], labels)
        with pytest.raises(ValueError, match=r"expected labels \(2, 3, 4\) on the source's grid .*, got \(2, 4, 3\)"):
            function(source, target, labels.mT)
