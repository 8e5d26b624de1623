"""Spaces that do not fit a recipe are refused before anything starts; and which keys may vary at all."""

import pytest

from plca_dist.config import LATER, Config
from plca_dist.errors import UserError
from plca_dist.recipe import changed, keys
from plca_dist.search.space import Space, parse_space
from plca_dist.search.space.allowed_keys import check_set, check_varied
from plca_dist.training.metrics import CRITERIA

SEARCH = "search: {objective.lovasz: {uniform: [0.25, 1.5]}}\n"
REST = "metric: neighbourhood_density\ntrials: 4\n"
GRID = "metric: neighbourhood_density\nalgorithm: grid\n"


def _of(key: str, distribution: str) -> str:
    return f"search: {{{key}: {distribution}}}\n"


def _refusal(space: Space, base: Config) -> str:
    with pytest.raises(UserError) as caught:
        space.check(base)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (_of("objective.aggregation", "{uniform: [0, 1]}") + REST, ["objective.aggregation = 1.0", "less than 1"]),
        (_of("objective.lovasz", "{uniform: [-1, 1]}") + REST, ["objective.lovasz = -1.0", "greater than or equal"]),
        (_of("batch.pairs", "{uniform: [2, 8]}") + REST, ["batch.pairs = 2.0", "valid integer"]),
        (_of("batch.pairs", "{randint: [0, 8]}") + REST, ["batch.pairs = 0", "greater than 0"]),
        (_of("batch.pairs", "{choice: [4, 3]}") + REST, ["batch.pairs = 3 cannot be split over 2 workers"]),
        (_of("model.backbone", "{choice: [tiny, tinny]}") + REST, ["model.backbone = 'tinny'", "Did you mean 'tiny'"]),
        (_of("objective.backend", "{choice: [auto, dens]}") + REST, ["objective.backend = 'dens'", "'dense'"]),
        (_of("precision", "{grid: [float32, half]}") + GRID, ["precision = 'half'", "bfloat16"]),
        (GRID + "variants: {a: {}, b: {objective.contrast: 7}}", ["objective.contrast = 7", "boolean"]),
        (
            "search: {objective.backend: {grid: [auto, dense]}, objective.products: {grid: [float32, tf32]}}\n" + GRID,
            ["'dense' multiplies in float32 only"],  # each alone is fine
        ),
        (SEARCH + REST + "set: {schedule.steps: many}", ["set: schedule.steps = 'many'", "integer"]),
        (SEARCH + REST + "set: {schedule.steps: 7}", ["evaluations 8", "only 7 steps"]),
        (SEARCH + REST + "resources: {workers: 3}", ["batch.pairs = 4 cannot be split over 3 workers"]),
        (SEARCH + REST + "scheduler: asha\nevaluations: 1", ["evaluations 1 can stop no trial", "scheduler none"]),
        (
            SEARCH + REST + "scheduler: {median: {grace: 0.8}}\nevaluations: 4",
            ["grace 0.8 and evaluations 4 can stop no trial", "80% of the steps"],
        ),
    ],
)
def test_what_the_recipe_cannot_take_is_refused(text: str, parts: list[str], toytown: Config) -> None:
    message = _refusal(parse_space(text), toytown)
    for part in parts:
        assert part in message, message


def test_target_miou_needs_labels(toytown: Config) -> None:
    space = parse_space(SEARCH + "metric: target_miou\ntrials: 4")
    space.check(toytown)
    message = _refusal(space, changed(toytown, {"evaluation.uri": None}))
    for part in ("target_miou", "evaluation.uri", *(c for c in CRITERIA if c != "target_miou")):
        assert part in message


def test_what_may_vary_is_what_decides_the_result(toytown: Config) -> None:
    """A key may vary if two values of it make two different runs, but not the length of a run. Others are refused."""
    for key in keys():
        decides = (key in toytown.identity() or key in LATER) and key not in ("schedule.steps", "deepspeed")
        if decides:
            check_varied(key)
        else:
            with pytest.raises(ValueError, match=f"^{key} cannot vary in a search: it "):
                check_varied(key)
    check_set("deepspeed.zero_optimization.stage")
