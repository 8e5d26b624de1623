"""The space files in tune_spaces/: each fits the recipes and keeps its promises."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.method.objective import ABLATION
from plca_dist.recipe import load
from plca_dist.search.space import load_space, parse_space, spaces
from plca_dist.storage import resolve

FOLDER = Path(__file__).parents[3] / "tune_spaces"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_the_shipped_spaces_are_those_that_the_documentation_names() -> None:
    assert list(spaces().values()) == FILES
    assert set(spaces()) == {"loss_weights", "loss_weights_grid", "lambda", "full", "ablation", "methods", "smoke"}


@pytest.mark.parametrize(
    ("path", "recipe"),
    # smoke.yaml is for toytown alone: its crops and steps are
    [(path, "toytown") for path in FILES] + [(path, "gtav_to_cityscapes") for path in FILES if path.stem != "smoke"],
    ids=lambda value: getattr(value, "stem", value),
)
def test_every_shipped_space_fits_the_recipes(path: Path, recipe: str) -> None:
    space, base = load_space(path), load(recipe)
    space.check(base)
    assert parse_space(space.to_yaml()) == space
    text = path.read_text()
    assert f"plca tune {path.stem} --recipe" in text
    assert text.startswith("# ")
    assert all([space.about.summary, space.about.cost])
    for key, distribution in space.search.items():  # the recipe's own values are among what is searched
        value: Any = base
        for part in key.split("."):
            value = getattr(value, part)
        if distribution.name in ("choice", "grid"):
            assert value in distribution.arguments or path.stem == "loss_weights_grid"
        else:
            assert distribution.arguments[0] <= value <= distribution.arguments[1], key


def test_the_ablation_space_is_the_papers_table_with_three_seeds(toytown: Config) -> None:
    space = load_space(FOLDER / "ablation.yaml")
    assert space.variants == {
        row: {f"objective.{name}": value for name, value in settings.items()} for row, settings in ABLATION.items()
    }
    assert list(space.variants) == list(ABLATION)
    assert space.metric == "target_miou"
    assert space.scheduler.asha is None
    assert space.scheduler.median is None
    values = space.grid_values()
    assert values == [{"variant": row, "seed": seed} for row in ABLATION for seed in (0, 1, 2)]
    assert space.count == 21
    for trial in values:
        config = space.trial_config(toytown, trial)
        expected = asdict(toytown.objective) | ABLATION[trial["variant"]]
        assert asdict(config.objective) == expected
        assert config.seed == trial["seed"]


def test_the_grid_of_loss_weights_is_within_the_search_it_is_compared_with() -> None:
    grid, search = (load_space(FOLDER / f"{name}.yaml") for name in ("loss_weights_grid", "loss_weights"))
    assert grid.search.keys() == search.search.keys()
    assert grid.count == search.count == 12
    assert grid.evaluations == search.evaluations
    assert (grid.metric, grid.unlabelled, grid.resources) == (search.metric, search.unlabelled, search.resources)
    for key, distribution in grid.search.items():
        low, high = search.search[key].arguments
        assert all(low <= value <= high for value in distribution.arguments)


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("loss_weight", "loss_weights"), ("tune_spaces/lambd.yaml", "lambda"), ("somewhere/mine.yaml", None)],
)
def test_an_unknown_name_lists_the_shipped_spaces(
    typed: str, nearest: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_space(typed)
    message = str(caught.value)
    assert f"space '{typed}' does not exist" in message
    assert ", ".join(spaces()) in message
    assert message.endswith(f"Did you mean '{nearest}'?" if nearest else "smoke.")


def test_a_space_is_found_by_name_path_and_uri(s3: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = load_space("ablation")
    assert shipped == load_space(FOLDER / "ablation.yaml")
    resolve("s3://bucket/spaces").write("mine.yaml", shipped.to_yaml().encode())
    assert load_space("s3://bucket/spaces/mine.yaml") == shipped
    with pytest.raises(UserError, match=r"space s3://bucket/spaces/other.yaml does not exist"):
        load_space("s3://bucket/spaces/other.yaml")


def test_a_file_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"loss_weight\.yaml' does not exist.*Did you mean '.*loss_weights\.yaml'\?"):
        load_space(FOLDER / "loss_weight.yaml")
