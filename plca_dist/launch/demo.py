"""The whole way through, on drawn scenes: shards, two runs, one page. What `plca demo` does."""

import json
import os
from pathlib import Path
from typing import Any

from plca_dist import recipe
from plca_dist.config import Config
from plca_dist.data.labels import LabelSet, label_set
from plca_dist.data.prepare import prepare_toytown
from plca_dist.data.stream import labelled_samples
from plca_dist.launch.cluster import connection
from plca_dist.launch.run import Run
from plca_dist.launch.train import train
from plca_dist.launch.trained import load_trained
from plca_dist.method.objective import ABLATION
from plca_dist.report import page
from plca_dist.report.console import Console, Counters
from plca_dist.report.curves import charts
from plca_dist.report.facts import facts
from plca_dist.report.panels import columns, panel_rows, png
from plca_dist.report.tables import ScoreDict, class_table, score_columns
from plca_dist.storage import probe
from plca_dist.training.evaluation import probabilities
from plca_dist.training.journal import read_records

#: Name in files -> (title, row of the ablation table). Both are shown without and with aggregation.
_RUNS = {"source_only": ("source-only", "source_only"), "plca": ("PLCA", "plca")}
_HEADLINE = ("source-only", "PLCA")  # both without aggregation, as the same network is used
_PANELS = 6


def demo(out: Path, *, seed: int = 0, steps: int | None = None) -> None:
    """Draw toytown, train source-only and PLCA, and leave `index.html`, `panels.png` and `result.json` in `out`.

    Doing it again with the same arguments continues or reuses what is there.
    """
    store = probe(str(out))
    data = f"data/seed-{seed}"
    with Counters() as counters:
        prepare_toytown(store.child(data), seed=seed, workers=os.cpu_count() or 1, progress=counters.show)
    runs: dict[str, Run] = {}
    with connection(_config("plca", store.root, data, seed, steps).cluster, print):
        for name, (title, row) in _RUNS.items():
            config = _config(row, store.root, data, seed, steps)
            with Console(config.schedule.steps, label=title) as console:
                runs[name] = train(config, f"{name}-seed{seed}-{config.schedule.steps}steps", console.show)
    evaluations = {name: run.evaluation() or {} for name, run in runs.items()}
    labels = label_set(config.labels)
    scores = score_columns({_RUNS[name][0]: outcome for name, outcome in evaluations.items()})
    print(class_table(scores, labels, difference=_HEADLINE), flush=True)
    panels = _panels(runs, labels)
    store.write("panels.png", png(panel_rows([p.columns for p in panels])))
    store.write("index.html", _page(runs, scores, labels, panels).encode())
    result = {name: _summary(outcome) for name, outcome in evaluations.items()}
    store.write("result.json", json.dumps({"seed": seed, **result}, indent=1).encode())
    print(f"result  {store.root}/result.json\npanels  {store.root}/panels.png\npage    {store.root}/index.html")


def _config(row: str, root: str, data: str, seed: int, steps: int | None) -> Config:
    settings = [f"seed={seed}", f"data={root}/{data}", f"storage.uri={root}/runs"]
    settings += ["source.uri=source", "target.uri=target", "evaluation.uri=val"]
    settings += [f"objective.{k}={json.dumps(v)}" for k, v in ABLATION[row].items()]
    return recipe.load("toytown", settings + ([f"schedule.steps={steps}"] if steps else []))


def _summary(outcome: dict[str, Any]) -> dict[str, float]:
    plain, *aggregated = outcome["scores"]
    return {"miou": plain["miou"], **({"miou_aggregated": aggregated[0]["miou"]} if aggregated else {})}


def _panels(runs: dict[str, Run], labels: LabelSet) -> list[page.Panel]:
    """image | truth | source-only | PLCA for the first held-out images (rows are shuffled: any are as good)."""
    networks = {_RUNS[name][0]: load_trained(run.store.uri).network for name, run in runs.items()}
    config = runs["plca"].config
    rows = []
    for k, (image_3HW, label_HW) in enumerate(labelled_samples(config.data_uri("val"), labels, 0, 1)):
        if k == _PANELS:
            break
        predictions = {
            title: probabilities(network, image_3HW, size=config.evaluation.size, ratio=0.0).argmax(0).numpy()
            for title, network in networks.items()
        }
        rows.append(page.Panel(columns(image_3HW.numpy(), label_HW.numpy(), predictions, labels)))
    return rows


def _page(runs: dict[str, Run], scores: dict[str, ScoreDict], labels: LabelSet, panels: list[page.Panel]) -> str:
    records = {_RUNS[name][0]: read_records(run.store) for name, run in runs.items()}
    return page.page(
        "plca demo: toytown",
        runs=[
            page.Run(_RUNS[n][0], facts(run.config, records[_RUNS[n][0]], run.evaluation())) for n, run in runs.items()
        ],
        scores=[page.Scores(labels, scores, difference=_HEADLINE)],
        panels=panels,
        curves=charts(records),
        lead="Drawn street scenes: trained on clean labelled ones and on unlabelled ones of another appearance, "
        "scored on images of that other appearance which training never saw.",
    )
