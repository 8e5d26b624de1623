"""Space files that are refused when they are read, in one line that names the fix."""

import pytest

from plca_dist.errors import UserError
from plca_dist.search.space import parse_space

SEARCH = "search: {objective.lovasz: {uniform: [0.25, 1.5]}}\n"
REST = "metric: neighbourhood_density\ntrials: 4\n"
GRID = "metric: neighbourhood_density\nalgorithm: grid\n"


def _of(key: str, distribution: str) -> str:
    return f"search: {{{key}: {distribution}}}\n"


def _refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_space(text, "x.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "distribution", "parts"),
    [
        ("objective.lovas", "{uniform: [0, 1]}", ["unknown key 'objective.lovas'", "'objective.lovasz'"]),
        ("lovasz", "{uniform: [0, 1]}", ["unknown key 'lovasz'", "'objective.lovasz'"]),
        ("objective", "{uniform: [0, 1]}", ["unknown key 'objective'", "Did you mean 'objective."]),
        ("storage.uri", "{choice: [a, b]}", ["storage.uri cannot vary", "does not change the result"]),
        ("cluster.workers", "{choice: [1, 2]}", ["cluster.workers cannot vary", "does not change the result"]),
        ("checkpoint.every", "{choice: [1, 2]}", ["checkpoint.every cannot vary", "under set"]),
        ("log.every", "{choice: [1, 2]}", ["log.every cannot vary"]),
        ("evaluation.aggregation", "{choice: [0, 0.5]}", ["evaluation.aggregation cannot vary", "measured"]),
        ("about.summary", "{choice: [a, b]}", ["about.summary cannot vary", "describes"]),
        ("data", "{choice: [a, b]}", ["data cannot vary", "shared by all trials"]),
        ("source.uri", "{choice: [a, b]}", ["source.uri cannot vary", "shared by all trials"]),
        ("schedule.steps", "{choice: [10, 20]}", ["schedule.steps cannot vary", "length", "under set"]),
        ("deepspeed.zero_optimization.stage", "{choice: [0, 1]}", ["cannot vary", "does not change the result"]),
        ("seed", "{unifrom: [0, 1]}", ["search.seed", "unknown distribution 'unifrom'", "'uniform'"]),
        ("seed", "{uniform: [0, 1], grid: [1]}", ["search.seed", "write one distribution"]),
        ("seed", "[0, 1]", ["search.seed = [0, 1]", "{uniform: [0.25, 1.5]}"]),
        ("seed", "{choice: 3}", ["choice: 3", "{choice: [value"]),
        ("seed", "{choice: []}", ["choice: []", "no value"]),
        ("seed", "{choice: [1, 2, 1]}", ["choice: [1, 2, 1]", "1 is named twice"]),
        ("seed", "{randint: [0, 0]}", ["randint: [0, 0]", "empty"]),
        ("seed", "{randint: [0, 1.5]}", ["randint: [0, 1.5]", "1.5 is no whole number"]),
        ("optimizer.lr", "{uniform: [1, 0.5]}", ["uniform: [1, 0.5]", "empty", "swapped"]),
        ("optimizer.lr", "{uniform: [0.5, 0.5]}", ["uniform: [0.5, 0.5]", "empty", "under set"]),
        ("optimizer.lr", "{uniform: [0.5]}", ["uniform: [0.5]", "[low, high]"]),
        ("optimizer.lr", "{uniform: [0.1, 0.5, 0.1]}", ["it takes [low, high]"]),
        ("optimizer.lr", "{uniform: [0.1, true]}", ["True is no finite number"]),
        ("optimizer.lr", "{uniform: [0.1, .inf]}", ["inf is no finite number"]),
        ("optimizer.lr", "{loguniform: [0, 1]}", ["loguniform: [0, 1]", "above 0"]),
        ("optimizer.lr", "{quniform: [0.1, 0.5]}", ["it takes [low, high, q]"]),
        ("optimizer.lr", "{quniform: [0.1, 0.5, 0]}", ["q 0 must be above 0"]),
        ("optimizer.lr", "{quniform: [0.1, 0.55, 0.1]}", ["0.55 is no multiple of q = 0.1", "0.6"]),
    ],
)
def test_what_is_searched_is_refused_with_the_fix(key: str, distribution: str, parts: list[str]) -> None:
    message = _refusal(_of(key, distribution) + REST)
    for part in ["x.yaml: search", *parts]:
        assert part in message, message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (SEARCH + REST + "shceduler: asha", ["unknown key 'shceduler'", "'scheduler'"]),
        (SEARCH + REST + "resources: {worker: 1}", ["unknown key 'resources.worker'", "'resources.workers'"]),
        (SEARCH + REST + "scheduler: {asha: {grase: 0.5}}", ["'scheduler.asha.grase'", "'scheduler.asha.grace'"]),
        (SEARCH + REST + "scheduler: {median: {reduction: 2}}", ["unknown key 'scheduler.median.reduction'"]),
        (SEARCH + REST + "scheduler: ahsa", ["scheduler = 'ahsa'", "none, asha, median", "Did you mean 'asha'?"]),
        (SEARCH + REST + "scheduler: {medain: {}}", ["scheduler: must be one of", "Did you mean 'median'?"]),
        (SEARCH + REST + "scheduler: {asha: {}, median: {}}", ["scheduler: name one of none, asha, median"]),
        (SEARCH + REST + "scheduler: [asha]", ["name one of none, asha, median"]),
        (SEARCH + REST + "scheduler: {none: {grace: 0.5}}", ["none has no settings"]),
        (SEARCH + REST + "scheduler: {asha: {grace: 1.0}}", ["scheduler.asha.grace = 1.0", "less than 1"]),
        (SEARCH + REST + "scheduler: {asha: {reduction: 1}}", ["scheduler.asha.reduction = 1", "2"]),
        (SEARCH + REST + "algorithm: optune", ["algorithm = 'optune'", "random, grid, optuna", "'optuna'"]),
        (SEARCH + "trials: 4\nmetric: entropie", ["metric = 'entropie'", "target_miou", "Did you mean 'entropy'?"]),
        (SEARCH + "trials: 4", ["metric is missing"]),
        (SEARCH + REST + "mode: min", ["mode = 'min'", "neighbourhood_density is better the larger", "write max"]),
        (SEARCH + "trials: 4\nmetric: entropy\nmode: max", ["mode = 'max'", "entropy is better the smaller"]),
        (SEARCH + "metric: entropy", ["x.yaml: trials is missing", "algorithm random"]),
        (SEARCH + REST + "unlabelled: 0", ["neighbourhood_density", "unlabelled 0"]),
        (SEARCH + REST + "evaluations: 0", ["evaluations = 0", "greater than 0"]),
        (REST, ["x.yaml: nothing to search"]),
        (_of("seed", "{grid: [0, 1]}") + REST, ["seed with algorithm random", "algorithm grid"]),
        (_of("seed", "{grid: [0, 1]}") + REST + "algorithm: optuna", ["seed with algorithm optuna"]),
        (SEARCH + REST + "variants: {a: {seed: 1}}", ["variants with algorithm random", "algorithm grid"]),
        (SEARCH + GRID, ["objective.lovasz: algorithm grid takes no uniform", "{grid: ["]),
        (_of("seed", "{grid: [0, 1]}") + GRID + "trials: 4", ["trials 4", "here 2", "leave it out"]),
        (SEARCH + REST + "set: {objective.lovasz: 1}", ["objective.lovasz is both in search and in set"]),
        (
            _of("seed", "{grid: [0]}") + GRID + "variants: {a: {seed: 1}}",
            ["seed is both in search and in variants"],
        ),
        (GRID + "variants: {a: {seed: 1}}\nset: {seed: 2}", ["seed is both in set and in variants"]),
        (GRID + "variants: {a: {sede: 1}}", ["variants: unknown key 'sede'", "Did you mean 'seed'?"]),
        (GRID + "variants: {a: {log.every: 1}}", ["log.every cannot vary"]),
        (SEARCH + REST + "method: plcaa", ["method", "'plcaa' is unknown", "Did you mean 'plca'?"]),
        (SEARCH + REST + "set: {schedule.step: 1}", ["set: unknown key 'schedule.step'", "'schedule.steps'"]),
        (SEARCH + REST + "set: {evaluation.every: 1}", ["evaluation.every is decided", "write evaluations"]),
        (SEARCH + REST + "set: {cluster.workers: 2}", ["cluster.workers is decided", "resources.workers"]),
        (SEARCH + REST + "set: {storage.uri: x}", ["storage.uri is decided", "directory"]),
        ("- a", ["x.yaml: a space is a YAML mapping; got list"]),
        ("a: [", ["x.yaml: not valid YAML"]),
    ],
)
def test_a_file_is_refused_with_the_fix(text: str, parts: list[str]) -> None:
    message = _refusal(text)
    for part in parts:
        assert part in message, message
