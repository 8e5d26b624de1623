"""Every image counts once, whatever the number of parts, and it is probabilities that are upsampled."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plca_dist.data.augment import resize_for_test
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.whole_images import labelled_samples
from plca_dist.method.aggregation import aggregated_prediction
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.deeplab import Network, build_network
from plca_dist.storage import Store, resolve
from plca_dist.training.evaluation import Counts, evaluate, evaluate_each, probabilities, ratios

LABELS = LABEL_SETS["toytown"]
IMAGES = 6


@pytest.fixture(scope="module")
def network() -> Network:
    """Random weights, with a head strong enough that probabilities are far from even."""
    torch.manual_seed(0)
    made = build_network("tiny", len(LABELS), rates=(1, 2))
    for p in made.classifier.parameters():
        nn.init.normal_(p, std=0.3)
    return made


def counted(network: Network, val: Store, part: int, parts: int, *, size: tuple[int, int] | None = None) -> Counts:
    samples = labelled_samples(val, LABELS, part, parts)
    return evaluate(network, samples, num_classes=len(LABELS), size=size, ratios=(0.0, 0.5))


def test_the_parts_add_up_to_the_whole_for_any_number_of_them(network: Network, shards: Path) -> None:
    val = resolve(str(shards / "val"))
    whole = counted(network, val, 0, 1)
    assert whole.images == IMAGES
    truth = torch.zeros(len(LABELS), dtype=torch.int64)
    for _, label_HW in labelled_samples(val, LABELS, 0, 1):
        truth += torch.bincount(label_HW[label_HW != 255].long(), minlength=len(LABELS))
    for matrix in whole.matrices.values():
        assert matrix.sum(1).tolist() == truth.tolist()
    assert whole.matrices[0.0].tolist() != whole.matrices[0.5].tolist()
    for parts in (2, 3, 4, IMAGES, IMAGES + 3):
        each = [counted(network, val, part, parts) for part in range(parts)]
        total = sum(each[1:], each[0])
        assert total.images == IMAGES
        assert sum(c.images > 0 for c in each) == min(parts, IMAGES)
        for ratio, matrix in whole.matrices.items():
            assert total.matrices[ratio].tolist() == matrix.tolist(), f"{parts} parts, aggregation {ratio}"


@pytest.mark.usefixtures("group")
def test_a_result_says_what_was_counted(network: Network, shards: Path) -> None:
    counts = counted(network, resolve(str(shards / "val")), 0, 1).over_ranks(torch.device("cpu"))
    result = counts.result(LABELS)
    assert (result["labels"], result["images"]) == ("toytown", IMAGES)
    assert [s["aggregation"] for s in result["scores"]] == [0.0, 0.5]
    for entry, matrix in zip(result["scores"], counts.matrices.values(), strict=True):
        assert entry["confusion"] == matrix.tolist()
        assert entry["pixel_accuracy"] == pytest.approx(100 * float(matrix.diag().sum()) / float(matrix.sum()))


@pytest.mark.parametrize("size", [None, (16, 32), (48, 96), (40, 40)])
def test_the_label_may_be_larger_or_smaller_than_the_networks_input(
    network: Network, shards: Path, size: tuple[int, int] | None
) -> None:
    image_3HW, label_HW = next(labelled_samples(resolve(str(shards / "val")), LABELS, 0, 1))
    probability_KHW = probabilities(network, image_3HW, size=size, ratio=0.0)
    assert probability_KHW.shape == (len(LABELS), *label_HW.shape)
    assert probability_KHW.dtype == torch.float32
    torch.testing.assert_close(probability_KHW.sum(0), torch.ones(label_HW.shape))
    inputs = image_3HW if size is None else resize_for_test(image_3HW, size)
    network.eval()
    with torch.no_grad():
        logits_Khw = network(inputs[None]).logits[0]
    expected = F.interpolate(logits_Khw.softmax(0)[None], label_HW.shape, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(probability_KHW, expected)
    counts = counted(network, resolve(str(shards / "val")), 0, 1, size=size)
    assert int(counts.matrices[0.0].sum()) == IMAGES * label_HW.numel()


class _TwoCells(nn.Module):
    """A network whose logits are `logits_Khw` whatever it sees; its features are the logits."""

    def __init__(self, logits_Khw: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_Khw[None])

    def forward(self, image_B3HW: Tensor) -> SimpleNamespace:
        return SimpleNamespace(features=self.logits, logits=self.logits)

    def classify(self, features_BChw: Tensor) -> Tensor:
        return features_BChw


def test_probabilities_are_upsampled_and_not_logits() -> None:
    """Two cells side by side, p(class 0) = 1 and 0.4: half-way it is 0.7; of logits 10 and -0.4 it would be 0.99."""
    odds = torch.tensor([[[20.0, float(torch.logit(torch.tensor(0.4)))]], [[0.0, 0.0]]])
    probability_KHW = probabilities(_TwoCells(odds), torch.zeros(3, 1, 4, dtype=torch.uint8), size=None, ratio=0.0)  # type: ignore[arg-type]
    # Pixel centres of four over two cells: 0, 1/4, 3/4 and all of the way (the ends are clamped).
    torch.testing.assert_close(probability_KHW[0, 0], torch.tensor([1.0, 0.85, 0.55, 0.4]))


@pytest.mark.parametrize("contrast", [False, True])
def test_with_aggregation_it_is_the_methods_prediction(network: Network, shards: Path, contrast: bool) -> None:
    image_3HW, _ = next(labelled_samples(resolve(str(shards / "val")), LABELS, 0, 1))
    found = probabilities(network, image_3HW, size=None, ratio=0.5, inference=InferenceSettings(contrast))
    with torch.no_grad():
        features = network.eval()(image_3HW[None]).features
        grid = aggregated_prediction(features, network.classify, 0.5, InferenceSettings(contrast))
        other = aggregated_prediction(features, network.classify, 0.5, InferenceSettings(not contrast))
    assert (grid - other).abs().max() > 1e-4
    torch.testing.assert_close(found, F.interpolate(grid, image_3HW.shape[1:], mode="bilinear")[0])
    assert (found - probabilities(network, image_3HW, size=None, ratio=0.0)).abs().max() > 0.01


def test_a_network_in_training_mode_is_scored_in_evaluation_mode(network: Network, shards: Path) -> None:
    image_3HW, _ = next(labelled_samples(resolve(str(shards / "val")), LABELS, 0, 1))
    expected = probabilities(network, image_3HW, size=None, ratio=0.0)
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    network.train()
    assert torch.equal(probabilities(network, image_3HW, size=None, ratio=0.0), expected)
    for name, value in network.named_buffers():
        assert torch.equal(value, statistics[name]), name


@pytest.mark.parametrize(
    ("asked", "expected"),
    [((0.0,), (0.0,)), ((0.5,), (0.0, 0.5)), ((0.5, 0.25), (0.5, 0.25)), ((0.0, 0.5, 0.75), (0.0, 0.5, 0.75))],
)
def test_ratios_reported(asked: tuple[float, ...], expected: tuple[float, ...]) -> None:
    assert ratios(*asked) == expected


def test_the_network_runs_once_an_image_for_all_ratios(network: Network, shards: Path) -> None:
    ran: list[int] = []
    hook = network.register_forward_pre_hook(lambda *_: ran.append(1))
    samples = list(labelled_samples(resolve(str(shards / "val")), LABELS, 0, 1))
    swept = evaluate(network, samples, num_classes=len(LABELS), size=None, ratios=(0.75, 0.0, 0.25))
    assert len(ran) == IMAGES
    hook.remove()
    assert list(swept.matrices) == [0.75, 0.0, 0.25]
    for ratio, matrix in swept.matrices.items():
        alone = evaluate(network, samples, num_classes=len(LABELS), size=None, ratios=(ratio,))
        assert torch.equal(matrix, alone.matrices[ratio])
    assert len({str(m.tolist()) for m in swept.matrices.values()}) == 3


def test_two_networks_are_counted_from_one_reading(network: Network, shards: Path) -> None:
    torch.manual_seed(1)
    other = build_network("tiny", len(LABELS), rates=(1, 2))
    val = resolve(str(shards / "val"))
    asked = {"num_classes": len(LABELS), "size": None, "ratios": (0.0, 0.5)}
    once = iter(list(labelled_samples(val, LABELS, 0, 1)))
    together = evaluate_each([network, other], once, **asked)
    for one, counts in zip([network, other], together, strict=True):
        alone = evaluate(one, labelled_samples(val, LABELS, 0, 1), **asked)
        assert counts.images == alone.images == IMAGES
        assert {r: m.tolist() for r, m in counts.matrices.items()} == {r: m.tolist() for r, m in alone.matrices.items()}
    assert together[0].matrices[0.0].tolist() != together[1].matrices[0.0].tolist()


def test_ignored_pixels_and_unequal_images_are_counted_one_by_one(network: Network, draw_image: Callable) -> None:
    """Images of different sizes, one wholly ignored: each is one image, only labelled pixels count."""
    samples = [draw_image(32, 64, 0), draw_image(40, 24, 1), draw_image(16, 16, 2)]
    samples[2][1].fill_(255)
    counts = evaluate(network, samples, num_classes=len(LABELS), size=None, ratios=(0.0,))
    assert counts.images == 3
    assert int(counts.matrices[0.0].sum()) == sum(int((label != 255).sum()) for _, label in samples)


@pytest.fixture
def draw_image() -> Callable[[int, int, int], tuple[Tensor, Tensor]]:
    def draw(height: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        label = torch.randint(len(LABELS), (height, width), generator=generator, dtype=torch.uint8)
        label[:3] = 255
        return image, label

    return draw
