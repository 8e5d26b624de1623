"""Confusion and scores against counting by hand."""

import pytest
import torch

from plca_dist.data.labels import LABEL_SETS, LabelSet
from plca_dist.training.scores import confusion, score

FOUR = LabelSet("four", ("road", "car", "sky", "person"), ((0, 0, 0),) * 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_confusion_counts_pixel_by_pixel(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(4, (13, 7), generator=generator).to(dtype)
    label[::3, ::2] = 255
    label[1, 1] = 4  # above the last class, as an unknown train id is
    prediction = torch.randint(4, (13, 7), generator=generator)
    expected = [[0] * 4 for _ in range(4)]
    for true, predicted in zip(label.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if true < 4:
            expected[true][predicted] += 1
    counts = confusion(prediction, label, 4)
    assert counts.dtype == torch.int64
    assert counts.tolist() == expected


def test_an_image_without_a_label_counts_nothing() -> None:
    assert confusion(torch.zeros(5, 5, dtype=torch.int64), torch.full((5, 5), 255), 3).tolist() == [[0] * 3] * 3


def test_score_is_true_over_true_false_and_missed() -> None:
    counts = torch.tensor([[50, 3, 2, 0], [4, 10, 0, 0], [1, 0, 30, 0], [0, 0, 0, 0]])
    found = score(counts, FOUR)
    expected = {"road": 100 * 50 / (50 + 5 + 5), "car": 100 * 10 / (10 + 4 + 3), "sky": 100 * 30 / (30 + 1 + 2)}
    assert found.iou == pytest.approx({**expected, "person": None})
    assert found.absent == ("person",)
    assert found.miou == pytest.approx(sum(expected.values()) / 3)
    assert found.pixel_accuracy == pytest.approx(90.0)
    assert found.confusion == counts.tolist()


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    found = score(torch.tensor([[9, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]), FOUR)
    assert found.iou == {"road": pytest.approx(90.0), "car": None, "sky": None, "person": 0.0}
    assert found.absent == ("car", "sky")
    assert found.miou == pytest.approx(45.0)


def test_a_group_is_scored_as_one_class() -> None:
    counts = torch.tensor([[50, 3, 2, 0], [4, 10, 0, 0], [1, 0, 30, 0], [0, 0, 0, 0]])
    groups = {"ground": (0, 1), "nothing": (3,), "all": (0, 1, 2, 3)}
    found = score(counts, LabelSet("four", FOUR.classes, FOUR.palette, {"two": (0, 2)}, groups))
    assert found.means["two"] == pytest.approx((100 * 50 / 60 + 100 * 30 / 33) / 2)
    # Road and car are confused 7 times, which is no fault within the group; 3 pixels are confused with sky.
    assert found.means["ground"] == pytest.approx(100 * 67 / (67 + 2 + 1))
    assert (found.means["nothing"], found.means["all"]) == (None, 100.0)


def test_nothing_counted_has_no_mean() -> None:
    found = score(torch.zeros(4, 4, dtype=torch.int64), FOUR)
    assert found.miou is None
    assert found.pixel_accuracy is None
    assert set(score(torch.zeros(19, 19), LABEL_SETS["cityscapes"]).means.values()) == {None}
    assert found.absent == FOUR.classes


@pytest.mark.parametrize(("name", "means"), [("cityscapes", (16, 13)), ("synthia", (13,))])
def test_the_16_and_13_class_means_leave_out_the_benchmarks_classes(name: str, means: tuple[int, ...]) -> None:
    labels = LABEL_SETS[name]
    counts = torch.randint(1000, (len(labels), len(labels)), generator=torch.Generator().manual_seed(1))
    found = score(counts, labels)
    iou = {}
    for k, class_name in enumerate(labels.classes):
        hit = int(counts[k, k])
        iou[class_name] = 100 * hit / (int(counts[k].sum()) + int(counts[:, k].sum()) - hit)
    assert found.iou == pytest.approx(iou)
    assert found.miou == pytest.approx(sum(iou.values()) / len(labels))
    dropped = {16: {"terrain", "truck", "train"}}
    dropped[13] = dropped[16] | {"wall", "fence", "pole"}
    expected = {}
    for count in means:
        kept = [value for class_name, value in iou.items() if class_name not in dropped[count]]
        assert len(kept) == count
        expected[f"mIoU-{count}"] = pytest.approx(sum(kept) / count)
    assert found.means == expected
