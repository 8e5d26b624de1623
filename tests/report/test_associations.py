"""Cycles of a pair: against cycles worked out by hand, those of the loss, and those of searches."""

from pathlib import Path

import pytest
import torch

from plca_dist.data.labels import IGNORE, label_set
from plca_dist.data.whole_images import Pair, whole_pairs
from plca_dist.errors import UserError
from plca_dist.method.association import association_loss
from plca_dist.method.settings import AssociationSettings
from plca_dist.models.deeplab import Network, build_network
from plca_dist.report.associations import Associations, associations, maps
from plca_dist.storage import resolve
from plca_dist.training import metrics
from plca_dist.training.criteria import measure
from tests.colour_pair import PAIR, TRUTH, Colours

LABELS = label_set("toytown")


def found(pair: Pair = PAIR, level: str = "feature") -> Associations:
    return associations(maps(Colours(), pair, size=None, level=level), aggregation=0.0)


@pytest.mark.parametrize("level", ["feature", "prediction"])
def test_cycles_and_their_shares_are_as_told_by_hand(level: str) -> None:
    of = found(level=level)
    assert of.target.tolist() == [0, 0, 1, 2, 0, 0]
    assert of.back.tolist() == [0, 0, 2, 3, 0, 0]
    assert of.consistent.tolist() == [True, True, True, True, False, False]
    assert of.through.tolist() == [2, 1, 1, 0]
    assert of.consistent_share == pytest.approx(4 / 5), "the ignored start is none"
    assert of.covered_share == pytest.approx(3 / 4)
    assert of.correct_share(TRUTH) == pytest.approx(2 / 3), "both at red are right, green is not, blue has no label"


def test_without_labels_of_the_target_or_cycles_nothing_is_correct_or_wrong() -> None:
    assert found().correct_share(torch.full((16, 16), IGNORE, dtype=torch.uint8)) is None
    without = found(PAIR._replace(source_label=torch.full((16, 24), IGNORE, dtype=torch.uint8)))
    assert (without.consistent_share, without.covered_share, without.correct_share(TRUTH)) == (0, 0, None)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return build_network("tiny", len(LABELS), rates=(1, 2))


@pytest.fixture(scope="module")
def scenes(toytown_shards: Path) -> Pair:
    shards = resolve(str(toytown_shards))
    return next(whole_pairs(shards.child("source"), shards.child("target"), LABELS, 1, 0, 1))


def test_the_consistent_share_is_that_of_searches(network: Network, scenes: Pair) -> None:
    criteria = measure(network, [scenes], size=None).result()
    for level, key in (("feature", metrics.CYCLES_FEATURE), ("prediction", metrics.CYCLES_PREDICTION)):
        of = associations(maps(network, scenes, size=None, level=level), aggregation=0.0)
        assert of.consistent_share == pytest.approx(criteria[key])


@pytest.mark.parametrize("level", ["feature", "prediction"])
def test_the_cycles_are_those_of_the_loss(network: Network, scenes: Pair, level: str) -> None:
    of = maps(network, scenes, size=(64, 128), level=level)
    covered = set()
    for ratio in (0.0, 0.5):
        loss = association_loss(of.source, of.target, of.labels, AssociationSettings(of.similarity, ratio))
        cycles = associations(of, aggregation=ratio)
        assert torch.equal(cycles.consistent, loss.consistent[0])
        assert torch.equal(cycles.target, loss.target_index[0])
        assert torch.equal(cycles.back, loss.source_index[0])
        covered.add(cycles.covered_share)
    assert len(covered) == 2, "aggregation changes what is associated"


def test_a_level_that_does_not_exist() -> None:
    with pytest.raises(UserError, match=r"level 'features' is unknown; known: feature, prediction. Did you mean"):
        maps(Colours(), PAIR, size=None, level="features")
