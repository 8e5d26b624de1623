"""Criteria without labels, each against plain loops, and the same however the images are shared out."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plca_dist.data.augment import resize_for_test
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.whole_images import Pair, whole_pairs
from plca_dist.errors import UserError
from plca_dist.models.deeplab import Network, build_network
from plca_dist.ops.settings import Pairwise
from plca_dist.storage import resolve
from plca_dist.training import criteria, metrics
from plca_dist.training.criteria import KEYS, Criteria, entropy, measure, neighbourhood_density

LABELS = LABEL_SETS["toytown"]
PAIRS = 7


@pytest.fixture(scope="module")
def network() -> Network:
    """Random weights, with a head strong enough that probabilities are far from even."""
    torch.manual_seed(0)
    made = build_network("tiny", len(LABELS), rates=(1, 2))
    for p in made.classifier.parameters():
        nn.init.normal_(p, std=0.3)
    return made


def pairs(shards: Path, part: int = 0, parts: int = 1, most: int = PAIRS) -> list[Pair]:
    store = resolve(str(shards))
    return list(whole_pairs(store.child("source"), store.child("target"), LABELS, most, part, parts))


def drawn(classes: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Class probabilities (K, h, w), some positions nearly certain and some nearly even."""
    generator = torch.Generator().manual_seed(seed)
    strength = 4 * torch.rand(1, height, width, generator=generator)
    return (strength * torch.randn(classes, height, width, generator=generator)).softmax(0)


def density_by_loops(vectors: list[list[float]]) -> float:
    """As Saito et al. write it, position by position."""
    unit = [[x / math.sqrt(sum(y * y for y in v)) for x in v] for v in vectors]
    rows = []
    for i, ours in enumerate(unit):
        weights = [
            math.exp(sum(a * b for a, b in zip(ours, other, strict=True)) / 0.05)
            for j, other in enumerate(unit)
            if j != i
        ]
        shares = [w / sum(weights) for w in weights]
        rows.append(-sum(p * math.log(p) for p in shares if p > 0))
    return sum(rows) / len(rows)


@pytest.mark.parametrize(("classes", "height", "width"), [(2, 1, 2), (5, 3, 7), (19, 8, 8)])
def test_density_is_the_papers(classes: int, height: int, width: int) -> None:
    probability = drawn(classes, height, width)
    expected = density_by_loops(probability.double().flatten(1).T.tolist())
    found = neighbourhood_density(probability)
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert 0 <= float(found) <= math.log(height * width - 1) + 1e-5


def test_density_is_higher_for_clusters_than_for_scatter() -> None:
    even = torch.full((4, 6, 6), 0.25)
    two = torch.zeros(4, 6, 6)
    two[0, :3], two[1, 3:] = 1.0, 1.0
    assert float(neighbourhood_density(even)) == pytest.approx(math.log(35), rel=1e-5), "all are each one's neighbours"
    assert float(neighbourhood_density(two)) == pytest.approx(math.log(17), rel=1e-5), "those of its own class are"
    assert float(neighbourhood_density(drawn(4, 6, 6))) < math.log(17)
    assert float(neighbourhood_density(even[:, :1, :1])) == 0, "no neighbours"


def test_a_large_grid_is_thinned_out_evenly() -> None:
    probability = drawn(3, 40, 50)  # 2000 positions; 28 rows of 36
    rows = [int((k + 0.5) * 40 / 28) for k in range(28)]
    columns = [int((k + 0.5) * 50 / 36) for k in range(36)]
    kept = [probability[:, y, x].double().tolist() for y in rows for x in columns]
    assert float(neighbourhood_density(probability)) == pytest.approx(density_by_loops(kept), rel=1e-4)


