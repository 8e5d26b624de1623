"""Order, rank correlations and tables of trials, against values worked out by hand."""

import csv
import io
import math
from collections.abc import Sequence

import pytest

from plca_dist.search.trials import (
    State,
    Trial,
    best,
    correlations,
    ranked,
    score,
    spearman,
    trials_csv,
    trials_table,
)
from plca_dist.training.metrics import CRITERIA

KEYS = {name: criterion.key for name, criterion in CRITERIA.items()}


def trial(name: str, state: State = "finished", step: int = 10, values: dict | None = None, **scores: float) -> Trial:
    """A trial whose only evaluation gave `scores`, by the criteria's names."""
    curve = [{"step": step, **{KEYS[c]: v for c, v in scores.items()}}] if scores else []
    return Trial(name, values or {}, state, step, 10, curve, note="loss is NaN" if state == "failed" else "")


def names(trials: Sequence[Trial]) -> list[str]:
    return [t.name for t in trials]


def test_the_score_is_the_last_that_was_measured_and_finite() -> None:
    curve = [{"step": 1, "miou": 40.0}, {"step": 2, "miou": 30.0}, {"step": 3, "criteria/entropy": 0.5}]
    t = Trial("a", {}, "running", 3, 10, curve)
    assert score(t, "target_miou") == 30.0
    assert score(t, "entropy") == 0.5
    assert score(t, "neighbourhood_density") is None
    for broken in (math.nan, math.inf):  # diverged since: an older, better value would be a lie
        later = Trial("a", {}, "running", 4, 10, [*curve, {"step": 4, "miou": broken}])
        assert score(later, "target_miou") is None


def test_finished_ones_lead_by_the_criterion_then_stopped_ones_by_step() -> None:
    trials = [
        trial("failed", "failed", 9, entropy=0.01),
        trial("waiting", "waiting", 0),
        trial("running", "running", 9, entropy=0.02),
        trial("stopped late", "stopped", 6, entropy=0.9),
        trial("stopped early, good", "stopped", 3, entropy=0.1),
        trial("stopped early", "stopped", 3, entropy=0.4),
        trial("nothing measured"),
        trial("diverged", entropy=math.nan),
        trial("worse", entropy=0.5),
        trial("better", entropy=0.3),
    ]
    assert names(ranked(trials, "entropy")) == [
        "better", "worse", "nothing measured", "diverged",
        "stopped late", "stopped early, good", "stopped early", "running", "waiting", "failed",
    ]  # fmt: skip
    assert names(ranked([trial("low", target_miou=1.0), trial("high", target_miou=2.0)], "target_miou"))[0] == "high"


def test_the_best_is_a_finished_one_with_a_score() -> None:
    stopped, diverged = trial("s", "stopped", 5, entropy=0.1), trial("d", entropy=math.nan)
    assert best([stopped, diverged, trial("f", "failed", entropy=0.1)], "entropy") is None
    worse, better = trial("w", entropy=0.6), trial("b", entropy=0.5)
    assert best([stopped, worse, better, diverged], "entropy") == better
    assert best([stopped, worse, better, diverged], "target_miou") is None


