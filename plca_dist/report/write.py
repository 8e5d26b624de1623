"""`plca report`: writes one page about runs, finished or not, and its pictures as PNG files beside it."""

import re
from collections.abc import Sequence
from itertools import groupby

from plca_dist.data.colours import png
from plca_dist.data.labels import LabelSet
from plca_dist.errors import RunFailed, UserError
from plca_dist.messages import Progress
from plca_dist.report import page, pictures
from plca_dist.report.curves import charts, curves, marks
from plca_dist.report.facts import facts, recipe_differences
from plca_dist.report.panels import legend, panel_rows
from plca_dist.report.pictures import PictureOptions, Subject
from plca_dist.report.read import RunRecord, read_runs
from plca_dist.report.tables import published, score_columns
from plca_dist.run_files import PAGE, REPORT
from plca_dist.storage import Location, Store, probe
from plca_dist.training.trained import load_trained

CURVES, PANELS, LEGEND = "curves.png", "panels.png", "legend.png"
#: The last line of a page, which names the files beside it: the next report there removes those that it does not write.
_BESIDE = re.compile(r"<!-- beside: ((?:[a-z0-9-]+\.png )*)-->\n\Z")


def report(
    places: Sequence[Location],
    out: Location | None,
    options: PictureOptions,
    progress: Progress,
    *,
    titles: Sequence[str] = (),
    heading: str = "",
    lead: str = "",
) -> list[str]:
    """Write the page about the runs at `places`, and its pictures beside it. They replace an older report there.

    Args:
        places: directories of runs, in the order of the columns. Images are chosen by the last run's scores.
            Differences are from the first run to the last.
        out: a directory; None: `report` in the run, or in the working directory for several runs.
        options: how pictures are made; with no images there are no pictures.
        progress: called with (what is counted, number done, number in all).
        titles: of the runs; none given: distinct names (see `read.names`).
        heading: of the page; none given: the titles.
        lead: a sentence or two under the heading; none given: the summary of the last run's recipe.

    Returns:
        The URIs of what was written, the page first.

    Raises:
        UserError: a place without a run, a place given twice, runs of several label sets, `options.data` that cannot be
            read, or `options.data` without images. If the recipe's own data cannot be read, the page says so instead.
        RunFailed: a worker that scored `options.data` was lost. For the recipe's own data, the page says so instead.
    """
    if options.data and not options.images:
        raise UserError(
            f"{options.data.uri} is data for pictures, and no images are wanted; leave out --data or --images 0."
        )
    runs = read_runs(places, titles)
    labels = _labels(runs)
    target = probe(out or Location(REPORT)) if out or len(runs) > 1 else runs[0].store.child(REPORT)
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
        differences=recipe_differences({run.title: run.config for run in runs}),
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
    """The files that the page at `target` names as its own; none where there is no page of a report."""
    if not target.exists(PAGE):
        return set()
    last_line = _BESIDE.search(target.read(PAGE).decode(errors="replace"))
    return set(last_line[1].split()) if last_line else set()


def _labels(runs: Sequence[RunRecord]) -> LabelSet:
    sets_of = {run.title: run.config.label_set for run in runs}
    if len({labels.classes for labels in sets_of.values()}) > 1:
        sets = ", ".join(f"{title} ({labels.name})" for title, labels in sets_of.items())
        raise UserError(f"runs of different label sets cannot stand side by side: {sets}; report them one by one.")
    return sets_of[runs[-1].title]


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
    """The panels, the sentence on how their images were chosen, and the other pictures.

    `missing` gets a line for each of them that cannot be made.
    """
    if not any(run.weights for run in runs):
        missing.append("no pictures: there are no weights yet.")
        return [], "", []
    panels, chosen, target = [], "", None
    try:
        subjects = [
            Subject(run.title, run.config, run.weights, load_trained(run.weights)) for run in runs if run.weights
        ]
    except UserError as error:
        if options.data:
            raise
        missing.append(f"no pictures: {error}")
        return [], "", []
    try:
        data, candidates = pictures.labelled_data(subjects[-1], labels, options)
        scored = pictures.scores(subjects[-1], data, candidates, options, progress)
        panels = pictures.panels(subjects, data, scored, labels, options, progress)
        chosen = (
            f"The worst and the best of {candidates} images of {data.uri} by the mIoU of {subjects[-1].title}, "
            f"{f'with aggregation λ = {options.aggregation:g}' if options.aggregation else 'without aggregation'}."
        )
        target = pictures.image_at(data, pictures.typical(scored), labels)
    except (UserError, RunFailed) as error:
        if options.data:
            raise
        missing.append(f"no predictions: {error}")
    first_and_last = [*subjects[:-1][:1], subjects[-1]]
    try:
        return panels, chosen, pictures.associations(first_and_last, labels, target, progress)
    except UserError as error:
        missing.append(f"no pictures of associations: {error}")
        return panels, chosen, []
