"""IoU per class in percent, as the paper prints it: a row for each class, then the means; scores are columns.

A *score* is one entry of `evaluation.json`'s `scores`: `{"aggregation", "miou", "means", "iou", "absent", …}` (see
`training.scores.Score`). A class that occurs neither in the truth nor in a prediction has no IoU. It is shown as a
dash and named under the table, because the means are taken without it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any, TypeGuard

from plca_dist.data.labels import LabelSet
from plca_dist.errors import UserError
from plca_dist.method.published import CLASSES, PUBLISHED
from plca_dist.training.evaluation import UNLABELLED

ScoreDict = Mapping[str, Any]
ABSENT = "–"
#: The column of the paper's own numbers.
PAPER = "paper (ResNet-101)"


@dataclass(frozen=True)
class Table:
    """A table of texts. The first cell of a row is its name. `means` are rows, set apart below the others."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    means: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()

    def as_text(self) -> str:
        """The table for a terminal: names flush left, numbers flush right, a rule above the means."""
        widths = [max(map(len, cells)) for cells in zip(self.head, *self.rows, *self.means, strict=True)]

        def line(cells: tuple[str, ...]) -> str:
            name, *numbers = cells
            padded = [name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(numbers, widths[1:], strict=True))]
            return "  ".join(padded).rstrip()

        rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
        means = [rule, *map(line, self.means)] if self.means else []
        rows = [line(self.head), rule, *map(line, self.rows), *means, *self.notes]
        return "\n".join(rows) + "\n"


def tabulate(
    columns: Mapping[str, ScoreDict],
    labels: LabelSet,
    difference: tuple[str, str] | None = None,
    paper: ScoreDict | None = None,
) -> Table:
    """The scores of one label set side by side.

    Args:
        columns: title -> score, e.g. "source-only", "PLCA".
        labels: the label set of the scores; gives the order of the rows.
        difference: (before, after): adds a column of after − before in points, from the unrounded values.
        paper: adds a last column, of published numbers (see `published`).

    Raises:
        UserError: a score of another label set, or no score at all.
        KeyError: `difference` names no column.
    """
    if not columns:
        raise UserError("no scores to tabulate: evaluate a run first.")
    for title, score in columns.items():
        foreign = set(score["iou"]) ^ set(labels.classes)
        if foreign:
            raise UserError(
                f"the score {title!r} is not of label set {labels.name!r}: they differ in "
                f"{', '.join(sorted(foreign))}; evaluate it with the label set of the others."
            )

    def row(name: str, value_of: Mapping[str, float | None]) -> tuple[str, ...]:
        cells = [name, *(percent(value_of[title]) for title in columns)]
        if difference:
            cells.append(points(value_of[difference[0]], value_of[difference[1]]))
        return (*cells, percent(value_of[PAPER])) if paper else tuple(cells)

    every = {**columns, **({PAPER: paper} if paper else {})}
    classes = tuple(row(c, {t: s["iou"][c] for t, s in every.items()}) for c in labels.classes)
    means = tuple(row(name, {t: mean_of(s, name) for t, s in every.items()}) for name in ("mIoU", *labels.averages))
    notes = _absent_notes(columns, labels)
    if difference and len(columns) > 2:
        notes.append(f"difference: {difference[1]} against {difference[0]}")
    if paper:
        notes.append(paper["note"])
    head = ("class", *columns, *(("difference",) if difference else ()), *((PAPER,) if paper else ()))
    return Table(head, classes, means, tuple(notes))


def published(labels: LabelSet) -> ScoreDict | None:
    """The paper's IoU of PLCA from GTAV or from SYNTHIA, whichever has these classes, with a note that names it.

    Means over fewer classes are taken over the published classes. None for other label sets.
    """
    for dataset, iou in CLASSES.items():
        if tuple(iou) == labels.classes:
            means = {name: mean(iou[labels.classes[k]] for k in of) for name, of in labels.means.items()}
            note = f"{PAPER}: PLCA, {dataset.upper()} to Cityscapes, as published with aggregation"
            if means:
                note += f"; {' and '.join(means)} are of its classes"
            return {"iou": iou, "miou": PUBLISHED["plca"][dataset], "means": means, "note": note}
    return None


def class_table(
    columns: Mapping[str, ScoreDict], labels: LabelSet, *, difference: tuple[str, str] | None = None
) -> str:
    """`tabulate` as plain text for a terminal; ends with a newline."""
    return tabulate(columns, labels, difference).as_text()


def outcome_table(evaluation: Mapping[str, Any]) -> str:
    """The scores of one evaluation as text: without aggregation and with it, then an averaged teacher's."""
    columns = {f"λ = {score['aggregation']:g}": score for score in evaluation["scores"]}
    for score in evaluation.get("teacher", {"scores": []})["scores"]:
        columns[f"teacher, λ = {score['aggregation']:g}"] = score
    score = evaluation["scores"][0]
    means: dict[str, tuple[int, ...]] = dict.fromkeys(score["means"], ())
    return class_table(columns, LabelSet(evaluation["labels"], tuple(score["iou"]), (), means))


def score_columns(evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, ScoreDict]:
    """Columns from the `evaluation.json` of runs: "PLCA", and "PLCA, λ = 0.5" for the score with aggregation.

    Behind them those of its averaged teacher, where it has one: "PLCA, teacher", and so on.
    """
    columns = {}
    for name, evaluation in evaluations.items():
        teacher = evaluation.get("teacher", {"scores": []})
        for title, scores in ((name, evaluation["scores"]), (f"{name}, teacher", teacher["scores"])):
            for score in scores:
                ratio = score["aggregation"]
                columns[f"{title}, λ = {ratio:g}" if ratio else title] = score
    return columns


def mean_of(score: ScoreDict, name: str) -> float | None:
    """The mean of this name in percent: "mIoU" (all classes), or one of the label set's `means`; None: no score."""
    return score["miou"] if name == "mIoU" else score["means"][name]


def percent(value: float | None) -> str:
    """One decimal, or a dash where there is no value."""
    return f"{value:.1f}" if _known(value) else ABSENT


def points(before: float | None, after: float | None) -> str:
    """after − before with its sign and one decimal, or a dash where one of them has no value."""
    if not (_known(before) and _known(after)):
        return ABSENT
    text = f"{after - before:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)


def _absent_notes(columns: Mapping[str, ScoreDict], labels: LabelSet) -> list[str]:
    empty = [t for t, s in columns.items() if s["miou"] is None]
    if empty:
        notes = [f"{ABSENT} no score, because {UNLABELLED}: {', '.join(empty)}"]
        scored = {t: s for t, s in columns.items() if t not in empty}
        return notes + (_absent_notes(scored, labels) if scored else [])
    where = {c: [t for t, s in columns.items() if s["iou"][c] is None] for c in labels.classes}
    missing = {c: titles for c, titles in where.items() if titles}
    if not missing:
        return []
    uneven = any(len(titles) < len(columns) for titles in missing.values())
    names = [c if len(t) == len(columns) else f"{c} ({', '.join(t)})" for c, t in missing.items()]
    notes = [f"{ABSENT} absent from truth and prediction, left out of the means: {', '.join(names)}"]
    if uneven:
        notes.append("the columns' means are over different classes")
    return notes
