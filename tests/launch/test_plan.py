"""Which trials are tried, in which order, and what a second launch makes of those of the first."""

from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.launch.plan import Plan
from plca_dist.launch.run import open_run
from plca_dist.launch.search import Search, open_search
from plca_dist.launch.suggest import draw, proposals
from plca_dist.launch.trial import FAILED, LEFT, SECONDS
from plca_dist.launch.tune import _scheduler
from plca_dist.recipe import load
from plca_dist.report.trials import Trial
from plca_dist.space import Space, parse_space
from plca_dist.training.metrics import ENTROPY

SPACE = """
search: {objective.association: {loguniform: [0.03, 0.3]}, objective.lovasz: {uniform: [0.25, 1.5]}}
metric: entropy
trials: 4
evaluations: 4
unlabelled: 2
set: {schedule.steps: 8}
"""
GRID = SPACE.replace("uniform: [0.25, 1.5]", "grid: [0.5, 1.0]").replace("loguniform: [0.03, 0.3]", "grid: [0.1, 0.2]")
GRID = GRID.replace("trials: 4", "algorithm: grid")


@pytest.fixture
def base(tmp_path: Path, toytown_shards: Path) -> Config:
    uris = [f"{name}.uri={toytown_shards}/{name}" for name in ("source", "target")]
    return load("toytown", [*uris, f"evaluation.uri={toytown_shards}/val", f"storage.uri={tmp_path}/runs"])


def opened(base: Config, text: str = SPACE) -> Search:
    search = open_search(parse_space(text), base, "search")
    search.claim()
    return search


def planned(search: Search, leaving: bool = False) -> Plan:
    known = search.read()
    return Plan(search, known, proposals(search.space, known), lambda: leaving)


def result(step: int, entropy: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"step": step, "entropy": entropy, **more}


def by_name(plan: Plan) -> dict[str, Trial]:
    return {t.name: t for t in plan.trials}


def suggested(plan: Plan, tune_id: str) -> str:
    given = plan.suggest(tune_id)
    assert isinstance(given, dict), given
    return str(given["trial"])


def test_draws_depend_on_their_number_alone() -> None:
    space = parse_space(SPACE)
    first = [draw(space, k) for k in range(50)]
    assert [draw(space, k) for k in reversed(range(50))] == first[::-1]
    assert len({d["objective.lovasz"] for d in first}) == 50
    assert all(0.25 <= d["objective.lovasz"] <= 1.5 and 0.03 <= d["objective.association"] <= 0.3 for d in first)
    assert draw(parse_space(SPACE + "seed: 1"), 0) != first[0]
    # A uniform logarithm puts half of the draws below the geometric mean, which is far below the middle.
    assert 15 < sum(d["objective.association"] < 0.095 for d in first) < 35


@pytest.mark.parametrize("text", [SPACE, GRID], ids=["random", "grid"])
def test_a_second_launch_tries_what_the_first_would_have_tried(base: Config, text: str) -> None:
    """Killed with one trial ended and two running: those two first, from where they stand, then the one not begun."""
    alone = planned(opened(base, text))
    wanted = {suggested(alone, f"t{k}"): dict(alone.trials[k].values) for k in range(4)}
    alone.on_trial_complete("t0", result(8, **{SECONDS: 1.0}))
    search = opened(base, text)
    (Path(search.trials.root) / "trial-003" / "trial.json").unlink()  # killed before it was drawn

    again = planned(search)
    assert [t.state for t in again.trials] == ["finished", "waiting", "waiting"]
    names = [suggested(again, f"u{k}") for k in range(3)]
    assert names == ["trial-001", "trial-002", "trial-003"]
    assert {t.name: t.values for t in again.trials} == wanted
    assert again.suggest("u3") is None, "one of those that run may have to be tried again"
    for k in range(3):
        again.on_trial_complete(f"u{k}", result(8, **{SECONDS: 1.0}))
    assert again.suggest("u4") == Searcher.FINISHED
    assert not again.open


def test_what_becomes_of_trials(base: Config) -> None:
    search = opened(base)
    plan = planned(search)
    for k in range(4):
        suggested(plan, f"t{k}")
    plan.on_trial_result("t0", result(2, 0.9))
    plan.on_trial_result("t0", result(4, 0.8))
    plan.on_trial_complete("t0", result(8, 0.7, **{SECONDS: 3.0, FAILED: "", LEFT: False}))
    plan.on_trial_complete("t1", result(4, 0.6))  # the scheduler's stop: no word of an end
    plan.on_trial_complete("t2", {**result(2, 0.4), SECONDS: 1.0, FAILED: "loss is nan", LEFT: False})
    plan.on_trial_complete("t3", {SECONDS: 1.0, FAILED: "", LEFT: True})
    found = by_name(plan)
    assert [t.state for t in plan.trials] == ["finished", "stopped", "failed", "running"]
    assert [(r["step"], r[ENTROPY]) for r in found["trial-000"].curve] == [(2, 0.9), (4, 0.8), (8, 0.7)]
    assert found["trial-001"].step == 4
    assert found["trial-002"].note == "loss is nan"
    assert [t.state for t in search.read()] == ["finished", "stopped", "failed", "running"]
    assert suggested(plan, "t4") == "trial-003", "it left for a node that drains, and goes on"


