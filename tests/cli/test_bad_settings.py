"""Recipes and settings that are refused before anything is written or started."""

from collections.abc import Callable
from pathlib import Path

import pytest

from plca_dist.recipe import recipes

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["toytwon"], ["recipe 'toytwon'", "Did you mean 'toytown'?"]),
        (
            ["toytown", "--set", "objective.lovas=1"],
            ["unknown key 'objective.lovas'", "Did you mean 'objective.lovasz'?"],
        ),
        (["toytown", "--set", "sede=1"], ["unknown key 'sede'", "Did you mean 'seed'?"]),
        (["toytown", "--set", "objective.aggregation=1.5"], ["objective.aggregation = 1.5", "less than 1"]),
        (["toytown", "--set", "batch.pairs=0"], ["batch.pairs = 0", "greater than 0"]),
        (["toytown", "--set", "model.backbone=resnet52"], ["model.backbone = 'resnet52'", "resnet50"]),
        (["toytown", "--set", "model.backbone=timm/resnet_18"], ["unknown to timm", "Did you mean 'timm/resnet18'?"]),
        (["toytown", "--set", "optimizer.betas=[0.9, 0.99]"], ["betas (0.9, 0.99) is an option of adamw"]),
        (["toytown", "--set", "seed"], ["--set 'seed'", "key=value"]),
        (["toytown", "--name", "../other"], ["run name '../other'", "--name"]),
        (["toytown", "--set", "cluster.workers=3"], ["batch.pairs = 4", "3 workers", "1, 2, 4"]),
        (["toytown", "--set", "batch.micro=3"], ["batch.micro = 3", "2 pairs of each worker"]),
        (["toytown", "--set", "cluster.workers=8"], ["batch.pairs = 4", "8 workers"]),
    ],
)
def test_a_bad_recipe_is_refused(
    arguments: list[str], parts: list[str], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused("train", *arguments)
    for part in parts:
        assert part in line
    assert not list(tmp_path.iterdir()), "something was written"


def test_a_recipe_file_with_a_misspelt_key_is_refused(refused: Refused, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(recipes()["toytown"].read_text().replace("schedule:", "shedule:"))
    line = refused("train", mine, "--storage", tmp_path / "runs")
    assert str(mine) in line
    assert "'shedule'" in line
    assert "'schedule'" in line


def test_what_is_no_recipe_file_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xa0\xff")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    for command in (["train"], ["tune", "--recipe", "toytown"]):
        for name, part in (
            ("picture.yaml", "is no readable text file"),
            ("list.yaml", "a YAML mapping"),
            ("", "is no readable text file"),
        ):
            line = refused(*command, tmp_path / name)
            assert str(tmp_path / name) in line
            assert part in line
