"""The page of a search, parsed, and its charts, by the colours of their pixels."""

import io
import math
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from plca_dist.report.figure import CHART_SIZE
from plca_dist.search.charts import agreement_charts, curve_charts, value_charts
from plca_dist.search.page import search_page
from plca_dist.search.trials import State, Trial
from tests.html_reader import Reader, assert_escaped, assert_self_contained, hostile

BEST, OTHER = (209, 96, 61), (59, 111, 182)


def trial(k: int, state: State = "finished", values: dict | None = None, labels: bool = True) -> Trial:
    """The k-th trial, of 300 steps: all criteria rise with k, entropy falls."""
    values = (
        {"objective.lovasz": 0.25 + 0.1 * k, "model.style": ("caffe", "torch<i>vision")[k % 2]}
        if values is None
        else values
    )
    step = {"finished": 300, "stopped": 100, "running": 200, "failed": 100, "waiting": 0}[state]
    curve = [
        {
            "step": s,
            **({"miou": 20.0 + k + s / 100} if labels else {}),
            "criteria/neighbourhood_density": 4 + k / 10 + s / 1000,
            "criteria/entropy": 0.9 - k / 20,
        }
        for s in range(100, step + 1, 100)
    ]
    return Trial(f"trial-{k}", values, state, step, 300, curve, "loss <b>is</b> NaN" if state == "failed" else "")


TRIALS = [
    *(trial(k) for k in range(4)),
    *(trial(k, "stopped") for k in (4, 5)),
    trial(6, "failed"),
    trial(7, "running"),
    trial(8, "waiting"),
]


@pytest.fixture(scope="module")
def text() -> str:
    facts = {"space": "β1 <script>alert(1)</script>", "seed": 0}
    return search_page("search & <find>", trials=TRIALS, criterion="neighbourhood_density", facts=facts)


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_it_needs_no_network_and_no_script(text: str) -> None:
    assert_self_contained(text)


def test_the_headline(read: Reader) -> None:
    said = [piece for piece in read.text if piece.strip()]
    start = said.index("best: trial-3")
    assert said[start : start + 12] == [
        "best: trial-3", "4.600", "density ↑",
        "its mIoU", "26.0", "the highest of a finished trial is 26.0",
        "trials", "9", "4 finished · 2 stopped · 1 running · 1 waiting · 1 failed",
        "steps spent", "63 %", "1700 of 2700, all trials in full",
    ]  # fmt: skip
    assert "By neighbourhood density, of which more is better, measured without labels of the target." in said


def test_the_ranking_the_trust_and_the_facts(read: Reader) -> None:
    assert read.rows[0] == ["trial", "state", "density ↑", "lovasz", "style", "mIoU", "entropy"]
    assert [row[0] for row in read.rows[1:10]] == [f"trial-{k}" for k in (3, 2, 1, 0, 5, 4, 7, 8, 6)]
    assert read.rows[1] == ["trial-3", "finished", "4.600", "0.55", "torch<i>vision", "26.0", "0.750"]
    marked = [value for tag, name, value in read.attributes if (tag, name) == ("tr", "class")]
    assert marked == ["mean", *["faint"] * 5]
    assert "trial-6 failed: loss <b>is</b> NaN" in read.text
    assert ["neighbourhood density", "+1.00", "4"] in read.rows
    assert ["entropy", "+1.00", "4"] in read.rows
    assert ["space", "β1 <script>alert(1)</script>"] in read.rows


def test_every_picture_decodes_and_says_what_it_shows(read: Reader) -> None:
    assert {picture.size for picture in read.pictures()} == {CHART_SIZE}
    shown = [value for _, name, value in read.attributes if name == "alt"]
    assert shown == ["lovasz", "style", "density ↑", "mIoU, % ↑", "density and mIoU", "entropy and mIoU"]


def test_a_search_by_mean_iou_without_other_criteria() -> None:
    trials = [Trial(f"t{k}", {"seed": k}, "finished", 10, 10, [{"step": 10, "miou": 30.0 + k}]) for k in range(3)]
    read = Reader(search_page("s", trials=trials, criterion="target_miou", facts={}))
    assert "its mIoU" not in read.text
    assert "Which criterion to trust" not in read.text
    assert "What was searched" not in read.text
    assert [value for _, name, value in read.attributes if name == "alt"] == ["seed", "mIoU, % ↑"]


@pytest.mark.parametrize("trials", [[], [trial(0, "waiting")], [trial(0, "failed")], [trial(0, labels=False)]])
def test_a_search_with_little_in_it_has_a_page_too(trials: Sequence[Trial]) -> None:
    read = Reader(search_page("s", trials=trials, criterion="entropy", facts={"seed": 0}))
    assert ["seed", "0"] in read.rows
    assert "By variant" not in read.text