def test_a_trial_whose_process_dies_is_tried_again_and_then_recorded(base: Config) -> None:
    plan = planned(opened(base))
    for k in range(3):
        assert suggested(plan, f"t{k}") == "trial-000"
        plan.on_trial_complete(f"t{k}", None, error=True)
    assert suggested(plan, "t3") == "trial-001"
    assert by_name(plan)["trial-000"].state == "failed"
    assert by_name(plan)["trial-000"].note == "its process died 3 times"


def test_a_search_that_leaves_starts_nothing(base: Config) -> None:
    plan = planned(opened(base), leaving=True)
    assert plan.suggest("t0") == Searcher.FINISHED
    assert plan.open


def test_a_trial_that_ends_because_the_search_leaves_is_not_stopped(base: Config) -> None:
    """Tune stops those that did not leave in time, in the same way as its scheduler does."""
    search = opened(base)
    leaving = False
    plan = Plan(search, [], proposals(search.space, []), lambda: leaving)
    suggested(plan, "t0")
    leaving = True
    plan.on_trial_complete("t0", result(4))
    assert [t.state for t in search.read()] == ["running"]
    assert plan.open


def test_another_space_or_recipe_is_refused_under_the_same_name(base: Config) -> None:
    opened(base)
    with pytest.raises(UserError, match=r"exists with another space or recipe: trials \(4 there, 5 here\)"):
        opened(base, SPACE.replace("trials: 4", "trials: 5"))
    changed = base.model_copy(update={"seed": 7})
    with pytest.raises(UserError, match=r"seed \(0 there, 7 here\)"):
        opened(changed)
    opened(base, SPACE + "concurrency: 2")


def test_runs_and_searches_keep_apart(base: Config) -> None:
    opened(base)
    with pytest.raises(UserError, match="is a search"):
        open_run(base, "search")
    open_run(base, "run").claim()
    with pytest.raises(UserError, match="is a run"):
        open_search(parse_space(SPACE), base, "run")


def test_the_best_recipe_gives_the_trial_again_on_the_recipes_own_cluster(base: Config) -> None:
    search = opened(base, SPACE + "resources: {workers: 1}")
    plan = planned(search)
    suggested(plan, "t0")
    trial = plan.trials[0]
    best = search.best_recipe(trial)
    assert best.identity() == search.config(trial.values).identity()
    assert best.objective.association == trial.values["objective.association"]
    assert (best.cluster, best.storage, best.evaluation) == (search.base.cluster, search.base.storage, base.evaluation)
    assert base.cluster.workers == 2


def test_optuna_learns_from_the_trials_of_both_launches(base: Config) -> None:
    """Entropy falls with association: told of both, the sampler goes to its upper end, which draws would not."""
    text = SPACE.replace("trials: 4", "trials: 40\nalgorithm: optuna").replace("[0.03, 0.3]", "[0.001, 1.0]")
    values = []
    for launch in (range(20), range(20, 40)):
        plan = planned(opened(base, text))
        for k in launch:
            name = suggested(plan, f"t{k}")
            value = by_name(plan)[name].values["objective.association"]
            values.append(value)
            plan.on_trial_complete(f"t{k}", result(8, 1 - value, **{SECONDS: 1.0}))
            run = plan._search.trials.child(name)
            run.write("metrics.jsonl", f'{{"step": 8, "{ENTROPY}": {1 - value}}}\n'.encode())
    assert len(set(values)) == 40
    late = values[28:]
    assert sum(v > 0.3 for v in late) > len(late) / 2, late


@pytest.mark.parametrize("scheduler", ["{asha: {grace: 0.25, reduction: 2}}", "{median: {grace: 0.25, min_trials: 3}}"])
def test_the_scheduler_knows_the_curves_of_a_former_launch(base: Config, scheduler: str) -> None:
    """A bad trial after four good ones of a former launch is stopped; after none, it goes on."""
    search = opened(base, SPACE + f"scheduler: {scheduler}")

    def decision(past: list[Trial]) -> str:
        made, new = _scheduler(search, past), _tune_trial()
        made.on_trial_add(None, new)  # type: ignore[arg-type]
        return made.on_trial_result(None, new, result(2, 0.9))  # type: ignore[arg-type]

    curve = [{"step": 2, ENTROPY: 0.1}, {"step": 4, ENTROPY: 0.1}]
    good = [Trial(f"trial-{k:03d}", {}, "finished", 8, 8, curve) for k in range(4)]
    assert decision(good) == TrialScheduler.STOP
    assert decision([]) == TrialScheduler.CONTINUE


def _tune_trial() -> Any:
    from ray.tune.experiment import Trial as TuneTrial

    return TuneTrial("plca", stub=True)


def test_the_space_kept_is_the_space_given(base: Config) -> None:
    search = opened(base, GRID)
    again: Space = parse_space(search.store.read("space.yaml").decode())
    assert again.identity() == search.space.identity()
