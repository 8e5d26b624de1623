"""Charts of a search: each searched value against a criterion, the trials' curves, and criteria against target mIoU."""

from collections.abc import Collection, Sequence
from functools import partial
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from plca_dist.report.figure import COLOURS, GREY, render
from plca_dist.search.trials import LABELLED, SHORT, Trial, arrow, best, score, searched, short_keys
from plca_dist.training import metrics
from plca_dist.training.metrics import CRITERIA

_BEST, _OTHER = COLOURS[1], COLOURS[0]
_ROTATE_FROM = 48  # letters of all categories together
_FAINT = 0.35


def value_charts(trials: Sequence[Trial], criterion: str, logarithmic: Collection[str] = ()) -> dict[str, bytes]:
    """Title -> a PNG file, for each searched key that has more than one value: the value across, the score upwards.

    The best trial is in colour. Stopped trials, which were measured early, are faint. Failed trials are left out.
    Keys in `logarithmic` have a logarithmic axis.
    """
    drawn = {}
    leader = best(trials, criterion)
    scored = [t for t in trials if t.state != "failed" and score(t, criterion) is not None]
    keys = searched(trials)
    for key, short in zip(keys, short_keys(keys), strict=True):
        having = [t for t in scored if t.values.get(key) is not None]
        if len({str(t.values[key]) for t in having}) > 1:
            drawn[short] = render([partial(_values, having, key, short, criterion, leader, key in logarithmic)])
    return drawn


def curve_charts(trials: Sequence[Trial], criterion: str) -> dict[str, bytes]:
    """Title -> a PNG file: the criterion of all trials over their steps, and mIoU where known; the best in colour."""
    leader = best(trials, criterion)
    drawn = {}
    for name in dict.fromkeys((criterion, LABELLED)):
        key = CRITERIA[name].key
        if any(key in record for t in trials for record in t.curve):
            drawn[_title(name)] = render([partial(_curves, trials, key, name, leader)])
    return drawn


def agreement_charts(trials: Sequence[Trial]) -> dict[str, bytes]:
    """Title -> a PNG file, for each label-free criterion of finished trials: the criterion against target mIoU."""
    done = [t for t in trials if t.state == "finished" and score(t, LABELLED) is not None]
    drawn = {}
    for name, criterion in CRITERIA.items():
        points = [(x, y) for t in done if (x := score(t, name)) is not None and (y := score(t, LABELLED)) is not None]
        if points and not criterion.needs_labels:
            drawn[f"{SHORT[name]} and mIoU"] = render([partial(_agreement, name, points)])
    return drawn


def _values(
    trials: Sequence[Trial], key: str, short: str, criterion: str, leader: Trial | None, logarithmic: bool, axes: Axes
) -> None:
    values = [t.values[key] for t in trials]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    categories = list(dict.fromkeys(str(v) for v in values))
    for t in trials:
        x = float(t.values[key]) if numeric else float(categories.index(str(t.values[key])))
        y, ended = score(t, criterion), t.state == "finished"
        assert y is not None  # the caller passes scored trials only
        colour, alpha = _BEST if t == leader else _OTHER, 1 if ended else _FAINT
        axes.scatter([x], [y], s=30, color=colour, alpha=alpha, linewidths=0, zorder=2 + ended)
    if numeric:
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif all(isinstance(v, int) for v in values):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        _strip(trials, key, categories, criterion, axes)
    axes.set_title(short)
    axes.set_ylabel(_title(criterion))


def _strip(trials: Sequence[Trial], key: str, categories: Sequence[str], criterion: str, axes: Axes) -> None:
    """A column of points for each category, named below, with a bar at the mean of the column's finished trials."""
    for k, name in enumerate(categories):
        ended = [t for t in trials if str(t.values[key]) == name and t.state == "finished"]
        scores = [s for t in ended if (s := score(t, criterion)) is not None]
        if scores:
            axes.hlines(mean(scores), k - 0.25, k + 0.25, color=GREY, linewidth=1.6, zorder=1)
    turned = sum(map(len, categories)) > _ROTATE_FROM
    axes.set_xticks(
        range(len(categories)), categories, rotation=30 if turned else 0, ha="right" if turned else "center"
    )
    axes.set_xlim(-0.6, len(categories) - 0.4)
    axes.grid(axis="x", visible=False)


def _curves(trials: Sequence[Trial], key: str, name: str, leader: Trial | None, axes: Axes) -> None:
    for t in trials:
        points = [(r[metrics.STEP], r[key]) for r in t.curve if r.get(key) is not None]
        if not points:
            continue
        first = t == leader
        axes.plot(
            [step for step, _ in points],
            [value for _, value in points],
            color=_BEST if first else GREY,
            alpha=1 if first else 0.7 if t.state == "finished" else _FAINT,
            linewidth=2 if first else 1,
            zorder=3 if first else 2,
            marker="o",
            markersize=3.2 if first else 2.2,
            label=t.name if first else None,
        )
    axes.set_title(_title(name))
    axes.set_xlabel("step")
    if leader is not None:
        axes.legend(loc="best", handlelength=2.2)


def _agreement(name: str, points: Sequence[tuple[float, float]], axes: Axes) -> None:
    axes.scatter([x for x, _ in points], [y for _, y in points], s=30, color=_OTHER, linewidths=0)
    if CRITERIA[name].mode == "min":
        axes.invert_xaxis()  # the good end is on the right, as with the other criteria
    axes.set_title(_title(name))
    axes.set_ylabel("mIoU, %")


def _title(criterion: str) -> str:
    return ("mIoU, %" if criterion == LABELLED else SHORT[criterion]) + arrow(criterion)
