"""One function a command: hand over what was typed, print what comes back. Each imports what it needs inside."""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plca_dist.errors import UserError


def demo(parsed: Namespace) -> None:
    from plca_dist.demo import demo

    demo(Path(parsed.out), seed=parsed.seed, steps=parsed.steps)


def train(parsed: Namespace) -> None:
    from plca_dist.recipe import load

    config = load(parsed.recipe, _settings(parsed))  # a typing error is answered before Ray is imported
    from plca_dist.report.tables import outcome_table
    from plca_dist.run.console import Console
    from plca_dist.run.train import train

    with Console(config.schedule.steps) as console:
        run = train(config, parsed.name or Path(parsed.recipe).stem, console.show)
    if (outcome := run.evaluation()) and "scores" in outcome:
        print(outcome_table(outcome), end="")
    print(f"run: {run.store.uri}")


def _settings(parsed: Namespace) -> list[str]:
    return [*parsed.set, *([f"storage.uri={parsed.storage}"] if parsed.storage else [])]


def tune(parsed: Namespace) -> None:
    from plca_dist.recipe import load
    from plca_dist.search.space import load_space

    space = load_space(parsed.space)
    base = load(parsed.recipe, _settings(parsed))
    space.check(base)
    from plca_dist.search.console import SearchConsole
    from plca_dist.search.results import leave_results
    from plca_dist.search.tune import tune

    with SearchConsole(space.metric, space.count) as console:
        name = parsed.name or f"{Path(parsed.space).stem}-{Path(parsed.recipe).stem}"
        search = tune(space, base, name, console)
    print(leave_results(search), end="")


def evaluate(parsed: Namespace) -> None:
    from plca_dist.inference.evaluate import evaluate_run
    from plca_dist.report.tables import outcome_table
    from plca_dist.storage import Location
    from plca_dist.terminal import Counters

    job, workers = _job(parsed, None)
    with Counters() as counters:
        outcome, written = evaluate_run(
            job,
            Location(parsed.data, parsed.endpoint),
            workers,
            counters.show,
            aggregation=parsed.aggregation,
            json_file=Location(parsed.json, parsed.endpoint) if parsed.json else None,
        )
    print(outcome_table(outcome), end="")
    print(f"json: {written}")


def predict(parsed: Namespace) -> None:
    from plca_dist.inference.predict import predict_images
    from plca_dist.storage import Location
    from plca_dist.terminal import Counters

    job, workers = _job(parsed, parsed.aggregation)
    with Counters() as counters:
        images, folders = predict_images(
            job,
            Location(parsed.images, parsed.endpoint),
            Location(parsed.out, parsed.endpoint),
            workers,
            counters.show,
        )
    print("\n".join([f"{images} images:", *(f"  {folder}" for folder in folders)]))


def report(parsed: Namespace) -> None:
    from plca_dist.config import ClusterSettings
    from plca_dist.report.pictures import PictureOptions
    from plca_dist.report.write import report
    from plca_dist.storage import Location
    from plca_dist.terminal import Counters

    options = PictureOptions(
        data=Location(parsed.data, parsed.endpoint) if parsed.data else None,
        images=parsed.images,
        candidates=parsed.candidates,
        aggregation=parsed.aggregation,
        workers=ClusterSettings(workers=parsed.workers, gpu=parsed.gpu),
    )
    runs = [Location(run, parsed.endpoint) for run in parsed.runs]
    out = Location(parsed.out, parsed.endpoint) if parsed.out else None
    with Counters() as counters:
        page, *pictures = report(runs, out, options, counters.show)
    print("\n".join([f"page: {page}", *(f"  {picture}" for picture in pictures)]))


def _job(parsed: Namespace, aggregation: float | None) -> Any:
    from plca_dist.inference.distribute import job_from
    from plca_dist.storage import Location

    weights = Location(parsed.weights, parsed.endpoint)
    return job_from(weights, aggregation, parsed.size, parsed.workers, parsed.gpu)


