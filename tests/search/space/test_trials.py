"""The contents of a space: its settings, the values of a grid, and the recipes of trials."""

import itertools
from typing import Any

import pytest

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.recipe import changed
from plca_dist.search.space import Distribution, Space, parse_space
from plca_dist.training.metrics import CRITERIA

SEARCH = "search: {objective.lovasz: {uniform: [0.25, 1.5]}}\n"
REST = "metric: neighbourhood_density\ntrials: 4\n"
GRID = "metric: neighbourhood_density\nalgorithm: grid\n"


@pytest.mark.parametrize("name", ["target_miou", "entropy"])
def test_mode_is_the_metrics_own(name: str) -> None:
    space = parse_space(SEARCH + f"trials: 4\nmetric: {name}")
    assert space.mode == space.criterion.mode == CRITERIA[name].mode
    assert parse_space(SEARCH + f"trials: 4\nmetric: {name}\nmode: {space.mode}") == space


@pytest.mark.parametrize(
    ("text", "asha", "median"),
    [
        ("none", None, None),
        ("asha", (0.25, 2), None),
        ("{asha: {grace: 0.5}}", (0.5, 2), None),
        ("{asha: }", (0.25, 2), None),
        ("{median: {min_trials: 5}}", None, (0.25, 5)),
    ],
)
def test_schedulers_with_their_defaults(text: str, asha: Any, median: Any) -> None:
    space = parse_space(SEARCH + REST + f"scheduler: {text}")
    assert (space.scheduler.asha and tuple(vars(space.scheduler.asha).values())) == asha
    assert (space.scheduler.median and tuple(vars(space.scheduler.median).values())) == median
    assert parse_space(space.to_yaml()) == space


def test_examples_are_the_ends_and_one_between() -> None:
    def of(name: str, *arguments: Any) -> list[Any]:
        return Distribution.model_validate({name: list(arguments)}).examples()

    low, between, high = of("uniform", 0, 8)
    assert (low, high) == (0, 8)
    assert 0 < between < 8
    assert between != int(between)
    assert of("randint", 2, 5) == [2, 4]  # the upper end is not drawn
    assert of("quniform", 2, 8, 2) == [2, 4, 8]
    assert of("choice", "a", [1, 2], None) == ["a", [1, 2], None]
    assert of("grid", 3) == [3]


def test_a_grid_takes_every_combination_in_order() -> None:
    space = parse_space(
        "search: {seed: {grid: [0, 1]}, batch.pairs: {grid: [2, 4]}}\nvariants: {a: {}, b: {objective.lovasz: 0}}\n"
        + GRID
    )
    expected = itertools.product("ab", [0, 1], [2, 4])
    assert [tuple(v.values()) for v in space.grid_values()] == list(expected)
    assert all(list(v) == ["variant", "seed", "batch.pairs"] for v in space.grid_values())
    assert space.count == 8


def test_the_recipe_of_a_trial(toytown: Config) -> None:
    space = parse_space(
        "search: {objective.lovasz: {uniform: [0.25, 1.5]}, source.crop: {choice: [[96, 192], [48, 96]]}}\n" + REST +
        "set: {schedule.steps: 50, log.every: 5, deepspeed.zero_optimization.stage: 1}\n"
        "evaluations: 8\nunlabelled: 12\nresources: {workers: 1, cpus_per_worker: 3}"
    )  # fmt: skip
    config = space.trial_config(toytown, {"objective.lovasz": 0.5, "source.crop": [48, 96]})
    wanted = changed(
        toytown,
        {
            "objective.lovasz": 0.5, "source.crop": [48, 96], "schedule.steps": 50, "log.every": 5,
            "deepspeed.zero_optimization.stage": 1, "evaluation.every": 7, "evaluation.unlabelled": 12,
            "cluster.workers": 1, "cluster.cpus_per_worker": 3,
        },
    )  # fmt: skip
    assert config == wanted  # gpu, which the space leaves out, is the recipe's
    with pytest.raises(UserError, match=r"search: objective.lovasz = -1"):
        space.trial_config(toytown, {"objective.lovasz": -1, "source.crop": [48, 96]})
    with pytest.raises(AssertionError, match=r"expected .*source.crop"):
        space.trial_config(toytown, {"objective.lovasz": 0.5})


@pytest.mark.parametrize(("steps", "evaluations"), [(600, 8), (10416, 10), (15, 8), (25, 8), (9, 8), (8, 8), (7, 1)])
def test_a_trial_is_measured_at_most_as_often_as_asked(steps: int, evaluations: int, toytown: Config) -> None:
    space = parse_space(SEARCH + REST + f"evaluations: {evaluations}\nset: {{schedule.steps: {steps}}}")
    every = space.trial_config(toytown, {"objective.lovasz": 1}).evaluation.every
    due = sum(step % every == 0 or step == steps for step in range(1, steps + 1))
    assert evaluations / 2 < due <= evaluations


def test_identity_is_what_decides_the_trials() -> None:
    text = "search: {objective.lovasz: {uniform: [0.25, 1.5]}, objective.association: {uniform: [0, 1]}}\n" + REST
    space = parse_space(text)
    for same in ("concurrency: 3", "about: {summary: other}", "resources: {workers: 2}", "mode: max"):
        assert parse_space(text + same).identity() == space.identity(), same
    for other in (
        "seed: 1",
        "set: {seed: 1}",
        "scheduler: asha",
        "evaluations: 4",
        "unlabelled: 3",
        "algorithm: optuna",
        "method: minent",
    ):
        changed_keys = _different(parse_space(text + other), space)
        assert changed_keys, other
        assert all(key.startswith(other.partition(":")[0]) for key in changed_keys)
    wider = text.replace("1.5", "2")
    assert _different(parse_space(wider), space) == {"search.objective.lovasz"}
    turned = "search: {objective.association: {uniform: [0, 1]}, objective.lovasz: {uniform: [0.25, 1.5]}}\n" + REST
    assert _different(parse_space(turned), space) == {"order"}  # other draws for each


def _different(one: Space, other: Space) -> set[str]:
    ours, theirs = one.identity(), other.identity()
    return {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
