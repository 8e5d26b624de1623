"""Curves of one or several runs over their steps, from the records of `metrics.jsonl`.

Each quantity has a small chart of its own, because the terms of the loss differ by orders of magnitude. A run has the
same colour in all charts. Many records are drawn faintly under their running mean. A vertical line marks the start of
an attempt other than the first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from plca_dist.errors import UserError
from plca_dist.report.figure import COLOURS, GREY, render
from plca_dist.run.history import Attempt
from plca_dist.training import metrics

Records = Sequence[Mapping[str, Any]]

_SMOOTH_FROM = 60  # records
_NAME_LETTERS = 24  # of a run's name, in a legend
#: Reason for another attempt -> dashes of its line.
_DASHES: dict[str, Any] = {
    "preemption": (0, (5, 2)), "restart": (0, (1, 1.2)), "resize": (0, (5, 2, 1, 2)), "new launch": "-",
}  # fmt: skip


class Mark(NamedTuple):
    """The step from which an attempt at a run began, and the reason for it: a key of `_DASHES`."""

    step: int
    why: str


@dataclass(frozen=True)
class Chart:
    """One chart of up to two series.

    Attributes:
        series: record key -> name in the legend, "" for a single series.
        factor: from the record's unit to the chart's.
        marks: whether each record gets a point, as suits a quantity that is measured seldom.
    """

    title: str
    series: Mapping[str, str]
    factor: float = 1.0
    marks: bool = False


_CHARTS = (
    Chart(
        "mIoU, %",
        {metrics.MIOU: "plain", metrics.MIOU_AGGREGATED: "with aggregation", metrics.TEACHER_MIOU: "teacher"},
        marks=True,
    ),
    Chart(
        "consistent cycles, %",
        {f"{metrics.CONSISTENT_PREFIX}feature": "feature", f"{metrics.CONSISTENT_PREFIX}prediction": "prediction"},
        factor=100,
    ),
    Chart("neighbourhood density on the target, nats", {metrics.DENSITY: ""}, marks=True),
    Chart("entropy on the target, % of its largest", {metrics.ENTROPY: ""}, factor=100, marks=True),
    Chart(
        "consistent cycles on whole images, %",
        {metrics.CYCLES_FEATURE: "feature", metrics.CYCLES_PREDICTION: "prediction"},
        factor=100,
        marks=True,
    ),
    Chart("total loss", {metrics.TOTAL_LOSS: ""}),
    Chart("cross-entropy", {f"{metrics.LOSS_PREFIX}cross_entropy": ""}),
    Chart("Lovász-softmax", {f"{metrics.LOSS_PREFIX}lovasz": ""}),
    Chart(
        "association loss",
        {f"{metrics.LOSS_PREFIX}feature": "feature", f"{metrics.LOSS_PREFIX}prediction": "prediction"},
    ),
    Chart(
        "adaptive label smoothing",
        {f"{metrics.LOSS_PREFIX}smoothing_source": "source", f"{metrics.LOSS_PREFIX}smoothing_target": "target"},
    ),
    Chart(
        "self-training",
        {
            f"{metrics.LOSS_PREFIX}class_mix": "class-mix",
            f"{metrics.LOSS_PREFIX}masked_consistency": "masked",
            f"{metrics.LOSS_PREFIX}pseudo_labels": "in rounds",
        },
    ),
    Chart("pseudo-labels that count, %", {metrics.CONFIDENT: "teacher", metrics.LABELLED: "rounds"}, factor=100),
    Chart("entropy of the target's crops", {f"{metrics.LOSS_PREFIX}entropy": ""}),
    Chart("maximum squares", {f"{metrics.LOSS_PREFIX}max_square": ""}),
    Chart(
        "adversarial",
        {f"{metrics.LOSS_PREFIX}adversarial": "segmenter", f"{metrics.LOSS_PREFIX}discriminator": "discriminator"},
    ),
    Chart("distance to the starting features", {f"{metrics.LOSS_PREFIX}feature_distance": ""}),
    Chart("learning rate", {metrics.LEARNING_RATE: ""}),
    Chart("pairs per second", {metrics.PAIRS_PER_SECOND: ""}),
    Chart("data wait, % of the time", {metrics.DATA_WAIT: ""}, factor=100),
)


def marks(attempts: Sequence[Attempt]) -> list[Mark]:
    """A mark for each attempt but the first."""
    return [Mark(after.step, _why(before, after)) for before, after in pairwise(attempts)]


def _why(before: Attempt, after: Attempt) -> str:
    if before.end == "preempted":
        return "preemption"
    if before.launch != after.launch:
        return "new launch"
    return "resize" if before.end == "left" else "restart"


def charts(runs: Mapping[str, Records], marked: Mapping[str, Sequence[Mark]] | None = None) -> dict[str, bytes]:
    """Title -> a PNG file of `CHART_SIZE`, for every quantity that any of the runs has.

    Args:
        runs: title of a run -> its records.
        marked: title of a run -> its marks.
    """
    return {c.title: render([partial(_draw, chart=c, runs=runs, marked=marked or {})]) for c in _present(runs)}


def curves(
    runs: Mapping[str, Records], marked: Mapping[str, Sequence[Mark]] | None = None, *, columns: int = 3
) -> bytes:
    """All charts in one PNG file, `columns` beside each other, each of `CHART_SIZE`; arguments as of `charts`.

    Raises UserError where there is nothing to draw yet.
    """
    present = _present(runs)
    if not present:
        raise UserError(
            f"no curves to draw: {', '.join(runs) or 'no run'} has no records yet; they come every log.every steps."
        )
    drawn = [partial(_draw, chart=c, runs=runs, marked=marked or {}) for c in present]
    return render(drawn, columns=min(columns, len(present)))


def _present(runs: Mapping[str, Records]) -> list[Chart]:
    keys = {key for records in runs.values() for record in records for key in record}
    return [chart for chart in _CHARTS if keys & set(chart.series)]


def _draw(axes: Axes, chart: Chart, runs: Mapping[str, Records], marked: Mapping[str, Sequence[Mark]]) -> None:
    axes.set_title(chart.title)
    axes.set_xlabel("step")
    for k, (name, records) in enumerate(runs.items()):
        ink = COLOURS[k % len(COLOURS)]
        for (key, variant), dash, shape in zip(chart.series.items(), ("-", (0, (3, 1.5))), "o^", strict=False):
            steps, values = _series(records, key)
            if not len(steps):
                continue
            label = ", ".join(filter(None, [_short(name), variant]))
            mark = shape if chart.marks or len(values) == 1 else None  # a line of one point would not show
            values = values * chart.factor
            if len(values) >= _SMOOTH_FROM and not chart.marks:
                axes.plot(steps, values, color=ink, alpha=0.22, linewidth=0.8)
                values = _running_mean(values)
            axes.plot(steps, values, color=ink, linestyle=dash, label=label, marker=mark, markersize=3.2)
        for step, why in marked.get(name, ()):
            axes.axvline(step, color=ink if len(runs) > 1 else GREY, linestyle=_DASHES[why], linewidth=0.9, zorder=1)
    axes.margins(x=0.02)
    axes.set_xlim(left=0)
    whys = {mark.why for name in runs for mark in marked.get(name, ())}
    lines = [Line2D([], [], color=GREY, linestyle=d, linewidth=0.9, label=w) for w, d in _DASHES.items() if w in whys]
    axes.legend(handles=[*axes.get_legend_handles_labels()[0], *lines], loc="best", handlelength=2.2)


def _short(name: str) -> str:
    """The end of a long name: a legend must leave room for the lines, and names mostly differ at their ends."""
    return name if len(name) <= _NAME_LETTERS else f"…{name[-_NAME_LETTERS:]}"


def _series(records: Iterable[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    points = np.array([(r[metrics.STEP], r[key]) for r in records if key in r], dtype=np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _running_mean(values_N: np.ndarray) -> np.ndarray:
    """The mean over a window that reaches 2.5 % of the run to either side. At the ends the window is cut off."""
    reach = max(len(values_N) // 40, 1)
    window = np.ones(2 * reach + 1)
    padded_N, present_N = np.pad(values_N, reach), np.pad(np.ones(len(values_N)), reach)
    return np.convolve(padded_N, window, "valid") / np.convolve(present_N, window, "valid")
