"""The rows of the paper's Table 1: which terms each has, and how the variants differ."""

import pytest
import torch
import torch.nn.functional as F

from plca_dist.data.labels import label_set
from plca_dist.method.association import association_loss
from plca_dist.method.objective import ABLATION, Objective
from plca_dist.method.published import CLASSES, PUBLISHED
from plca_dist.method.settings import AssociationSettings, ObjectiveSettings

CE, LOVASZ, FEATURE = {"total", "cross_entropy"}, {"lovasz"}, {"feature", "consistent_feature"}
PREDICTION, SMOOTHING = {"prediction", "consistent_prediction"}, {"smoothing_source", "smoothing_target"}
EVERY = CE | LOVASZ | FEATURE | PREDICTION | SMOOTHING


@pytest.mark.parametrize(
    ("row", "active"),
    [
        ("source_only", CE),
        ("lovasz", CE | LOVASZ),
        ("feature", CE | LOVASZ | FEATURE),
        ("prediction", CE | LOVASZ | FEATURE | PREDICTION),
        ("plca", EVERY),
        ("sim_plca", EVERY),
        ("no_aggregation", EVERY),
    ],
)
def test_every_row_of_the_ablation_has_its_terms(batch, row, active):
    source, labels, target = batch()
    objective = Objective(ObjectiveSettings(**ABLATION[row]))
    assert set(objective(source, labels, target).as_dict()) == active
    assert objective.settings.needs_target == bool(active & (FEATURE | PREDICTION | SMOOTHING))


def test_the_variants_differ_from_plca_in_what_they_should(batch):
    source, labels, target = batch()
    plca, sim, plain = (
        Objective(ObjectiveSettings(**ABLATION[row]))(source, labels, target)
        for row in ("plca", "sim_plca", "no_aggregation")
    )
    assert sim.feature < 0 < plca.feature  # minus a similarity against minus a log-probability
    assert plain.feature != plca.feature
    expected = association_loss(
        source.features,
        target.features,
        F.interpolate(labels[:, None].double(), (5, 6))[:, 0],
        AssociationSettings(aggregation=0),
    )
    torch.testing.assert_close(plain.feature, expected.loss)
    for name in ("cross_entropy", "lovasz", "smoothing_source", "smoothing_target"):
        assert getattr(plca, name) == getattr(sim, name) == getattr(plain, name)


def test_the_published_table_covers_the_ablation():
    assert list(PUBLISHED) == list(ABLATION)
    assert [row["gtav"] for row in PUBLISHED.values()] == [31.5, 34.3, 39.7, 47.4, 47.7, 41.8, 45.6]
    assert [row["synthia"] for row in PUBLISHED.values()] == [35.4, 36.4, 40.9, 46.3, 46.8, 42.5, 44.6]


@pytest.mark.parametrize(("dataset", "labels"), [("gtav", "cityscapes"), ("synthia", "synthia")])
def test_the_published_classes_are_the_label_set_s_and_average_to_the_published_mean(dataset, labels):
    assert tuple(CLASSES[dataset]) == label_set(labels).classes
    mean = sum(CLASSES[dataset].values()) / len(CLASSES[dataset])
    assert mean == pytest.approx(PUBLISHED["plca"][dataset], abs=0.051)
