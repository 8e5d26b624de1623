"""The mIoU of single images against values worked out by hand, and the choice of images."""

from pathlib import Path

import pytest
import torch

from plca_dist.data.labels import IGNORE, label_set
from plca_dist.data.whole_images import labelled_rows, share
from plca_dist.models.deeplab import build_network
from plca_dist.report.image_scores import ImageScore, image_miou, image_scores, worst_and_best
from plca_dist.storage import resolve
from plca_dist.training.evaluation import probabilities

LABELS = label_set("toytown")


def test_an_image_is_scored_over_the_classes_it_has() -> None:
    truth = torch.tensor([[0, 0, 1, IGNORE]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 2, 1, 5]])
    # road 1 of 2, sidewalk 1 of 1, building 0 of 1; 5 was only predicted where nothing is counted.
    assert image_miou(prediction, truth, LABELS) == pytest.approx(100 * (1 / 2 + 1 + 0) / 3)
    assert image_miou(prediction, torch.full_like(truth, IGNORE), LABELS) is None


@pytest.mark.parametrize("parts", [1, 4])
def test_every_image_is_scored_under_its_id(toytown_shards: Path, parts: int) -> None:
    torch.manual_seed(0)
    network, val = build_network("tiny", len(LABELS), rates=(1, 2)), resolve(str(toytown_shards / "val"))
    found = [
        s
        for part in range(parts)
        for s in image_scores(network, labelled_rows(val, LABELS, share(5, part, parts)), LABELS, size=None, ratio=0.5)
    ]
    samples = list(labelled_rows(val, LABELS, range(5)))
    assert [(s.row, s.id) for s in found] == [(s.row, s.id) for s in samples]
    for scored, sample in zip(found, samples, strict=True):
        prediction_HW = probabilities(network, sample.image, size=None, ratio=0.5).argmax(0)
        assert scored.miou == pytest.approx(image_miou(prediction_HW, sample.label, LABELS))


def of(*mious: float) -> list[ImageScore]:
    return [ImageScore(k, f"image-{k}", miou) for k, miou in enumerate(mious)]


def test_the_worst_and_the_best_are_shown_from_worst_to_best() -> None:
    scores = of(50, 10, 90, 30, 70, None, 20)
    assert [s.miou for s in worst_and_best(scores, 4)] == [10, 20, 70, 90]
    assert [s.miou for s in worst_and_best(scores[::-1], 3)] == [10, 20, 90]
    assert [s.miou for s in worst_and_best(scores, 1)] == [10]
    assert worst_and_best(scores, 0) == []
    assert [s.miou for s in worst_and_best(scores, 20)] == [10, 20, 30, 50, 70, 90]


def test_equal_scores_are_told_apart_by_their_row() -> None:
    assert [s.row for s in worst_and_best(of(5, 5, 5, 5)[::-1], 2)] == [0, 3]
