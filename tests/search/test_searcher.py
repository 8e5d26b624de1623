"""Which trials are tried, in which order, and what a second launch makes of those of the first."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.messages import Message, TrialEvent
from plca_dist.recipe import load
from plca_dist.run.directory import open_run
from plca_dist.run_files import trial_state
from plca_dist.search.directory import Search, open_search
from plca_dist.search.samplers import draw, proposals
from plca_dist.search.schedulers import scheduler
from plca_dist.search.searcher import TrialSearcher
from plca_dist.search.space import Space, parse_space
from plca_dist.search.trainable import FAILED, LEFT, SECONDS
from plca_dist.search.trials import Trial, score, trials_table
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
def base(tmp_path: Path, toytown_settings: list[str]) -> Config:
    return load("toytown", [*toytown_settings, f"storage.uri={tmp_path}/runs"])


def opened(base: Config, text: str = SPACE) -> Search:
    search = open_search(parse_space(text), base, "search")
    search.claim()
    return search


def planned(search: Search, leaving: bool = False) -> TrialSearcher:
    known = search.read()
    return TrialSearcher(search, known, proposals(search.space, known), lambda: leaving)


def result(step: int, entropy: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"step": step, "entropy": entropy, **more}


def by_name(plan: TrialSearcher) -> dict[str, Trial]:
    return {t.name: t for t in plan.trials}


def suggested(plan: TrialSearcher, tune_id: str) -> str:
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
    (Path(search.trials.root) / "trial-003" / trial_state(0)).unlink()  # killed before it was drawn

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
    assert [t.state for t in plan.trials] == ["finished", "stopped", "failed", "waiting"]
    assert [(r["step"], r[ENTROPY]) for r in found["trial-000"].curve] == [(2, 0.9), (4, 0.8), (8, 0.7)]
    assert found["trial-001"].step == 4
    assert found["trial-002"].note == "loss is nan"
    assert [t.state for t in search.read()] == ["finished", "stopped", "failed", "waiting"]
    assert plan.suggest("t4") == Searcher.FINISHED, "it left with the search"
    assert plan.open


def test_a_trial_without_a_score_says_why(base: Config) -> None:
    search = opened(base)
    plan = planned(search)
    name = suggested(plan, "t0")
    search.trials.write(f"{name}/evaluation.json", b'{"step": 8, "note": "these labels have no labelled pixel"}')
    plan.on_trial_complete("t0", {"step": 8, SECONDS: 3.0, FAILED: "", LEFT: False})
    said = trials_table(plan.trials, "target_miou")
    assert f"{name} has no mIoU: these labels have no labelled pixel" in said


def test_what_is_not_finite_is_kept_as_json_has_it(base: Config) -> None:
    search = opened(base)
    plan = planned(search)
    name = suggested(plan, "t0")
    plan.on_trial_result("t0", result(2, 0.9))
    plan.on_trial_complete("t0", result(8, math.nan, **{SECONDS: 3.0, FAILED: "", LEFT: False}))
    (state,) = (e.name for e in search.trials.list(name) if "trial-" in e.name.rpartition("/")[2])
    kept = json.loads(search.trials.read(state), parse_constant=pytest.fail)
    assert [r[ENTROPY] for r in kept["curve"]] == [0.9, None]
    assert score(search.read()[0], "entropy") is None, "it has diverged: the value before would be a lie"


def test_a_trial_with_a_damaged_result_is_named_and_not_called_finished(base: Config) -> None:
    search = opened(base)
    suggested(planned(search), "t0")
    search.trials.write("trial-000/model.safetensors", b"")
    with pytest.raises(UserError, match=r"trials/trial-000/model\.safetensors is damaged"):
        search.read()


def test_a_trial_whose_process_dies_is_tried_again_while_it_gets_further(base: Config) -> None:
    plan = planned(opened(base))
    for k, reached in enumerate((2, 4, 6)):  # a machine lost each time, and the run went on
        assert suggested(plan, f"t{k}") == "trial-000"
        plan.on_trial_result(f"t{k}", result(reached))
        plan.on_trial_complete(f"t{k}", None, error=True)
    for k in range(3, 5):
        assert suggested(plan, f"t{k}") == "trial-000"
        plan.progress(TrialEvent("trial-000", Message("died", "OSError: no space")))
        plan.on_trial_complete(f"t{k}", None, error=True)
    assert suggested(plan, "t5") == "trial-001"
    assert by_name(plan)["trial-000"].state == "failed"
    assert by_name(plan)["trial-000"].note == "its process died 3 times at step 6; OSError: no space"


def test_a_store_that_is_away_costs_no_trial(base: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    search = opened(base)
    plan = planned(search)
    suggested(plan, "t0")

    def away(self: Search, trial: Trial) -> None:
        raise UserError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(Search, "record", away)
        plan.on_trial_complete("t0", result(8, **{SECONDS: 1.0}))
        with pytest.raises(UserError, match="away"):
            plan.keep()
    assert search.read()[0].state == "running"
    plan.keep()
    assert search.read()[0].state == "finished"


def test_what_the_scheduler_saw_outlives_a_kill_before_the_run_wrote_it(base: Config) -> None:
    search = opened(base)
    plan = planned(search)
    suggested(plan, "t0")
    plan.on_trial_complete("t0", result(4, 0.6))
    assert [r[ENTROPY] for r in search.read()[0].curve] == [0.6]


def test_a_search_that_leaves_starts_nothing(base: Config) -> None:
    plan = planned(opened(base), leaving=True)
    assert plan.suggest("t0") == Searcher.FINISHED
    assert plan.open


def test_a_trial_that_ends_because_the_search_leaves_is_not_stopped(base: Config) -> None:
    """Tune stops those that did not leave in time, in the same way as its scheduler does."""
    search = opened(base)
    leaving = False
    plan = TrialSearcher(search, [], proposals(search.space, []), lambda: leaving)
    suggested(plan, "t0")
    leaving = True
    plan.on_trial_complete("t0", result(4))
    assert [t.state for t in search.read()] == ["waiting"]
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
    open_run(base, "run").claim(1)
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


def test_the_best_recipe_is_one_that_trains(base: Config) -> None:
    """With the trial's own workers where the recipe's cannot share the batch that the space set."""
    search = opened(
        base, SPACE.replace("schedule.steps: 8", "schedule.steps: 8, batch.pairs: 1") + "resources: {workers: 1}"
    )
    plan = planned(search)
    suggested(plan, "t0")
    assert search.best_recipe(plan.trials[0]).world_sizes == (1,)


def test_trials_do_not_follow_the_cluster(base: Config) -> None:
    ranged = base.model_copy(update={"cluster": base.cluster.model_copy(update={"workers": (1, 2)})})
    with pytest.raises(UserError, match=r"cluster.workers = \[1, 2\].*set resources.workers"):
        opened(ranged)
    opened(ranged, SPACE + "resources: {workers: 1}")


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
            open_run(plan._search.config(by_name(plan)[name].values), name).claim(1)
    assert len(set(values)) == 40
    late = values[28:]
    assert sum(v > 0.3 for v in late) > len(late) / 2, late


ASHA, MEDIAN = "{asha: {grace: 0.25, reduction: 2}}", "{median: {grace: 0.25, min_trials: 3}}"
CURVE = [{"step": 2, ENTROPY: 0.1}, {"step": 4, ENTROPY: 0.1}]
GOOD = [Trial(f"trial-{k:03d}", {}, "finished", 8, 8, CURVE) for k in range(4)]


class Tunes:
    """A trial as Tune hands it to a scheduler; `left` once it was told to leave."""

    def __init__(self, name: str) -> None:
        self.config, self.left = {"trial": name}, False
        self.temporary_state, self.ray_actor, self.leave = self, self, self

    def remote(self) -> None:
        self.left = True


@pytest.mark.parametrize("text", [ASHA, MEDIAN], ids=["asha", "median"])
def test_the_scheduler_knows_the_curves_of_a_former_launch(text: str) -> None:
    """A bad trial after four good ones of a former launch is stopped, and told to leave; after none, it goes on."""
    space = parse_space(SPACE + f"scheduler: {text}")
    for known, decision in ((GOOD, TrialScheduler.STOP), ([], TrialScheduler.CONTINUE)):
        made, new = scheduler(space, 8, known), Tunes("trial-009")
        made.on_trial_add(None, new)  # type: ignore[arg-type]
        assert made.on_trial_result(None, new, result(2, 0.9)) == decision  # type: ignore[arg-type]
        assert new.left == (decision == TrialScheduler.STOP)


@pytest.mark.parametrize("text", [ASHA, MEDIAN], ids=["asha", "median"])
@pytest.mark.parametrize("launches", [1, 2])
def test_a_trial_that_comes_back_is_not_judged_again_by_what_it_passed(text: str, launches: int) -> None:
    """It passed its first rung; better ones came; back, in this launch or the next, it stands where it stood."""
    space = parse_space(SPACE + f"scheduler: {text}")
    before = [{"step": 2, ENTROPY: 0.5}]
    if launches == 2:
        made = scheduler(space, 8, [Trial("trial-000", {}, "waiting", 2, 8, before)])
    else:
        made, old = scheduler(space, 8, []), Tunes("trial-000")
        made.on_trial_add(None, old)  # type: ignore[arg-type]
        made.on_trial_result(None, old, result(2, 0.5))  # type: ignore[arg-type]
        made.on_trial_complete(None, old, result(2, 0.5, **{LEFT: True}))  # type: ignore[arg-type]
    for k in range(1, 4):
        better = Tunes(f"trial-{k:03d}")
        made.on_trial_add(None, better)  # type: ignore[arg-type]
        made.on_trial_result(None, better, result(2, 0.1))  # type: ignore[arg-type]
    back = Tunes("trial-000")
    made.on_trial_add(None, back)  # type: ignore[arg-type]
    if text == ASHA:  # between rungs: the median compares at every evaluation
        assert made.on_trial_result(None, back, result(3, 0.5)) == TrialScheduler.CONTINUE  # type: ignore[arg-type]
    assert made.on_trial_result(None, back, result(4, 0.05)) == TrialScheduler.CONTINUE  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [ASHA, MEDIAN], ids=["asha", "median"])
def test_a_trial_that_failed_before_its_first_evaluation_harms_no_other(text: str) -> None:
    space = parse_space(SPACE + f"scheduler: {text}")
    made, failed, other = scheduler(space, 8, [Trial("trial-005", {}, "failed", 0, 8, [])]), Tunes("a"), Tunes("b")
    for trial in (failed, other):
        made.on_trial_add(None, trial)  # type: ignore[arg-type]
    made.on_trial_complete(None, failed, {FAILED: "loss is nan", SECONDS: 1.0})  # type: ignore[arg-type]
    assert made.on_trial_result(None, other, result(2)) == TrialScheduler.CONTINUE  # type: ignore[arg-type]


def test_the_space_kept_is_the_space_given(base: Config) -> None:
    search = opened(base, GRID)
    again: Space = parse_space(search.store.read("space.yaml").decode())
    assert again.identity() == search.space.identity()
