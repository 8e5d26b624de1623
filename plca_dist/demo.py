"""The body of `plca demo`: shards of drawn scenes, two runs on them, and one page that compares the runs."""

import json
import os
from pathlib import Path
from typing import Any

from plca_dist import recipe
from plca_dist.config import Config
from plca_dist.data.prepare import prepare_toytown
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
from plca_dist.storage import Location, probe
from plca_dist.terminal import Counters

#: A run's name in files -> its title and its row of the ablation table. Both are shown without and with aggregation.
_RUNS = {"source_only": ("source-only", "source_only"), "plca": ("PLCA", "plca")}
#: The columns whose difference is shown. Both are without aggregation, so the networks alone differ.
_COMPARED = ("source-only", "PLCA")
#: Title and introduction of the page.
_PAGE = {
    "heading": "plca demo: toytown",
    "lead": "Drawn street scenes: trained on clean labelled ones and on unlabelled ones of another appearance, scored "
    "on images of that other appearance which training never saw.",
}


def demo(out: Path, *, seed: int = 0, steps: int | None = None) -> None:
    """Draw toytown, train source-only and PLCA, and leave their report and `result.json` in `out`.

    The same call again continues what was interrupted, and uses again what is finished.
    """
    store = probe(str(out))
    data = f"data/seed-{seed}"
    with Counters() as counters:
        prepare_toytown(
            store.child(data), seed=seed, workers=os.cpu_count() or 1, claim=Lease.acquire, progress=counters.show
        )
    runs: dict[str, Run] = {}
    with connection(_config("plca", store.root, data, seed, steps).cluster, say):
        for name, (title, row) in _RUNS.items():
            config = _config(row, store.root, data, seed, steps)
            with Console(config.schedule.steps, label=title) as console:
                runs[name] = train(config, f"{name}-seed{seed}-{config.schedule.steps}steps", console.show)
    evaluations = {name: run.evaluation() or {} for name, run in runs.items()}
    labels = config.label_set
    scores = score_columns({_RUNS[name][0]: outcome for name, outcome in evaluations.items()})
    print(class_table(scores, labels, difference=_COMPARED), flush=True)
    titles = [title for title, _ in _RUNS.values()]
    with Counters() as counters:
        report(
            [Location(run.store.uri) for run in runs.values()],
            Location(store.uri),
            PictureOptions(),
            counters.show,
            titles=titles,
            **_PAGE,
        )
    result = {name: _summary(outcome) for name, outcome in evaluations.items()}
    store.write("result.json", json_bytes({"seed": seed, **result}))
    files = {"result": "result.json", "panels": "panels.png", "page": "index.html"}
    say(*(f"{what:6}  {store.root}/{name}" for what, name in files.items()))


def _config(row: str, root: str, data: str, seed: int, steps: int | None) -> Config:
    settings = [f"seed={seed}", f"data={root}/{data}", f"storage.uri={root}/runs"]
    settings += ["source.uri=source", "target.uri=target", "evaluation.uri=val"]
    settings += [f"objective.{k}={json.dumps(v)}" for k, v in ABLATION[row].items()]
    return recipe.load("toytown", settings + ([f"schedule.steps={steps}"] if steps else []))


def _summary(outcome: dict[str, Any]) -> dict[str, float]:
    plain, *aggregated = outcome["scores"]
    return {"miou": plain["miou"], **({"miou_aggregated": aggregated[0]["miou"]} if aggregated else {})}
