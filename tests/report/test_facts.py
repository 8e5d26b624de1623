"""Facts come from the recipe and the records; an unknown fact is left out."""

from dataclasses import replace
from typing import Any

import pytest

from plca_dist.config import Config
from plca_dist.method.objective import ABLATION
from plca_dist.method.settings import ObjectiveSettings
from plca_dist.report.facts import facts, loss_in_words, recipe_differences
from plca_dist.run.history import Attempt


def config(**sections: dict) -> Config:
    recipe = {
        "labels": "toytown",
        "data": "s3://bucket/shards",
        "model": {"backbone": "resnet50", "weights": "s3://bucket/weights/resnet50.pth"},
        "source": {"uri": "source", "crop": [64, 64]},
        "target": {"uri": "file:///target", "crop": [64, 64]},
        "schedule": {"steps": 100},
        "batch": {"pairs": 4},
    }
    return Config.model_validate({**recipe, **sections})


def test_facts_of_a_run_not_yet_begun() -> None:
    found = facts(config())
    assert found["network"] == "DeepLab-V2, resnet50, torchvision style"
    assert found["initial weights"] == "resnet50.pth"
    assert found["source"] == "s3://bucket/shards/source"
    assert found["target"] == "file:///target"
    assert found["steps"] == "0 of 100, 4 pairs each"
    assert not {"recipe", "evaluated", "pairs per second", "data wait", "GPU memory"} & set(found)


def test_the_network_is_named_with_its_head() -> None:
    of_timm = {"backbone": "timm/convnext_atto", "head": "multilevel", "stride": 16}
    assert facts(config(model=of_timm))["network"] == "multi-level head, timm/convnext_atto, stride 16"


def test_facts_of_a_run() -> None:
    records = [
        {"step": 10, "pairs_per_second": 1.0, "data_wait": 0.5, "gpu_memory_gb": 3.0},
        {"step": 20, "pairs_per_second": 8.0, "data_wait": 0.012, "gpu_memory_gb": 2.0},
        {"step": 20, "miou": 3.0},
        {"step": 30, "pairs_per_second": 9.0, "data_wait": 0.01, "gpu_memory_gb": 2.0},
    ]
    found = facts(config(batch={"pairs": 1}, model={}), records, {"step": 20, "images": 500})
    assert found["initial weights"] == "random"
    assert found["steps"] == "30 of 100, 1 pair each"
    assert found["evaluated"] == "500 images at step 20"
    assert found["pairs per second"] == "8.00 (median)"
    assert found["data wait"] == "1.2% of the time (median)"
    assert found["GPU memory"] == "3.0 GB (peak)"


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"unlabelled": 32}, "32 unlabelled images at step 20"),
        ({"images": 500, "unlabelled": 32}, "500 images and 32 unlabelled images at step 20"),
    ],
)
def test_facts_of_an_evaluation_without_labels(counts: dict[str, int], words: str) -> None:
    assert facts(config(), [], {"step": 20, **counts})["evaluated"] == words


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("source_only", "CE"),
        ("lovasz", "CE + 0.75 Lovász"),
        ("feature", "CE + 0.75 Lovász + 0.1 (feature, λ = 0.5)"),
        ("plca", "CE + 0.75 Lovász + 0.1 (feature + prediction, λ = 0.5) + 0.01 smoothing (γ = 10)"),
        (
            "sim_plca",
            "CE + 0.75 Lovász + 0.1 (feature + prediction, λ = 0.5, without contrast) + 0.01 smoothing (γ = 10)",
        ),
    ],
)
def test_the_ablations_in_words(row: str, words: str) -> None:
    assert loss_in_words(ObjectiveSettings(**ABLATION[row])) == words


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"entropy": 0.001}, "CE + 0.001 entropy"),
        ({"entropy": 0.005, "entropy_penalty": "robust"}, "CE + 0.005 entropy (robust)"),
        ({"max_square": 0.1, "image_weights": True}, "CE + 0.1 max square (image-wise weights)"),
        ({"adversarial": 0.001, "pseudo_labels": 1.0}, "CE + 0.001 adversarial + 1 pseudo labels"),
        ({"class_mix": 1.0}, "CE + 1 class mix"),
    ],
)
def test_the_terms_beside_the_paper_s_in_words(settings: dict[str, Any], words: str) -> None:
    assert loss_in_words(ObjectiveSettings(**ABLATION["source_only"] | settings)) == words


def attempt(launch: int, workers: int, torch: str | None, ended: float | None, end: Any = "finished") -> Attempt:
    return Attempt(launch, 100.0, 0, workers, {"plca-dist": "0.1", "torch": torch, "ray": None}, ended, 5, end)


def test_facts_of_all_launches() -> None:
    history = [
        attempt(1, 4, "2.11", 160.0, "preempted"),
        attempt(2, 4, "2.12", 170.0, "restarted"),
        attempt(2, 2, "2.12", None, ""),
        attempt(3, 4, None, 110.0, "restarted"),
        attempt(3, 4, "2.12", None, ""),
    ]
    elapsed = [5.0, 30.0, 10.0, 3700.0, 1.0]  # of three attempts, in which it begins anew
    found = facts(config(), [{"step": k, "elapsed_s": s} for k, s in enumerate(elapsed, 1)], None, history)
    assert found["time"] == "1:02:11 of training, 2:20 with starts and ends without 2 attempts of unknown end"
    assert found["world size"] == "4, then 2, then 4"
    assert found["launches"] == "3 launches, 2 restarts, 1 preemption, 1 kill"
    assert found["versions"] == "plca-dist 0.1, torch 2.11 then 2.12"


def test_the_time_of_an_attempt_counts_however_late_the_next_ones_first_record_was() -> None:
    records = [{"step": step, "elapsed_s": s} for step, s in ((10, 9.0), (20, 12.0), (30, 100.0))]
    history = [replace(attempt(1, 2, "2.11", None, ""), step=step) for step in (0, 10)]
    assert facts(config(), records, None, history)["time"] == "1:49 of training"


def test_a_run_that_moves_often_has_a_range_of_world_sizes() -> None:
    history = [attempt(1, 1 + k % 3, "2.11", 160.0, "left") for k in range(9)]
    assert facts(config(), history=history)["world size"] == "1 to 3, changed 8 times"


def test_recipes_differ_in_what_decides_and_not_in_what_is_aside() -> None:
    one = config(deepspeed={"zero_optimization": {"stage": 1}}, about={"summary": "one"}, storage={"uri": "a"})
    other = config(objective={"lovasz": 0.0}, source={"uri": "other", "crop": [64, 64]}, log={"every": 3})
    assert recipe_differences({"a": one, "b": other, "c": one}) == {
        "source.uri": ["source", "other", "source"],
        "objective.lovasz": ["0.75", "0.0", "0.75"],
        "deepspeed": ["{'zero_optimization': {'stage': 1}}", "{}", "{'zero_optimization': {'stage': 1}}"],
    }
    assert recipe_differences({"a": one}) == recipe_differences({"a": one, "b": one}) == {}
