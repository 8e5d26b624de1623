"""What a run's evaluations leave: mIoU where there are labels, criteria where they are wanted, and when."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plca_dist.config import Config
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.whole_images import whole_pairs
from plca_dist.messages import Message
from plca_dist.models.weights import load_weights
from plca_dist.report.tables import outcome_table
from plca_dist.storage import resolve
from plca_dist.training import loop as worker
from plca_dist.training.checkpoint.survey import committed
from plca_dist.training.context import Preempted
from plca_dist.training.criteria import KEYS, measure
from plca_dist.training.dataloading import open_stream
from plca_dist.training.metrics_log import read_records

IMAGES = 5
SOURCE_ONLY = ("objective.lovasz=0", "objective.association=0", "objective.smoothing=0")


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Config]) -> Config:
    """Source-only, no labels to evaluate on: criteria at 2, 4 and 6, checkpoints at 4 and 6."""
    return make_config(
        *SOURCE_ONLY, f"evaluation.unlabelled={IMAGES}", "evaluation.every=2", "checkpoint.every=4", "log.every=6"
    )


@pytest.fixture(scope="module")
def whole(config: Config, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(config, tmp_path_factory.mktemp("whole"))


def evaluations(run: Any) -> list[dict[str, Any]]:
    return [r for r in read_records(run.store) if "loss/total" not in r]


def by_hand(run: Path, config: Config) -> dict[str, float]:
    """The criteria of the weights that the run left."""
    network = load_weights((run / "model.safetensors").read_bytes())
    shards = resolve(config.data)
    pairs = whole_pairs(shards.child("source"), shards.child("target"), LABEL_SETS["toytown"], IMAGES, 0, 1)
    return measure(network, pairs, size=config.evaluation.size).result()


def test_without_labels_there_are_the_criteria_and_no_miou(whole: Any, config: Config) -> None:
    found = evaluations(whole)
    assert [r["step"] for r in found] == [2, 4, 6]
    assert all(set(r) == {"step", *KEYS} for r in found)
    assert len({tuple(r.values()) for r in found}) == 3
    expected = by_hand(whole.path, config)
    assert {k: found[-1][k] for k in KEYS} == expected
    outcome = json.loads((whole.path / "evaluation.json").read_text())
    assert outcome == {"step": 6, "unlabelled": IMAGES, "criteria": expected}
    assert [r for r in whole.records if set(KEYS) <= set(r)] == found
    assert [c.miou for c in committed(whole.store)] == [None, None]


def test_with_labels_there_are_both(make_config: Callable[..., Config], train: Callable, tmp_path: Path) -> None:
    settings = ("schedule.steps=2", "evaluation.uri=val", "evaluation.unlabelled=5")
    config = make_config(*settings, "evaluation.size=[48, 96]", "objective.aggregation=0.25")
    run = train(config, tmp_path)
    (record,) = evaluations(run)
    assert set(record) == {"step", "miou", "miou_aggregated", *KEYS}
    expected = by_hand(tmp_path, config)
    assert {k: record[k] for k in KEYS} == expected
    outcome = json.loads((tmp_path / "evaluation.json").read_text())
    assert (outcome["criteria"], outcome["unlabelled"], outcome["images"]) == (expected, IMAGES, 6)
    assert [s["miou"] for s in outcome["scores"]] == [record["miou"], record["miou_aggregated"]]
    assert committed(run.store)[0].miou == record["miou"]


def test_labels_without_a_labelled_pixel_give_no_score(
    make_config: Callable[..., Config], train: Callable, tmp_path: Path, withheld_shards: Path
) -> None:
    config = make_config(
        *SOURCE_ONLY,
        "schedule.steps=2",
        f"evaluation.uri={withheld_shards}",
        "checkpoint.every=1",
        "evaluation.every=1",
    )
    run = train(config, tmp_path)
    outcome = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert outcome["note"] == "these labels have no labelled pixel"
    assert {score["miou"] for score in outcome["scores"]} == {None}
    assert not any("miou" in record for record in run.records)
    assert [c.miou for c in committed(run.store)] == [None, None]
    assert "these labels have no labelled pixel" in outcome_table(outcome)


def test_more_than_the_sets_hold_is_all_of_them(
    make_config: Callable[..., Config], train: Callable, tmp_path: Path
) -> None:
    config = make_config(*SOURCE_ONLY, "schedule.steps=1", "evaluation.unlabelled=1000")
    train(config, tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["unlabelled"] == 24


def test_a_source_only_run_trains_without_reading_the_target(
    config: Config, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def watched(*arguments: Any, **settings: Any) -> Any:
        asked.append(settings["with_target"])
        return open_stream(*arguments, **settings)

    monkeypatch.setattr(worker, "open_stream", watched)
    train(config.model_copy(update={"schedule": config.schedule.model_copy(update={"steps": 1})}), tmp_path)
    assert asked == [False]


def test_a_run_resumed_where_it_was_measured_is_not_measured_again(
    config: Config, train: Callable, whole: Any, interrupt: SimpleNamespace, tmp_path: Path
) -> None:
    interrupt.at(worker, "leave_result", 1)
    with pytest.raises(interrupt.error):
        train(config, tmp_path)
    interrupt.end()
    again = train(config, tmp_path)
    assert again.shown == [Message("continuing", "continuing from step 6 (step-00000006-of-1-g1)")]
    assert evaluations(again) == evaluations(whole)
    assert (tmp_path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("call", "step"),
    [
        (2, 2),  # due in that step, and put off
        (4, 2),  # in the evaluation
        (6 + 2 * (IMAGES + 1) + 3, 6),  # in the last one
    ],
)
def test_told_to_leave_it_puts_the_evaluation_off(
    config: Config, train: Callable, whole: Any, tmp_path: Path, call: int, step: int
) -> None:
    """`stop` is asked at each step, for each image of an evaluation, and once after it."""
    calls = iter(range(1, 10**9))
    with pytest.raises(Preempted, match=f"checkpoint at step {step} committed"):
        train(config, tmp_path, stop_reason=lambda: "SIGTERM" if next(calls) >= call else None)
    assert step not in [r["step"] for r in evaluations(SimpleNamespace(store=resolve(str(tmp_path))))]
    again = train(config, tmp_path)
    assert [r["step"] for r in again.records if set(KEYS) <= set(r)] == list(range(step, 7, 2))
    assert evaluations(again) == evaluations(whole)
    for file in ("evaluation.json", "model.safetensors"):
        assert (tmp_path / file).read_bytes() == (whole.path / file).read_bytes(), file
