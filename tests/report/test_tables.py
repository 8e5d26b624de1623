"""Tables are compared with the expected text, character by character."""

import json

import pytest
import torch

from plca_dist.data.labels import LabelSet, label_set
from plca_dist.errors import UserError
from plca_dist.report.tables import (
    class_table,
    outcome_table,
    points,
    published,
    score_columns,
    tabulate,
)
from plca_dist.training.scores import score

THREE = LabelSet("three", ("road", "car", "sky"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), {"mIoU-2": (0, 1)})


def scored(road: float | None, car: float | None, sky: float | None) -> dict:
    def mean(values: list[float | None]) -> float:
        present = [v for v in values if v is not None]
        return sum(present) / len(present) if present else float("nan")

    return {
        "aggregation": 0.0,
        "miou": mean([road, car, sky]),
        "means": {"mIoU-2": mean([road, car])},
        "iou": {"road": road, "car": car, "sky": sky},
    }


BEFORE, AFTER = scored(70.0, 20.04, 30.0), scored(80.5, 19.0, 100.0)


def test_the_table_for_a_terminal() -> None:
    columns = {"source-only": BEFORE, "PLCA": AFTER}
    assert class_table(columns, THREE, difference=("source-only", "PLCA")) == (
        "class   source-only   PLCA  difference\n"
        "──────────────────────────────────────\n"
        "road           70.0   80.5       +10.5\n"
        "car            20.0   19.0        -1.0\n"
        "sky            30.0  100.0       +70.0\n"
        "──────────────────────────────────────\n"
        "mIoU           40.0   66.5       +26.5\n"
        "mIoU-2         45.0   49.8        +4.7\n"
    )


def test_an_absent_class_is_a_dash_and_is_named() -> None:
    gone = scored(50.0, None, 10.0)
    assert class_table({"a": gone, "b": gone}, THREE, difference=("a", "b")) == (
        "class      a     b  difference\n"
        "──────────────────────────────\n"
        "road    50.0  50.0         0.0\n"
        "car        –     –           –\n"
        "sky     10.0  10.0         0.0\n"
        "──────────────────────────────\n"
        "mIoU    30.0  30.0         0.0\n"
        "mIoU-2  50.0  50.0         0.0\n"
        "– absent from truth and prediction, left out of the means: car\n"
    )


def test_means_over_different_classes_are_said_to_be() -> None:
    table = tabulate({"a": scored(50.0, None, None), "b": scored(50.0, 0.0, None)}, THREE)
    assert table.notes == (
        "– absent from truth and prediction, left out of the means: car (a), sky",
        "the columns' means are over different classes",
    )


def test_a_score_of_nothing_has_no_mean() -> None:
    assert tabulate({"a": scored(None, None, None)}, THREE, ("a", "a")).means[0] == ("mIoU", "–", "–")


def test_of_three_columns_the_compared_ones_are_named() -> None:
    table = tabulate({"a": BEFORE, "b": BEFORE, "c": AFTER}, THREE, ("a", "c"))
    assert table.notes == ("difference: c against a",)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(1.0, 1.04, "0.0"), (1.04, 1.0, "0.0"), (1.0, 1.06, "+0.1"), (None, 1.0, "–"), (2.0, 1.0, "-1.0")],
)
def test_a_difference_has_a_sign_unless_it_is_none(before: float | None, after: float, text: str) -> None:
    assert points(before, after) == text


@pytest.mark.parametrize(
    ("name", "means"), [("cityscapes", ["mIoU", "mIoU-16", "mIoU-13"]), ("synthia", ["mIoU", "mIoU-13"])]
)
def test_real_scores_after_a_trip_through_json(name: str, means: list[str]) -> None:
    labels = label_set(name)
    counts = torch.eye(len(labels), dtype=torch.int64)
    measured = json.loads(json.dumps({"aggregation": 0.0, **score(counts, labels).as_dict()}))
    table = tabulate({"PLCA": measured}, labels)
    assert [row[0] for row in table.rows] == list(labels.classes)
    assert table.means == tuple((m, "100.0") for m in means)


