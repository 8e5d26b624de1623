"""Curves of one or several runs over their steps, from the records of `metrics.jsonl`.

One small chart per quantity rather than many lines in one: the terms of the loss differ by orders of magnitude. A run
has one colour in all charts. Where there are many records, they are drawn faintly under their running mean.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from plca_dist.errors import UserError
from plca_dist.report.figure import COLOURS, render
from plca_dist.training import metrics

Records = Sequence[Mapping[str, Any]]

_SMOOTH_FROM = 60  # records


@dataclass(frozen=True)
class Chart:
    """One chart: what is drawn (record key -> what distinguishes it in the legend, "" if nothing) and its factor."""

    title: str
    series: Mapping[str, str]
    factor: float = 1.0
    marks: bool = False


_CHARTS = (
    Chart("mIoU, %", {metrics.MIOU: "plain", metrics.MIOU_AGGREGATED: "with aggregation"}, marks=True),
    Chart(
        "consistent cycles, %",
        {f"{metrics.CONSISTENT_PREFIX}feature": "feature", f"{metrics.CONSISTENT_PREFIX}prediction": "prediction"},
        factor=100,
    ),
    Chart("soft neighbourhood density on the target, nats", {metrics.DENSITY: ""}, marks=True),
    Chart("entropy of predictions on the target, % of its largest", {metrics.ENTROPY: ""}, factor=100, marks=True),
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
    Chart("pairs per second", {metrics.PAIRS_PER_SECOND: ""}),
)


def charts(runs: Mapping[str, Records]) -> dict[str, bytes]:
    """A PNG of `CHART_SIZE` for every quantity that any of the runs has, by its title."""
    return {c.title: render([partial(_draw, chart=c, runs=runs)]) for c in _present(runs)}


def curves(runs: Mapping[str, Records], *, columns: int = 3) -> bytes:
    """All charts in one PNG, `columns` beside each other; every chart takes `CHART_SIZE`.

    Raises UserError where there is nothing to draw yet.
    """
    present = _present(runs)
    if not present:
        raise UserError(
            f"no curves to draw: {', '.join(runs) or 'no run'} has no records yet; they come every log.every steps."
        )
    return render([partial(_draw, chart=c, runs=runs) for c in present], columns=min(columns, len(present)))


def _present(runs: Mapping[str, Records]) -> list[Chart]:
    keys = {key for records in runs.values() for record in records for key in record}
    return [chart for chart in _CHARTS if keys & set(chart.series)]


def _draw(axes: Axes, chart: Chart, runs: Mapping[str, Records]) -> None:
    axes.set_title(chart.title)
    axes.set_xlabel("step")
    for k, (name, records) in enumerate(runs.items()):
        ink = COLOURS[k % len(COLOURS)]
        for (key, variant), dash in zip(chart.series.items(), ("-", (0, (3, 1.5))), strict=False):
            steps, values = _series(records, key)
            if not len(steps):
                continue
            label = ", ".join(filter(None, [name, variant]))
            mark = "o" if chart.marks or len(values) == 1 else None  # a line of one point would not show
            values = values * chart.factor
            if len(values) >= _SMOOTH_FROM and not chart.marks:
                axes.plot(steps, values, color=ink, alpha=0.22, linewidth=0.8)
                values = _running_mean(values)
            axes.plot(steps, values, color=ink, linestyle=dash, label=label, marker=mark, markersize=3.2)
    axes.margins(x=0.02)
    axes.legend(loc="best", handlelength=2.2)


def _series(records: Iterable[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    points = np.array([(r[metrics.STEP], r[key]) for r in records if key in r], dtype=np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _running_mean(values_N: np.ndarray) -> np.ndarray:
    """The mean of the neighbours within 2.5 % of the run on either side; at the ends, of those that exist."""
    reach = max(len(values_N) // 40, 1)
    window = np.ones(2 * reach + 1)
    padded_N, present_N = np.pad(values_N, reach), np.pad(np.ones(len(values_N)), reach)
    return np.convolve(padded_N, window, "valid") / np.convolve(present_N, window, "valid")
