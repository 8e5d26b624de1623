"""`plca report`: runs, finished or not, as one page that needs no network, with its pictures as PNG files beside it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plca_dist.config import Config
from plca_dist.data.labels import LabelSet, label_set
from plca_dist.data.prepare import Progress
from plca_dist.errors import UserError
from plca_dist.launch import pictures
from plca_dist.launch.pictures import Looks, Subject
from plca_dist.launch.run import RECIPE, SPACE
from plca_dist.recipe import parse
from plca_dist.report import page
from plca_dist.report.curves import charts, curves, marks
from plca_dist.report.facts import differences, facts
from plca_dist.report.panels import legend, panel_rows, png
from plca_dist.report.tables import published, score_columns
from plca_dist.storage import Store, probe
from plca_dist.training.commits import FOLDER, committed
from plca_dist.training.history import Attempt, read_history
from plca_dist.training.journal import METRICS, read_records
from plca_dist.training.metrics import STEP
from plca_dist.training.session import Record
from plca_dist.training.worker import EVALUATION, WEIGHTS

PAGE, CURVES, PANELS, LEGEND = "index.html", "curves.png", "panels.png", "legend.png"
_FOLDER = "report"


@dataclass(frozen=True)
class Reported:
    """A run as far as it has come. `weights`: their place, of the result or of the newest checkpoint; "" for none."""

    title: str
    store: Store
    config: Config
    records: Sequence[Record]
    evaluation: Mapping[str, Any]
    history: Sequence[Attempt]
    weights: str

    @property
    def finished(self) -> bool:
        return self.weights == self.store.uri

    @property
    def missing(self) -> Iterator[str]:
        """What the run has not got yet."""
        reached, steps = max((r[STEP] for r in self.records), default=0), self.config.schedule.steps
        if not self.finished:
            shown = f"; pictures are of {self.weights.rpartition('/')[2]}" if self.weights else ""
            yield f"{self.title} is not finished: its records go to step {reached} of {steps}{shown}."
        if not self.records:
            yield f"{self.title} has no records yet, hence no curves."
        if "scores" not in self.evaluation:
            none = self.config.evaluation.uri is None
            yield f"{self.title} has no mIoU" + (": its recipe has no evaluation.uri." if none else " yet.")


def report(
    places: Sequence[str],
    out: str | None,
    looks: Looks,
    progress: Progress,
    *,
    titles: Sequence[str] = (),
    heading: str = "",
    lead: str = "",
) -> list[str]:
    """Write the page about the runs at `places`, and its pictures beside it.

    Args:
        places: directories or URIs of runs, in the order of the columns; the last is the one that images are chosen
            by, and differences are from the first to it.
        out: a directory or URI; None: `report` in the run, or where this process stands for several runs.
        looks: how pictures are made; no images, no pictures.
        progress: called with (what, images done, images in all).
        titles: of the runs; none given: their names, with what tells them apart.

    Returns:
        The URIs of what was written, the page first.

    Raises:
        UserError: a place without a run, one given twice, runs of several label sets, or data that was asked for and
            cannot be had. Where it is the recipe's data that is away, the page says so.
    """
    runs = read_runs(places, looks.endpoint, titles)
    labels = _labels(runs)
    target = probe(out or _FOLDER, looks.endpoint) if out or len(runs) > 1 else runs[0].store.child(_FOLDER)
    missing = [line for run in runs for line in run.missing]
    panels, chosen, others = _pictures(runs, labels, looks, progress, missing) if looks.images else ([], "", [])
    records, marked = {r.title: r.records for r in runs}, {r.title: marks(r.history) for r in runs}
    text = page.page(
        heading or ("run " if len(runs) == 1 else "") + ", ".join(run.title for run in runs),
        runs=[page.Run(r.title, facts(r.config, r.records, r.evaluation, r.history), r.history) for r in runs],
        scores=_scores(runs, labels),
        panels=panels,
        chosen=chosen,
        legend=labels,
        pictures=others,
        curves=charts(records, marked),
        differences=differences({run.title: run.config for run in runs}),
        missing=missing,
        lead=lead or runs[-1].config.about.summary,
    )
    files = {PAGE: text.encode()}
    if any(records.values()):
        files[CURVES] = curves(records, marked)
    if panels:
        files |= {PANELS: png(panel_rows([p.columns for p in panels])), LEGEND: png(legend(labels))}
    for k, picture in enumerate(others, 1):
        files[f"{picture.section.lower().replace(' ', '-')}-{k}.png"] = picture.png
    for name, data in files.items():
        target.write(name, data)
    return [f"{target.uri}/{name}" for name in files]


def read_runs(places: Sequence[str], endpoint: str | None, titles: Sequence[str] = ()) -> list[Reported]:
    """What the runs have left so far. Raises UserError as `report` does."""
    stores = [probe(place.rstrip("/") or "/", endpoint) for place in places]
    uris = [store.uri for store in stores]
    for uri in uris:
        if uris.count(uri) > 1:
            raise UserError(f"{uri} is given twice; a run has one column.")
    return [_read(store, title) for store, title in zip(stores, titles or names(uris), strict=True)]


def _read(run: Store, title: str) -> Reported:
    if run.exists(SPACE):
        raise UserError(f"{run.uri} is a search; its page is {run.uri}/{PAGE}, and its runs are in {run.uri}/trials.")
    if not run.exists(RECIPE):
        raise UserError(f"{run.uri} is no run: it holds no {RECIPE}; give a run's directory.")
    weights = run.uri
    if not run.exists(WEIGHTS):
        newest = next(iter(committed(run)), None)
        weights = f"{run.uri}/{FOLDER}/{newest.name}" if newest else ""
    return Reported(
        title,
        run,
        parse(run.read(RECIPE).decode(), where=f"{run.uri}/{RECIPE}"),
        _whole(run, METRICS, lambda: read_records(run)) or [],
        _whole(run, EVALUATION, lambda: json.loads(run.read(EVALUATION))) or {},
        read_history(run),
        weights,
    )


def _whole(run: Store, file: str, read: Callable[[], Any]) -> Any:
    """What `read` makes of a file that may not be there yet."""
    if not run.exists(file):
        return None
    try:
        return read()
    except ValueError as error:
        raise UserError(f"{run.uri}/{file} is damaged: {error}; take it away to have the rest reported.") from error


def names(uris: Sequence[str]) -> list[str]:
    """The last parts of different URIs: as many as it takes to tell them apart."""
    parts = [uri.rstrip("/").split("/") for uri in uris]
    for depth in range(1, max(map(len, parts))):
        found = ["/".join(p[-depth:]) for p in parts]
        if len(set(found)) == len(uris):
            return found
    return list(uris)


def _labels(runs: Sequence[Reported]) -> LabelSet:
    if len({run.config.labels for run in runs}) > 1:
        sets = ", ".join(f"{run.title} ({run.config.labels})" for run in runs)
        raise UserError(f"runs of different label sets cannot stand side by side: {sets}; report them one by one.")
    return label_set(runs[0].config.labels)


def _scores(runs: Sequence[Reported], labels: LabelSet) -> list[page.Scores]:
    evaluations = {run.title: run.evaluation for run in runs if "scores" in run.evaluation}
    if not evaluations:
        return []
    ends = (runs[0].title, runs[-1].title)
    compared = len(runs) > 1 and evaluations.keys() >= set(ends)
    columns = score_columns(evaluations)
    return [page.Scores(labels, columns, ends if compared else None, paper=published(labels))]


def _pictures(
    runs: Sequence[Reported], labels: LabelSet, looks: Looks, progress: Progress, missing: list[str]
) -> tuple[list[page.Panel], str, list[page.Picture]]:
    """What can be had of them, and which images it is of; `missing` gets a line for what cannot."""
    subjects = [Subject(run.title, run.config, run.weights) for run in runs if run.weights]
    if not subjects:
        missing.append("no pictures: there are no weights yet.")
        return [], "", []
    panels, chosen, target = [], "", None
    try:
        data, candidates = pictures.labelled_data(subjects[-1], labels, looks)
        found = pictures.scores(subjects[-1], data, candidates, looks, progress)
        panels = pictures.panels(subjects, data, found, labels, looks, progress)
        chosen = (
            f"The worst and the best of {candidates} images of {data} by the mIoU of {subjects[-1].title}, "
            f"{f'with aggregation λ = {looks.aggregation:g}' if looks.aggregation else 'without aggregation'}."
        )
        target = pictures.image_at(data, pictures.typical(found), labels, looks)
    except UserError as error:
        if looks.data:
            raise
        missing.append(f"no predictions: {error}")
    first_and_last = [*subjects[:-1][:1], subjects[-1]]
    try:
        return panels, chosen, pictures.associations(first_and_last, labels, target, looks, progress)
    except UserError as error:
        missing.append(f"no pictures of associations: {error}")
        return panels, chosen, []