def test_columns_of_evaluations() -> None:
    with_aggregation = {**AFTER, "aggregation": 0.5}
    columns = score_columns({"source-only": {"scores": [BEFORE]}, "PLCA": {"scores": [AFTER, with_aggregation]}})
    assert columns == {"source-only": BEFORE, "PLCA": AFTER, "PLCA, λ = 0.5": with_aggregation}


def test_the_table_of_one_evaluation() -> None:
    labels = label_set("toytown")
    counts = torch.eye(len(labels), dtype=torch.int64)
    scores = [{"aggregation": ratio, **score(counts, labels).as_dict()} for ratio in (0.0, 0.5)]
    first, *_, last = outcome_table({"labels": "toytown", "scores": scores}).splitlines()
    assert first == "class         λ = 0  λ = 0.5"
    assert last == "mIoU          100.0    100.0"


def test_scores_of_another_label_set_are_refused() -> None:
    with pytest.raises(UserError, match=r"'PLCA' is not of label set 'toytown': they differ in building, .*vegetation"):
        class_table({"PLCA": AFTER}, label_set("toytown"))
    with pytest.raises(UserError, match="no scores"):
        class_table({}, THREE)


@pytest.mark.parametrize(("name", "miou", "wall"), [("cityscapes", "47.7", "35.3"), ("synthia", "46.8", "11.2")])
def test_the_paper_s_own_column_comes_last_and_is_no_run(name: str, miou: str, wall: str) -> None:
    labels = label_set(name)
    score_here = {"iou": dict.fromkeys(labels.classes, 50.0), "miou": 50.0, "means": dict.fromkeys(labels.means, 50.0)}
    table = tabulate({"a": score_here, "b": score_here}, labels, ("a", "b"), published(labels))
    assert table.head == ("class", "a", "b", "difference", "paper (ResNet-101)")
    assert ("wall", "50.0", "50.0", "0.0", wall) in table.rows
    assert table.means[0] == ("mIoU", "50.0", "50.0", "0.0", miou)
    of_classes = {"cityscapes": "mIoU-16 and mIoU-13", "synthia": "mIoU-13"}[name]
    assert table.notes[-1].startswith("paper (ResNet-101): PLCA, ")
    assert table.notes[-1].endswith(f"to Cityscapes, as published with aggregation; {of_classes} are of its classes")


def test_of_other_label_sets_the_paper_says_nothing() -> None:
    assert published(label_set("toytown")) is None
    assert published(label_set("camvid")) is None


def test_the_paper_s_means_over_fewer_classes_come_from_its_classes() -> None:
    synthia = label_set("synthia")
    found = published(synthia)
    assert found
    assert found["means"] == {"mIoU-13": pytest.approx(54.08, abs=0.005)}


def test_a_teachers_scores_stand_behind_its_networks() -> None:
    evaluation = {
        "scores": [{"aggregation": 0, "miou": 1.0}, {"aggregation": 0.5, "miou": 2.0}],
        "teacher": {"scores": [{"aggregation": 0, "miou": 3.0}]},
    }
    columns = score_columns({"mixed": evaluation, "plain": {"scores": evaluation["scores"][:1]}})
    assert {title: score["miou"] for title, score in columns.items()} == {
        "mixed": 1.0, "mixed, λ = 0.5": 2.0, "mixed, teacher": 3.0, "plain": 1.0,
    }  # fmt: skip


def test_the_table_of_an_evaluation_has_its_teacher() -> None:
    matrix = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 2]])
    scores = [{"aggregation": 0.0, **score(matrix, THREE).as_dict()}]
    evaluation = {"labels": "three", "scores": scores}
    assert "teacher" not in outcome_table(evaluation)
    taught = outcome_table(evaluation | {"teacher": {"scores": scores}})
    assert taught.splitlines()[0].split() == ["class", "λ", "=", "0", "teacher,", "λ", "=", "0"]
    assert taught.splitlines()[2].split() == ["road", "75.0", "75.0"]