@pytest.mark.parametrize(
    ("a", "b", "rho"),
    [
        ([1, 2, 3], [10, 20, 90], 1.0),
        ([1, 2, 3, 4], [8, 4, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 - 6 Σd² / (n (n² - 1)) = 1 - 24/120
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),  # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4
        ([5, 5, 1, 1], [2, 2, 2, 1], 2 / math.sqrt(4 * 3)),  # 3.5, 3.5, 1.5, 1.5 against 3, 3, 3, 1
        ([1, 2], [1, 2], None),
        ([1, 1, 1], [1, 2, 3], None),
        ([1, 2, 3], [4, 4, 4], None),
    ],
)
def test_rank_correlation(a: list[float], b: list[float], rho: float | None) -> None:
    assert spearman(a, b) == (rho if rho is None else pytest.approx(rho, abs=1e-12))
    assert spearman(b, a) == spearman(a, b)


def test_a_correlation_of_one_means_that_the_bests_agree() -> None:
    trials = [
        trial(str(k), target_miou=m, entropy=e, neighbourhood_density=d, consistent_feature=0.5)
        for k, (m, e, d) in enumerate([(10.0, 0.9, 3.0), (20.0, 0.5, 2.0), (30.0, 0.2, 1.0)])
    ]
    stopped = trial("s", "stopped", 5, target_miou=99.0, entropy=0.99)
    failed = trial("f", "failed", target_miou=0.0, entropy=0.0)
    no_labels = trial("n", entropy=0.99)
    found = correlations([*trials, stopped, failed, no_labels])
    assert found["entropy"] == (1.0, 3)  # the least entropy goes with the most mIoU
    assert found["neighbourhood_density"] == (-1.0, 3)
    assert found["consistent_feature"] == (None, 3)
    assert found["consistent_prediction"] == (None, 0)
    assert "target_miou" not in found
    assert correlations(trials[:2])["entropy"] == (None, 2)


def test_the_csv_gives_back_what_went_in() -> None:
    values = {"objective.lovasz": 0.1 + 0.2, "variant": 'a,"b"\nc', "model.rates": [6, 12], "objective.contrast": False}
    trials = [
        Trial("t0", values, "failed", 5, 10, [{"step": 5, "miou": 1 / 3}], note='bad, "very"\nbad', seconds=1.25),
        Trial("t1", {"seed": 1}, "waiting", 0, 10, []),
    ]
    text = trials_csv(trials)
    assert text.splitlines()[0] == (
        "name,state,step,objective.lovasz,variant,model.rates,objective.contrast,seed,"
        "target_miou,neighbourhood_density,entropy,consistent_feature,consistent_prediction,seconds,note"
    )
    first, second = csv.DictReader(io.StringIO(text))
    assert float(first["objective.lovasz"]) == 0.1 + 0.2
    assert float(first["target_miou"]) == 1 / 3
    assert (first["variant"], first["note"]) == ('a,"b"\nc', 'bad, "very"\nbad')
    assert (first["model.rates"], first["objective.contrast"], first["seconds"]) == ("[6, 12]", "false", "1.25")
    assert {k: v for k, v in second.items() if v} == {"name": "t1", "state": "waiting", "step": "0", "seed": "1"}


def test_the_table_at_the_end() -> None:
    trials = [
        trial("t0", values={"objective.lovasz": 0.123456}, target_miou=30.04, entropy=0.5),
        trial("t1", "stopped", 3, values={"objective.lovasz": 1.0}, entropy=0.75),
        trial("t2", "failed", 4, values={"objective.lovasz": 0.5}),
        trial("t3", values={"objective.lovasz": 2}, target_miou=40.0, entropy=0.25),
    ]
    assert trials_table(trials, "entropy") == (
        "trial         state  entropy ↓  lovasz  mIoU\n"
        "────────────────────────────────────────────\n"
        "t3         finished      0.250       2  40.0\n"
        "t0         finished      0.500  0.1235  30.0\n"
        "t1     stopped 3/10      0.750       1     –\n"
        "t2      failed 4/10          –     0.5     –\n"
        "t2 failed: loss is NaN\n"
        "rank correlation with target mIoU (+1: the same order) over finished trials:\n"
        "  entropy: too few, 2 trials\n"
    )


def test_without_labels_nothing_is_said_of_trust() -> None:
    assert "correlation" not in trials_table([trial("t0", entropy=0.5)], "entropy")


def test_keys_that_end_alike_are_told_apart() -> None:
    head = trials_table([trial("t", values={"source.size": 1, "target.size": 2, "seed": 0})], "entropy").splitlines()[0]
    assert head.split() == ["trial", "state", "entropy", "↓", "source.size", "target.size", "seed"]
