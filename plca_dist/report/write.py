"""`plca report`: runs, finished or not, as one page that needs no network, with its pictures as PNG files beside it."""

import re
from collections.abc import Sequence
from itertools import groupby

from plca_dist.data.colours import png
from plca_dist.data.labels import LabelSet, label_set
from plca_dist.data.prepare import Progress
from plca_dist.errors import RunFailed, UserError
from plca_dist.inference.load import load_trained
from plca_dist.report import page, pictures
from plca_dist.report.curves import charts, curves, marks
from plca_dist.report.facts import differences, facts
from plca_dist.report.panels import legend, panel_rows
from plca_dist.report.pictures import PictureOptions, Subject
from plca_dist.report.read import RunRecord, read_runs
from plca_dist.report.tables import published, score_columns
from plca_dist.run_files import PAGE, REPORT
from plca_dist.storage import Store, probe

CURVES, PANELS, LEGEND = "curves.png", "panels.png", "legend.png"
#: The last line of a page: what belongs to it, so that the next report there takes away what it does not replace.
_BESIDE = re.compile(r"<!-- beside: ((?:[a-z0-9-]+\.png )*)-->\n\Z")


def report(
    places: Sequence[str],
    out: str | None,
    options: PictureOptions,
    progress: Progress,
    *,
    titles: Sequence[str] = (),
    heading: str = "",
    lead: str = "",
) -> list[str]:
    """Write the page about the runs at `places`, and its pictures beside it, instead of the last report's there.

    Args:
        places: directories or URIs of runs, in the order of the columns; the last is the one that images are chosen
            by, and differences are from the first to it.
        out: a directory or URI; None: `report` in the run, or where this process stands for several runs.
        options: how pictures are made; no images, no pictures.
        progress: called with (what, images done, images in all).
        titles: of the runs; none given: their names, with what tells them apart.

    Returns:
        The URIs of what was written, the page first.

    Raises:
        UserError: a place without a run, one given twice, runs of several label sets, or data that was asked for and
            cannot be had, or that no image is wanted of. Where it is the recipe's data that is away, the page says so.
        RunFailed: a worker was lost that scored data that was asked for. Of the recipe's data, the page says so.
    """
    if options.data and not options.images:
        raise UserError(
            f"{options.data} is data for pictures, and no images are wanted; leave out --data or --images 0."
        )
    runs = read_runs(places, options.endpoint, titles)
    labels = _labels(runs)
    target = probe(out or REPORT, options.endpoint) if out or len(runs) > 1 else runs[0].store.child(REPORT)
    missing = [line for run in runs for line in run.missing]
    panels, chosen, others = _pictures(runs, labels, options, progress, missing) if options.images else ([], "", [])
    records, marked = {r.title: r.records for r in runs}, {r.title: marks(r.history) for r in runs}
    drawn = charts(records, marked)
    files: dict[str, bytes] = {}
    if drawn:
        files[CURVES] = curves(records, marked)
    if panels:
        files |= {PANELS: png(panel_rows([p.columns for p in panels])), LEGEND: png(legend(labels))}
    for section, group in groupby(others, lambda picture: picture.section):
        files |= {f"{section.lower().replace(' ', '-')}-{k}.png": picture.png for k, picture in enumerate(group, 1)}
    text = page.page(
        heading or ("run " if len(runs) == 1 else "") + ", ".join(run.title for run in runs),
        runs=[page.RunSummary(r.title, facts(r.config, r.records, r.evaluation, r.history), r.history) for r in runs],
        scores=_scores(runs, labels),
        panels=panels,
        chosen=chosen,
        legend=labels,
        pictures=others,
        curves=drawn,
        differences=differences({run.title: run.config for run in runs}),
        missing=missing,
        lead=lead or runs[-1].config.about.summary,
        beside=list(files),
    )
    former = _beside(target)
    files = {PAGE: text.encode(), **files}
    for name, data in files.items():
        target.write(name, data)
    for name in sorted(former - files.keys()):
        target.delete(name)
    return [f"{target.uri}/{name}" for name in files]


def _beside(target: Store) -> set[str]:
    """The pictures of the report that is at `target`, as its page names them; none where there is no such page."""
    if not target.exists(PAGE):
        return set()
    found = _BESIDE.search(target.read(PAGE).decode(errors="replace"))
    return set(found[1].split()) if found else set()


def _labels(runs: Sequence[RunRecord]) -> LabelSet:
    if len({run.config.labels for run in runs}) > 1:
        sets = ", ".join(f"{run.title} ({run.config.labels})" for run in runs)
        raise UserError(f"runs of different label sets cannot stand side by side: {sets}; report them one by one.")
    return label_set(runs[0].config.labels)


def _scores(runs: Sequence[RunRecord], labels: LabelSet) -> list[page.ScoreTable]:
    evaluations = {run.title: run.evaluation for run in runs if "scores" in run.evaluation}
    if not evaluations:
        return []
    ends = (runs[0].title, runs[-1].title)
    compared = len(runs) > 1 and evaluations.keys() >= set(ends)
    columns = score_columns(evaluations)
    return [page.ScoreTable(labels, columns, ends if compared else None, paper=published(labels))]


def _pictures(
    runs: Sequence[RunRecord], labels: LabelSet, options: PictureOptions, progress: Progress, missing: list[str]
) -> tuple[list[page.Panel], str, list[page.Picture]]:
    """What can be had of them, and which images it is of; `missing` gets a line for what cannot."""
    weighed = [run for run in runs if run.weights]
    if not weighed:
        missing.append("no pictures: there are no weights yet.")
        return [], "", []
    panels, chosen, target = [], "", None
    try:
        subjects = [
            Subject(run.title, run.config, run.weights, load_trained(run.weights, options.endpoint)) for run in weighed
        ]
    except UserError as error:
        if options.data:
            raise
        missing.append(f"no pictures: {error}")
        return [], "", []
    try:
        data, candidates = pictures.labelled_data(subjects[-1], labels, options)
        found = pictures.scores(subjects[-1], data, candidates, options, progress)
        panels = pictures.panels(subjects, data, found, labels, options, progress)
        chosen = (
            f"The worst and the best of {candidates} images of {data} by the mIoU of {subjects[-1].title}, "
            f"{f'with aggregation λ = {options.aggregation:g}' if options.aggregation else 'without aggregation'}."
        )
        target = pictures.image_at(data, pictures.typical(found), labels, options)
    except (UserError, RunFailed) as error:
        if options.data:
            raise
        missing.append(f"no predictions: {error}")
    first_and_last = [*subjects[:-1][:1], subjects[-1]]
    try:
        return panels, chosen, pictures.associations(first_and_last, labels, target, options, progress)
    except UserError as error:
        missing.append(f"no pictures of associations: {error}")
        return panels, chosen, []
