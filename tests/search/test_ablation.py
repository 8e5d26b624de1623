"""The ablation table against hand-worked means and the paper's published rows."""

import pytest

from plca_dist.errors import UserError
from plca_dist.method.objective import ABLATION
from plca_dist.method.published import PUBLISHED
from plca_dist.methods import methods
from plca_dist.search.ablation import NAMES, TITLES, ablation_table
from plca_dist.search.trials import State, Trial


def trial(variant: str, seed: int, miou: float | None, state: State = "finished", **more: object) -> Trial:
    curve = [] if miou is None else [{"step": 5, "miou": 1.0}, {"step": 10, "miou": miou}]
    values = {"variant": variant, "seed": seed, **more}
    return Trial(f"{variant}-{seed}", values, state, 10, 10, curve)


def test_means_deviations_and_differences_in_the_papers_order() -> None:
    base = {"source_only": 20.0, "lovasz": 22.0, "feature": 24.0, "prediction": 28.0,
            "plca": 30.0, "sim_plca": 25.0, "no_aggregation": 26.0}  # fmt: skip
    # Deviation of (-1, 0, 1) with n - 1 = 2 in the denominator: 1.
    trials = [trial(v, s, m + s - 1) for s in range(3) for v, m in reversed(base.items())]
    table = ablation_table(trials)
    assert table.head == ("mIoU, %", "here", "n", "difference", "paper, GTAV", "paper, SYNTHIA")
    assert table.rows == (
        ("source-only", "20.0 ± 1.0", "3", "–", "31.5", "35.4"),
        ("+ Lovász", "22.0 ± 1.0", "3", "+2.0", "34.3 (+2.8)", "36.4 (+1.0)"),
        ("+ L_feature", "24.0 ± 1.0", "3", "+4.0", "39.7 (+8.2)", "40.9 (+5.5)"),
        ("+ L_prediction", "28.0 ± 1.0", "3", "+8.0", "47.4 (+15.9)", "46.3 (+10.9)"),
        ("+ LSR (PLCA)", "30.0 ± 1.0", "3", "+10.0", "47.7 (+16.2)", "46.8 (+11.4)"),
        ("Sim-PLCA", "25.0 ± 1.0", "3", "+5.0", "41.8 (+10.3)", "42.5 (+7.1)"),
        ("PLCA without aggregation", "26.0 ± 1.0", "3", "+6.0", "45.6 (+14.1)", "44.6 (+9.2)"),
    )
    assert table.notes == (
        "difference: of the means, to source-only",
        "±: sample standard deviation over n seeds",
        "rank correlation of the 7 means with paper, GTAV: +1.00",
        "rank correlation of the 7 means with paper, SYNTHIA: +1.00",
    )
    assert table.as_text().splitlines()[2].split("  ")[0] == "source-only"


def test_every_row_of_the_paper_has_a_name() -> None:
    assert list(NAMES) == list(ABLATION) == list(PUBLISHED)


def test_incomplete_rows_say_so_and_a_single_seed_has_no_deviation() -> None:
    trials = [
        trial("source_only", 0, 20.0), trial("source_only", 1, 23.0),
        trial("plca", 0, 30.0), trial("plca", 1, 99.0, "failed"),
        trial("lovasz", 0, 21.0, "running"), trial("lovasz", 1, None, "waiting"),
        trial("feature", 0, 22.0),
    ]  # fmt: skip
    rows = {row[0]: row[1:4] for row in ablation_table(trials).rows}
    assert rows["source-only"] == ("21.5 ± 2.1", "2", "–")
    assert rows["+ LSR (PLCA)"] == ("30.0", "1 of 2", "+8.5")
    assert rows["+ Lovász"] == ("–", "0 of 2", "–")
    assert rows["+ L_feature"] == ("22.0", "1 of 2", "+0.5")
    assert rows["Sim-PLCA"] == ("–", "0 of 2", "–")


def test_the_order_is_compared_with_the_papers() -> None:
    trials = [trial("source_only", 0, 30.0), trial("lovasz", 0, 20.0), trial("plca", 0, 10.0)]
    assert ablation_table(trials).notes[1:] == (
        "rank correlation of the 3 means with paper, GTAV: -1.00",
        "rank correlation of the 3 means with paper, SYNTHIA: -1.00",
    )


def test_other_variants_and_other_values_are_rows_of_their_own() -> None:
    own = [trial("small", 0, 10.0), trial("large", 0, 12.0)]
    assert [row[:4] for row in ablation_table(own).rows] == [("small", "10.0", "1", "–"), ("large", "12.0", "1", "–")]
    assert ablation_table(own).notes == ()
    assert all(row[4:] == ("–", "–") for row in ablation_table(own).rows)
    mixed = [
        trial("plca", 0, 30.0),
        *(trial("plca", 0, 30.0 + r, **{"objective.aggregation": r}) for r in (0.25, 0.75)),
    ]
    assert [row[:2] for row in ablation_table(mixed).rows[-2:]] == [
        ("plca, aggregation 0.25", "30.2"),
        ("plca, aggregation 0.75", "30.8"),
    ]


def test_a_search_without_variants_is_refused() -> None:
    with pytest.raises(UserError, match=r"no trial has a variant.*`variants:`"):
        ablation_table([Trial("t", {"seed": 0}, "finished", 1, 1, [])])


def test_methods_side_by_side_stand_beside_what_is_published() -> None:
    base = {"plca_class_mix": 36.0, "advent": 25.0, "source_only": 20.0, "plca": 30.0, "mine": 10.0}
    table = ablation_table([trial(v, s, m + s - 1) for s in range(3) for v, m in base.items()])
    assert table.head == ("mIoU, %", "here", "n", "difference", "published, GTAV", "published, SYNTHIA")
    assert table.rows[:5] == (
        ("source-only", "20.0 ± 1.0", "3", "–", "31.5", "35.4"),
        ("AdvEnt", "25.0 ± 1.0", "3", "+5.0", "43.8", "40.8"),
        ("PLCA", "30.0 ± 1.0", "3", "+10.0", "47.7", "46.8"),
        ("PLCA + class-mix", "36.0 ± 1.0", "3", "+16.0", "–", "–"),
        ("mine", "10.0 ± 1.0", "3", "-10.0", "–", "–"),
    )
    assert ("CLAN", "–", "–", "–", "43.2", "–") in table.rows
    assert ("MaxSquare", "–", "–", "–", "44.3", "–") not in table.rows, "a method that did not run has no row"
    assert table.notes[-1].startswith("published: other code")
    assert not [note for note in table.notes if "rank correlation" in note]


def test_every_method_has_a_title() -> None:
    assert TITLES.keys() == methods().keys()
