"""The body of `plca demo`: shards, two runs on them, and one page that compares the runs."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from plca_dist import recipe
from plca_dist.config import Config
from plca_dist.data.prepare import prepare_pair, prepare_toytown
from plca_dist.errors import UserError
from plca_dist.method.objective import ABLATION
from plca_dist.output import say
from plca_dist.ray_cluster.connect import connection
from plca_dist.report.pictures import PictureOptions
from plca_dist.report.tables import class_table, score_columns
from plca_dist.report.write import report
from plca_dist.run.console import Console
from plca_dist.run.directory import Run
from plca_dist.run.lease import Lease
from plca_dist.run.train import train
from plca_dist.run_files import json_bytes
from plca_dist.sections import HUB
from plca_dist.storage import Location, Store, absolute, probe
from plca_dist.terminal import Counters
from plca_dist.training.trained import fresh_network

#: A run's name in files -> its title and its row of the ablation table. Both are shown without and with aggregation.
_RUNS = {"source_only": ("source-only", "source_only"), "plca": ("PLCA", "plca")}
#: The columns whose difference is shown. Both are without aggregation, so the networks alone differ.
_COMPARED = ("source-only", "PLCA")
#: The two data sets of photographs, and how a page calls them.
PHOTOGRAPHS = {"camvid": "CamVid", "idd_lite": "IDD Lite"}


@dataclass(frozen=True)
class Subject:
    """What is learned from what.

    Attributes:
        recipe: its name.
        data: the folder of its shards.
        settings: of the recipe, beside those of a run.
        prepare: writes the shards into a store; `workers`, `claim` and `progress` are those of `prepare_toytown`.
        heading: of the page.
        lead: its introduction.
    """

    recipe: str
    data: str
    settings: tuple[str, ...]
    prepare: Callable[..., object]
    heading: str
    lead: str


def toytown(seed: int) -> Subject:
    """Drawn scenes."""
    return Subject(
        "toytown",
        f"data/seed-{seed}",
        ("source.uri=source", "target.uri=target", "evaluation.uri=val"),
        partial(prepare_toytown, seed=seed),
        "plca demo: toytown",
        "Drawn street scenes: trained on clean labelled ones and on unlabelled ones of another appearance, scored "
        "on images of that other appearance which training never saw.",
    )


def photographs(source: tuple[str, Path], target: tuple[str, Path], weights: str) -> Subject:
    """Real ones: `source` with its labels, `target` without.

    Args:
        source: one of `PHOTOGRAPHS`, and its directory.
        target: the other one.
        weights: what `model.weights` takes.

    Raises UserError for other data sets.
    """
    names = (source[0], target[0])
    if set(names) != set(PHOTOGRAPHS):
        raise UserError(
            f"--photographs takes the two data sets {' and '.join(PHOTOGRAPHS)}, source first, got"
            f" {' and '.join(names)}; other data needs a recipe: docs/data.md, Your own data."
        )
    titles = [PHOTOGRAPHS[name] for name in names]
    return Subject(
        {"camvid": "camvid_to_idd", "idd_lite": "idd_to_camvid"}[source[0]],
        "data",
        (f"model.weights={json.dumps(weights if weights == HUB else absolute(weights))}",),
        partial(prepare_pair, source=source, target=target),
        f"plca demo: {titles[0]} to {titles[1]}",
        f"Real photographs: trained on {titles[0]} with its labels and on {titles[1]} without, scored on images of "
        f"{titles[1]} which training never saw.",
    )


def demo(out: Path, subject: Subject, *, seed: int = 0, steps: int | None = None) -> None:
    """Write the subject's shards, train source-only and PLCA, and leave their report and `result.json` in `out`.

    The same call again continues what was interrupted, and uses again what is finished.
    """
    store = probe(str(out))
    configs = {name: _config(subject, row, store, seed, steps) for name, (_, row) in _RUNS.items()}
    fresh_network(configs["plca"])  # raises for weights that are missing or do not fit, before anything is written
    with Counters() as counters:
        subject.prepare(
            store.child(subject.data), workers=os.cpu_count() or 1, claim=Lease.acquire, progress=counters.show
        )
    runs: dict[str, Run] = {}
    with connection(configs["plca"].cluster, say):
        for name, config in configs.items():
            with Console(config.schedule.steps, label=_RUNS[name][0]) as console:
                runs[name] = train(config, f"{name}-seed{seed}-{config.schedule.steps}steps", console.show)
    evaluations = {name: run.evaluation() or {} for name, run in runs.items()}
    scores = score_columns({_RUNS[name][0]: outcome for name, outcome in evaluations.items()})
    print(class_table(scores, configs["plca"].label_set, difference=_COMPARED), flush=True)
    with Counters() as counters:
        report(
            [Location(run.store.uri) for run in runs.values()],
            Location(store.uri),
            PictureOptions(),
            counters.show,
            titles=[title for title, _ in _RUNS.values()],
            heading=subject.heading,
            lead=subject.lead,
        )
    result = {name: _summary(outcome) for name, outcome in evaluations.items()}
    store.write("result.json", json_bytes({"seed": seed, **result}))
    files = {"result": "result.json", "panels": "panels.png", "page": "index.html"}
    say(*(f"{what:6}  {store.root}/{name}" for what, name in files.items()))


def _config(subject: Subject, row: str, store: Store, seed: int, steps: int | None) -> Config:
    settings = [f"seed={seed}", f"data={store.root}/{subject.data}", f"storage.uri={store.root}/runs"]
    settings += subject.settings
    settings += [f"objective.{k}={json.dumps(v)}" for k, v in ABLATION[row].items()]
    return recipe.load(subject.recipe, settings + ([f"schedule.steps={steps}"] if steps else []))


def _summary(outcome: dict[str, Any]) -> dict[str, float]:
    plain, *aggregated = outcome["scores"]
    return {"miou": plain["miou"], **({"miou_aggregated": aggregated[0]["miou"]} if aggregated else {})}
