"""Curves: their sizes, which charts there are, and that they show the recorded values."""

import io
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from plca_dist.errors import UserError
from plca_dist.method.objective import LossTerms
from plca_dist.report import curves
from plca_dist.report.curves import charts, marks
from plca_dist.report.figure import CHART_SIZE
from plca_dist.run.history import Attempt, End
from plca_dist.training import metrics
from plca_dist.training.meter import _metric
from plca_dist.training.metrics import CRITERIA


def records(count: int) -> list[dict]:
    log: list[dict] = [
        {"step": 10 * i, "loss/total": 3.0 / i, "loss/cross_entropy": 2.0 / i, "consistent/feature": 0.01 * i}
        for i in range(1, count + 1)
    ]
    return [*log, {"step": 10 * count, "miou": 40.0, "miou_aggregated": float("nan")}]


RUNS = {"source-only": [{"step": 10, "loss/total": 2.0, "miou": 20.0}], "PLCA $x": records(100)}


def size(data: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image.size


def test_there_is_a_chart_for_what_was_recorded() -> None:
    drawn = charts(RUNS)
    assert list(drawn) == ["mIoU, %", "consistent cycles, %", "total loss", "cross-entropy"]
    assert {size(data) for data in drawn.values()} == {CHART_SIZE}
    assert charts({"new": []}) == {}


def test_every_criterion_has_its_chart() -> None:
    points = [{"step": s, **{c.key: s / 100 for c in CRITERIA.values()}} for s in (10, 20)]
    assert list(charts({"PLCA": points})) == [
        "mIoU, %",
        "neighbourhood density on the target, nats",
        "entropy on the target, % of its largest",
        "consistent cycles on whole images, %",
    ]
    drawn = {key for chart in curves._CHARTS for key in chart.series}
    assert {c.key for c in CRITERIA.values()} <= drawn
    axes = Figure().add_subplot()
    curves._draw(
        axes, next(c for c in curves._CHARTS if c.title.startswith("consistent cycles on")), {"PLCA": points}, {}
    )
    assert [line.get_label() for line in axes.get_lines()] == ["PLCA, feature", "PLCA, prediction"]
    for line in axes.get_lines():
        np.testing.assert_allclose(line.get_xydata(), [[10, 10], [20, 20]])


@pytest.mark.parametrize(("columns", "grid"), [(3, (3, 2)), (2, (2, 2)), (9, (4, 1))])
def test_all_curves_in_one_picture(columns: int, grid: tuple[int, int]) -> None:
    assert size(curves.curves(RUNS, columns=columns)) == (grid[0] * CHART_SIZE[0], grid[1] * CHART_SIZE[1])
    assert plt.get_fignums() == []


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(UserError, match=r"no curves to draw: a, b has no records yet"):
        curves.curves({"a": [], "b": [{"step": 1}]})


def test_lines_are_the_records_in_the_chart_s_unit() -> None:
    axes = Figure().add_subplot()
    chart = next(c for c in curves._CHARTS if c.factor == 100)
    curves._draw(axes, chart, {"PLCA": records(5)}, {})
    (line,) = axes.get_lines()
    assert line.get_label() == "PLCA, feature"
    np.testing.assert_allclose(line.get_xydata(), [[10 * i, 1.0 * i] for i in range(1, 6)])


def test_many_records_are_faint_under_their_running_mean() -> None:
    axes = Figure().add_subplot()
    chart = next(c for c in curves._CHARTS if c.title == "total loss")
    curves._draw(axes, chart, {"PLCA": records(200)}, {})
    raw, smooth = axes.get_lines()
    assert raw.get_alpha() < 0.5
    np.testing.assert_allclose(raw.get_ydata(), 3.0 / np.arange(1, 201))
    values = 3.0 / np.arange(1, 201)
    wanted = [values[max(i - 5, 0) : i + 6].mean() for i in range(200)]
    np.testing.assert_allclose(smooth.get_ydata(), wanted)


def test_every_quantity_that_training_logs_is_drawn() -> None:
    logged = {metrics.MIOU, metrics.MIOU_AGGREGATED, metrics.LEARNING_RATE, metrics.PAIRS_PER_SECOND, metrics.DATA_WAIT}
    logged |= {_metric(term) for term in LossTerms._fields}
    assert logged <= {key for chart in curves._CHARTS for key in chart.series}


def attempt(launch: int, step: int, end: End | Literal[""]) -> Attempt:
    return Attempt(launch, 0.0, step, 2, {}, 1.0, step + 5, end)


HISTORY = [
    attempt(1, 0, "restarted"), attempt(1, 10, "failed"), attempt(1, 10, "left"), attempt(1, 20, "preempted"),
    attempt(2, 30, ""), attempt(3, 40, "interrupted"), attempt(4, 50, "preempted"), attempt(4, 60, "finished"),
]  # fmt: skip


def test_an_attempt_is_marked_by_why_there_was_another() -> None:
    whys = ["restart", "restart", "resize", "preemption", "new launch", "new launch", "preemption"]
    assert marks(HISTORY) == list(zip([10, 10, 20, 30, 40, 50, 60], whys, strict=True))
    assert marks(HISTORY[:1]) == marks([]) == []


def test_marks_are_lines_at_their_steps_with_a_legend() -> None:
    axes = Figure().add_subplot()
    chart = next(c for c in curves._CHARTS if c.title == "total loss")
    two = {"a": records(6), "b": records(6)}
    curves._draw(axes, chart, two, {"b": marks(HISTORY[:2]), "gone": marks(HISTORY)})
    lines = {line.get_label(): line for line in axes.get_lines()}
    (mark,) = [line for line in lines.values() if set(np.ravel(line.get_xdata())) == {10}]
    assert mark.get_color() == lines["b"].get_color()
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["a", "b", "restart"]
    assert axes.get_xlim()[0] == 0
