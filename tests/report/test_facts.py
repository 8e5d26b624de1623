"""Facts say what the recipe says and what was measured, and nothing that is not known."""

import pytest

from plca_dist.config import Config, Objective
from plca_dist.method.objective import ABLATION
from plca_dist.report.facts import facts, loss_in_words


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
    assert loss_in_words(Objective(**ABLATION[row])) == words