def test_a_search_over_variants_has_its_table() -> None:
    trials = [trial(k, values={"variant": v, "seed": 0}) for k, v in enumerate(["source_only", "plca"])]
    read = Reader(search_page("s", trials=trials, criterion="target_miou", facts={}))
    assert ["source-only", "23.0", "1", "–", "31.5", "35.4"] in read.rows
    assert ["+ LSR (PLCA)", "24.0", "1", "+1.0", "47.7 (+16.2)", "46.8 (+11.4)"] in read.rows


def test_text_from_outside_is_shown_as_it_is() -> None:
    def named(k: int, state: State) -> Trial:
        values = {"variant": hostile("variant"), hostile("text"): hostile("value"), hostile("number"): k}
        return Trial(hostile(state), values, state, 1, 1, [{"step": 1, "criteria/entropy": 0.5}], hostile("note"))

    trials = [named(0, "finished"), named(1, "stopped"), named(2, "failed")]
    text = search_page(
        hostile("title"), trials=trials, criterion="entropy", facts={hostile("fact"): hostile("setting")}
    )
    places = ["finished", "stopped", "failed", "variant", "text", "value", "number", "note", "title", "fact", "setting"]
    assert_escaped(text, places)
    assert ("img", "alt", hostile("number")) in Reader(text).attributes


def _pixels(png: bytes, colour: tuple[int, int, int]) -> np.ndarray:
    """Row and column of the pixels that have this colour but for rounding, (n, 2)."""
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    return np.argwhere((np.abs(picture.astype(int) - colour) <= 1).all(-1))


def test_the_best_is_in_colour_stopped_ones_are_faint_and_failed_ones_left_out() -> None:
    faint = tuple(round(0.35 * c + 0.65 * 255) for c in OTHER)
    everything = value_charts(TRIALS, "neighbourhood_density")["lovasz"]
    finished = value_charts(TRIALS[:4], "neighbourhood_density")["lovasz"]
    assert len(_pixels(everything, BEST)) > 20
    assert len(_pixels(everything, faint)) > 3 * 20
    assert len(_pixels(finished, faint)) < 5
    assert value_charts([*TRIALS[:6], *TRIALS[7:]], "neighbourhood_density")["lovasz"] == everything
    # The best of the finished four stands highest and farthest right.
    best, others = _pixels(finished, BEST), _pixels(finished, OTHER)
    assert best[:, 0].max() < others[:, 0].min()
    assert best[:, 1].min() > others[:, 1].max()


def test_less_is_better_turns_the_axis_round() -> None:
    points = {name: _pixels(png, OTHER) for name, png in agreement_charts(TRIALS).items()}
    for found in points.values():  # mIoU and the good end agree here: the topmost point is the rightmost
        top, right = found[found[:, 0].argmin()], found[found[:, 1].argmax()]
        assert abs(top[1] - right[1]) < 12


def test_curves_show_what_was_measured_and_the_best_in_colour() -> None:
    shown = curve_charts([trial(k, labels=False) for k in range(3)], "entropy")
    assert list(shown) == ["entropy ↓"]
    assert len(_pixels(shown["entropy ↓"], BEST)) > 100
    diverged = Trial("nan", {}, "failed", 100, 300, [{"step": 100, "criteria/entropy": math.nan}])
    assert list(curve_charts([diverged], "entropy")) == ["entropy ↓"]
    assert curve_charts([trial(0, "waiting")], "entropy") == {}


def test_a_key_with_one_value_has_no_chart() -> None:
    trials = [trial(k, values={"a": 1, "b": k}) for k in range(3)]
    assert list(value_charts(trials, "entropy")) == ["b"]


def test_a_logarithmic_axis_gives_every_decade_the_same_room() -> None:
    trials = [trial(k, values={"a.b": 10.0 ** (k - 4)}) for k in range(3)]

    def columns(logarithmic: list[str]) -> list[float]:
        """The columns of the three points' middles, from the left; the best is the last."""
        png = value_charts(trials, "neighbourhood_density", logarithmic)["b"]
        others = _pixels(png, OTHER)[:, 1]
        cut = (others.min() + others.max()) / 2
        return [others[others < cut].mean(), others[others > cut].mean(), _pixels(png, BEST)[:, 1].mean()]

    left, middle, right = columns(["a.b"])
    assert middle - left == pytest.approx(right - middle, rel=0.02)
    left, middle, right = columns([])
    assert (middle - left) / (right - left) == pytest.approx(0.09, abs=0.02)


@pytest.mark.parametrize(
    ("values", "bars"), [([1, 2, 3], 0), ([0.5, 1, 2], 0), ([True, False, False], 2), (["a", 2, "c"], 3)]
)
def test_numbers_are_an_axis_and_other_values_columns_with_means(values: list, bars: int) -> None:
    trials = [trial(k, values={"a": v}) for k, v in enumerate(values)]
    grey = _pixels(value_charts(trials, "neighbourhood_density")["a"], (154, 160, 166))
    rows, length = np.unique(grey[:, 0], return_counts=True)
    wide = rows[(length > 40) & (length < 250)]  # shorter than the axis itself
    assert (np.diff(wide, prepend=-9) > 1).sum() == bars
