"""The objective as the weighted sum of its terms, its switches, and its independence of how a batch is split."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from plca_dist.errors import UserError
from plca_dist.method.association import association_loss, similarity_loss
from plca_dist.method.lovasz import lovasz_softmax
from plca_dist.method.objective import ABLATION, Objective
from plca_dist.method.settings import AssociationSettings, ObjectiveSettings
from plca_dist.method.smoothing import smoothing_loss
from plca_dist.ops import operations as ops
from plca_dist.ops.settings import Pairwise

DEFAULTS = {"lovasz": 0.75, "association": 0.1, "smoothing": 0.01}


def part(source, labels, target, chosen):
    return type(source)(*(x[chosen] for x in source)), labels[chosen], type(target)(*(x[chosen] for x in target))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lovasz": 0.3, "association": 0.7, "smoothing": 0.2, "aggregation": 0.3, "smoothness": 4.0},
        {"contrast": False, "kl_aggregation_contrast": True},
        {"lovasz_scope": "batch", "ignore_index": 3},
    ],
)
def test_total_is_the_weighted_sum_of_terms_each_of_which_is_its_own_function(batch, settings):
    source, labels, target = batch()
    ignore = settings.get("ignore_index", 255)
    if ignore == 3:
        labels[labels == 255] = 3
    chosen = {name: value for name, value in settings.items() if name != "ignore_index"}
    terms = Objective(ObjectiveSettings(**chosen), ignore_index=ignore)(source, labels, target)

    upsampled = F.interpolate(source.logits, (17, 23), mode="bilinear", align_corners=False)
    entropies = []
    for b in range(4):
        valid = labels[b] != ignore
        entropies.append(F.cross_entropy(upsampled[b][:, valid].T, labels[b][valid]))
    torch.testing.assert_close(terms.cross_entropy, torch.stack(entropies).mean())

    scope = settings.get("lovasz_scope", "image")
    expected = lovasz_softmax(upsampled.softmax(1), labels, ignore_index=ignore, scope=scope)
    torch.testing.assert_close(terms.lovasz, expected)

    associate = association_loss if settings.get("contrast", True) else similarity_loss
    rest = {"aggregation": settings.get("aggregation", 0.5), "ignore_index": ignore}
    grid_labels = F.interpolate(labels[:, None].double(), (5, 6), mode="nearest")[:, 0].long()
    feature = associate(source.features, target.features, grid_labels, AssociationSettings(**rest))
    rest["kl_aggregation_contrast"] = settings.get("kl_aggregation_contrast", False)
    probabilities = [x.logits.softmax(1) for x in (source, target)]
    prediction = associate(*probabilities, grid_labels, AssociationSettings("kl", **rest))
    starts = (grid_labels != ignore).flatten(1).sum(1)
    for name, level in (("feature", feature), ("prediction", prediction)):
        torch.testing.assert_close(getattr(terms, name), level.loss)
        share = (level.consistent.sum(1) / starts).mean()
        torch.testing.assert_close(getattr(terms, f"consistent_{name}"), share)
        assert 0 < share < 1
    gamma = settings.get("smoothness", 10.0)
    torch.testing.assert_close(terms.smoothing_source, smoothing_loss(source.logits, gamma))
    torch.testing.assert_close(terms.smoothing_target, smoothing_loss(target.logits, gamma))

    w = DEFAULTS | settings
    total = (
        terms.cross_entropy
        + w["lovasz"] * terms.lovasz
        + w["association"] * (terms.feature + terms.prediction)
        + w["smoothing"] * (terms.smoothing_source + terms.smoothing_target)
    )
    torch.testing.assert_close(terms.total, total)
    leaves = [*source, *target]
    gradients = [torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (terms.total, total)]
    torch.testing.assert_close(*gradients)
    assert all(g.abs().max() > 0 for g in gradients[0])


@pytest.mark.parametrize("row", ABLATION)
def test_the_loss_does_not_depend_on_how_a_batch_is_split(batch, row):
    source, labels, target = batch()
    labels[2] = 255  # nothing to learn from in one image
    labels[3, :9] = 255  # and less in another
    objective = Objective(ObjectiveSettings(**ABLATION[row]))
    whole = objective(source, labels, target)
    leaves = [*source, *target]
    gradient = torch.autograd.grad(whole.total, leaves, allow_unused=True)
    for parts in ([[0, 1], [2, 3]], [[0], [1], [2], [3]]):
        losses = [objective(*part(source, labels, target, chosen)) for chosen in parts]
        for name, value in whole.as_dict().items():
            mean = torch.stack([loss.as_dict()[name] for loss in losses]).mean()
            torch.testing.assert_close(value, mean, atol=1e-12, rtol=1e-12)
        total = torch.stack([loss.total for loss in losses]).mean()
        split = torch.autograd.grad(total, leaves, allow_unused=True)
        for a, b in zip(gradient, split, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_source_only_needs_no_target(batch):
    source, labels, target = batch()
    objective = Objective(ObjectiveSettings(**ABLATION["lovasz"]))
    assert not objective.settings.needs_target
    assert objective(source, labels).total == objective(source, labels, target).total
    with pytest.raises(ValueError, match="need the target's output, got None"):
        Objective()(source, labels, None)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, True),
        ({"association": 0.0}, True),
        ({"smoothing": 0.0}, True),
        ({"smoothing": 0.0, "feature_level": False}, True),
        ({"smoothing": 0.0, "feature_level": False, "prediction_level": False}, False),
        ({"smoothing": 0.0, "association": 0.0}, False),
    ],
)
def test_the_target_is_needed_exactly_where_a_term_uses_it(settings, needed):
    assert ObjectiveSettings(**settings).needs_target == needed


def test_smoothing_is_independent_of_association(batch):
    source, labels, target = batch()
    terms = Objective(ObjectiveSettings(association=0.0))(source, labels, target).as_dict()
    assert set(terms) == {"total", "cross_entropy", "lovasz", "smoothing_source", "smoothing_target"}


def test_nothing_labelled_is_finite_and_leaves_the_source_alone(batch):
    source, labels, target = batch(torch.float32)
    terms = Objective(ObjectiveSettings(smoothing=0.0))(source, torch.full_like(labels, 255), target)
    assert all(value == 0 for value in terms.as_dict().values())
    terms.total.backward()
    assert all(torch.count_nonzero(x.grad) == 0 for x in (*source, *target))


@pytest.mark.parametrize("degenerate", ["zero", "constant"])
def test_degenerate_outputs_are_finite(batch, degenerate):
    source, labels, target = batch(torch.float32)
    fill = 0.0 if degenerate == "zero" else 3.0
    outputs = [type(o)(*(torch.full_like(x, fill).requires_grad_() for x in o)) for o in (source, target)]
    terms = Objective()(outputs[0], labels, outputs[1])
    assert all(value.isfinite() for value in terms.as_dict().values())
    terms.total.backward()
    assert all(x.grad.isfinite().all() and x.grad.abs().max() < 1 for o in outputs for x in o)


@pytest.mark.parametrize("row", ABLATION)
def test_bfloat16_under_autocast_gives_finite_float32_losses(batch, row):
    source, labels, target = batch(torch.bfloat16)
    objective = Objective(ObjectiveSettings(**ABLATION[row]))
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(source, labels, target)
    assert all(v.dtype == torch.float32 and v.isfinite() for v in terms.as_dict().values())
    terms.total.backward()
    assert source.logits.grad.isfinite().all()
    single = [type(o)(*(x.detach().float() for x in o)) for o in (source, target)]
    assert torch.equal(terms.total, objective(single[0], labels, single[1]).total)


@pytest.mark.parametrize("contrast", [True, False])
@pytest.mark.parametrize("settings", [{"backend": "dense"}, {"backend": "streaming", "products": "bf16"}])
def test_backend_and_products_reach_every_operation(batch, monkeypatch, contrast, settings):
    calls = []
    for name in ("attend", "cycle"):
        operation = getattr(ops, name)

        def spy(*inputs, name=name, operation=operation, pairwise=Pairwise(), **more):
            calls.append((name, pairwise))
            return operation(*inputs, pairwise=pairwise, **more)

        monkeypatch.setattr(f"plca_dist.method.{'aggregation' if name == 'attend' else 'association'}.{name}", spy)
    Objective(ObjectiveSettings(contrast=contrast, **settings))(*batch())
    feature = Pairwise(**settings)
    prediction = replace(feature, products="float32")
    assert calls == [(name, of_level) for of_level in (feature, prediction) for name in ("attend", "cycle")]


def test_as_dict_holds_no_graph(batch):
    terms = Objective()(*batch())
    assert terms.total.requires_grad
    assert all(v.shape == () and not v.requires_grad for v in terms.as_dict().values())
    assert not terms.consistent_feature.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lovasz": -1.0}, "lovasz -1.0 is out of range: a loss weight is at least 0"),
        ({"association": float("nan")}, "association nan is out of range"),
        ({"smoothing": float("inf")}, "smoothing inf is out of range"),
        ({"aggregation": 1.0}, r"aggregation 1.0 is out of range: use at least 0"),
        ({"smoothness": 0.0}, "smoothness 0.0 is out of range"),
        ({"lovasz_scope": "rank"}, "lovasz_scope 'rank' is unknown; known: image, batch"),
        ({"products": "bf61"}, r"products 'bf61' is unknown; known: float32, tf32, bf16. Did you mean 'bf16'\?"),
        ({"backend": "dense", "products": "bf16"}, "'dense' multiplies in float32 only, not in bf16: use 'auto'"),
        ({"backend": "denser"}, r"backend 'denser' is unknown; known: auto, .* Did you mean 'dense'\?"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(settings, message):
    with pytest.raises(UserError, match=message):
        ObjectiveSettings(**settings)


def test_labels_of_another_batch_are_refused(batch):
    source, labels, target = batch()
    with pytest.raises(ValueError, match=r"expected labels \(B, H, W\) for logits \(4, 4, 5, 6\), got \(3, 17, 23\)"):
        Objective()(source, labels[:3], target)