def weights(parsed: Namespace) -> None:
    from plca_dist.inference.export import export_authors, import_authors
    from plca_dist.storage import Location

    out = Location(parsed.out, parsed.endpoint)
    if parsed.action == "import":
        written, labels = import_authors(Location(parsed.file, parsed.endpoint), out)
        print(f"{written}: {len(labels)} classes, in the order of the label set {labels.name}")
    else:
        print(export_authors(Location(parsed.weights, parsed.endpoint), out))


def export(parsed: Namespace) -> None:
    from plca_dist.inference.export import export_network
    from plca_dist.storage import Location

    print(
        export_network(
            Location(parsed.weights, parsed.endpoint),
            Location(parsed.out, parsed.endpoint),
            size=parsed.size,
            aggregation=parsed.aggregation,
        )
    )


def shards(parsed: Namespace) -> None:
    from plca_dist.data.datasets.layouts import DATASETS
    from plca_dist.data.prepare import TOYTOWN_COUNT, prepare, prepare_toytown
    from plca_dist.storage import Location, probe
    from plca_dist.terminal import Counters

    if parsed.dataset == "toytown":
        _refuse(parsed, ("root", "split", "labels", "no_labels", "skip_broken"))
    elif parsed.dataset in DATASETS:
        _refuse(parsed, ("size", "count"))
        if parsed.root is None:
            raise UserError(f"{parsed.dataset}: give its folder with --root: {DATASETS[parsed.dataset].layout}")
        if parsed.labels and parsed.no_labels:
            raise UserError("--labels and --no-labels contradict each other; give one of them.")
    out = probe(Location(parsed.out, parsed.endpoint))
    workers = parsed.workers or os.cpu_count() or 1
    with Counters() as counters:
        if parsed.dataset == "toytown":
            manifests = prepare_toytown(
                out,
                seed=parsed.seed,
                size=tuple(parsed.size) if parsed.size else (96, 192),
                count=parsed.count or TOYTOWN_COUNT,
                overwrite=parsed.overwrite,
                workers=workers,
                progress=counters.show,
            )
        else:
            manifest = prepare(
                parsed.dataset,
                out,
                root=Path(parsed.root).expanduser() if parsed.root else None,
                split=parsed.split,
                labels=parsed.labels,
                with_labels=not parsed.no_labels,
                seed=parsed.seed,
                skip_broken=parsed.skip_broken,
                overwrite=parsed.overwrite,
                workers=workers,
                progress=counters.show,
            )
            manifests = {"": manifest}
    for name, manifest in manifests.items():
        print(f"{out.child(name).uri if name else out.uri}: {manifest.summary()}")


def _refuse(parsed: Namespace, options: Sequence[str]) -> None:
    for option in options:
        if getattr(parsed, option):
            raise UserError(f"{parsed.dataset} takes no --{option.replace('_', '-')}.")


def recipes(parsed: Namespace) -> None:
    from plca_dist.recipe import documented_keys, load, recipes

    if parsed.keys:
        for key, description, default in documented_keys():
            print(f"{key:32s} {description}{'' if default in (None, '', {}) else f' Default: {_text(default)}'}")
        return
    for name, path in recipes().items():
        about = load(str(path)).about
        print(f"{name}: {about.summary}\n  command  {about.command}\n  cost     {about.cost}\n  score    {about.score}")


def _text(value: object) -> str:
    return (
        str(list(value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)
    )


def doctor(parsed: Namespace) -> int:
    from plca_dist.doctor.examine import examine
    from plca_dist.storage import Location

    storage = Location(parsed.storage, parsed.endpoint)
    failed = False
    for finding in examine(storage, cluster=parsed.cluster, gpu=parsed.gpu):
        failed |= not finding.good
        print(f"{'ok  ' if finding.good else 'FAIL'}  {finding.what}: {finding.detail}", flush=True)
    return int(failed)