@pytest.mark.parametrize(
    "shape", [(32, 32), (33, 32), (64, 128), (128, 256), (1, 5000), (5000, 1), (2000, 2), (3, 999)]
)
def test_at_most_so_many_positions_from_all_over_the_grid(shape: tuple[int, int]) -> None:
    height, width = shape
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    thinned = criteria._thinned(grid)
    kept = thinned.shape[1] * thinned.shape[2]
    assert min(height * width, criteria.POSITIONS // 2) <= kept <= criteria.POSITIONS
    for axis, length in enumerate(shape):
        found = thinned[axis].unique()
        gaps = [int(found[0]) + 1, *found.diff().tolist(), length - int(found[-1])]
        assert max(gaps) <= math.ceil(length / len(found)), "no stretch of the grid is left out"


@pytest.mark.parametrize("classes", [2, 19])
def test_entropy_is_the_share_of_its_largest(classes: int) -> None:
    probability = drawn(classes, 3, 5)
    values = [
        -sum(p * math.log(p) for p in v if p > 0) / math.log(classes)
        for v in probability.double().flatten(1).T.tolist()
    ]
    assert float(entropy(probability)) == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert float(entropy(torch.full((classes, 3, 5), 1 / classes))) == pytest.approx(1)
    certain = torch.zeros(classes, 3, 5)
    certain[1] = 1
    assert float(entropy(certain)) == 0


def closeness(level: str, i: Tensor, j: Tensor) -> float:
    if level == "feature":
        return float(i @ j / (i.norm() * j.norm()))
    return float(-(i * (i / (j + 1e-10)).log()).sum())


def consistent_by_loops(level: str, source: Tensor, target: Tensor, label: Tensor) -> float:
    """Share of labelled positions whose nearest target position is nearest to a source position of their label."""
    ours, theirs, labels = source.double().flatten(1).T, target.double().flatten(1).T, label.flatten().tolist()
    hits = starts = 0
    for i, own in enumerate(labels):
        if own == 255:
            continue
        starts += 1
        there = max(range(len(theirs)), key=lambda j, i=i: closeness(level, ours[i], theirs[j]))
        back = max(range(len(ours)), key=lambda s, t=there: closeness(level, theirs[t], ours[s]))
        hits += labels[back] == own
    return hits / starts


def test_shares_of_consistent_cycles_are_those_of_loops(network: Network, shards: Path) -> None:
    (pair,) = pairs(shards, most=1)
    label = pair.source_label.clone()
    label[:8] = 255
    found = measure(network, [pair._replace(source_label=label)], size=None).result()
    network.eval()
    with torch.no_grad():
        source, target = (network(image[None]) for image in (pair.source_image, pair.target_image))
    h, w = source.logits.shape[2:]
    grid = torch.tensor(
        [[int(label[y * label.shape[0] // h, x * label.shape[1] // w]) for x in range(w)] for y in range(h)]
    )
    assert (grid == 255).any()
    assert (grid != 255).sum() > 10
    levels = {
        "feature": (source.features, target.features),
        "prediction": (source.logits.softmax(1), target.logits.softmax(1)),
    }
    for level, (ours, theirs) in levels.items():
        expected = consistent_by_loops(level, ours[0], theirs[0], grid)
        assert 0 < expected < 1, "a test that could not fail"
        assert found[f"criteria/consistent_{level}"] == pytest.approx(expected), level
    assert found[metrics.ENTROPY] == pytest.approx(float(entropy(target.logits[0].softmax(0))))
    assert found[metrics.DENSITY] == pytest.approx(float(neighbourhood_density(target.logits[0].softmax(0))))


def test_settings_reach_the_cycles_and_the_network(network: Network, shards: Path) -> None:
    some = pairs(shards, most=4)

    def found(**changed: Any) -> dict[str, float]:
        return measure(network, some, **{"size": None} | changed).result()

    plain = found()
    for key in plain:
        assert found(size=(48, 96))[key] != plain[key]
    assert found(pairwise=Pairwise(backend="streaming")) == pytest.approx(plain)


def test_both_images_are_resized(network: Network, shards: Path) -> None:
    some = pairs(shards, most=2)
    resized = [
        Pair(resize_for_test(p.source_image, (48, 96)), p.source_label, resize_for_test(p.target_image, (48, 96)))
        for p in some
    ]
    expected = measure(network, resized, size=None).result()
    assert measure(network, some, size=(48, 96)).result() == expected


def test_the_parts_add_up_to_the_whole_for_any_number_of_them(network: Network, shards: Path) -> None:
    whole = measure(network, pairs(shards), size=None)
    assert whole.images == PAIRS
    assert len(set(whole.sums.tolist())) == len(KEYS)
    for parts in (2, 3, PAIRS, PAIRS + 2):
        each = [measure(network, pairs(shards, k, parts), size=None) for k in range(parts)]
        total = sum(each[1:], each[0])
        assert total.images == PAIRS
        assert total.result() == pytest.approx(whole.result(), rel=1e-12), f"{parts} parts"


@pytest.mark.usefixtures("group")
def test_the_result_is_the_mean_over_images(network: Network, shards: Path) -> None:
    each = [measure(network, [pair], size=None).result() for pair in pairs(shards)]
    whole = measure(network, pairs(shards), size=None).over_ranks(torch.device("cpu"))
    assert list(whole.result()) == list(KEYS)
    for key, value in whole.result().items():
        assert value == pytest.approx(sum(one[key] for one in each) / PAIRS, rel=1e-12)


def test_no_image_at_all_is_said(network: Network) -> None:
    assert measure(network, [], size=None).images == 0
    with pytest.raises(UserError, match=r"evaluation\.unlabelled.*damaged.*--overwrite"):
        Criteria().result()


def test_measuring_leaves_the_network_as_it_was(network: Network, shards: Path) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    again = measure(network, pairs(shards), size=None).result()
    assert again == measure(network.eval(), pairs(shards), size=None).result()
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_pixels_without_a_label_start_no_cycle_and_an_image_of_them_counts_nothing(
    network: Network, shards: Path
) -> None:
    (pair,) = pairs(shards, most=1)
    nothing = pair._replace(source_label=torch.full_like(pair.source_label, 255))
    found = measure(network, [nothing], size=None).result()
    assert (found[metrics.CYCLES_FEATURE], found[metrics.CYCLES_PREDICTION]) == (0, 0)
    assert found[metrics.DENSITY] > 0
