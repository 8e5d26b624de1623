"""What a run exports is what Prometheus gets, and what the dashboard, the alerts and the docs ask for."""

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.messages import Message
from plca_dist.recipe import load
from plca_dist.run import prometheus as under_test
from plca_dist.run.directory import Run, open_run
from plca_dist.run.history import read_history
from plca_dist.run.preemption import StopKind, StopRequest, StopRequests
from plca_dist.run.prometheus import GAUGES, RunGauges, run_gauges
from plca_dist.run.train import train
from plca_dist.search import directory as search

ROOT = Path(__file__).parents[2]
Series = dict[str, list[tuple[dict[str, str], float]]]


def config(settings: list[str], storage: Path, *more: str) -> Config:
    return load("toytown", [*settings, f"storage.uri={storage}", "cluster.workers=1", *more])


def scrape() -> Series:
    """What Prometheus would get of the node that this test's driver is on."""
    node = ray.nodes()[0]
    with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as response:
        lines = response.read().decode().splitlines()
    found: Series = {}
    for line in lines:
        if parts := re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', parts[2]))
            found.setdefault(parts[1], []).append((labels, float(parts[3])))
    return found


def scrape_until(name: str, **labels: Any) -> Series:
    """The agent hears of new values every ten seconds. Waits for the series, with these labels and value."""
    value, deadline = labels.pop("value"), time.monotonic() + 45
    while time.monotonic() < deadline:
        found = scrape()
        if any(labels.items() <= have.items() and is_value == value for have, is_value in found.get(name, [])):
            time.sleep(1)  # this scrape may have come while the agent took the values one by one
            return scrape()
        time.sleep(1)
    pytest.fail(f"{name}{labels} {value} was not exported; there is {found.get(name)}")


@pytest.fixture(scope="module")
def exported(ray_session: object, toytown_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Series:
    """What Prometheus gets after a run of eight steps and two evaluations, as a trial of a search."""
    storage = tmp_path_factory.mktemp("telemetry") / "found" / search.TRIALS
    steps = ["schedule.steps=8", "checkpoint.every=4", "log.every=2", "evaluation.every=4", "evaluation.unlabelled=2"]
    shown: list[Any] = []
    train(config(toytown_settings, storage, *steps), "trial-000", shown.append)
    records = [e for e in shown if isinstance(e, dict)]
    assert [r["step"] for r in records if "loss/total" in r] == [2, 4, 6, 8], "records are handed on"
    return scrape_until("ray_plca_active", run="trial-000", search="found", value=0)


def ours(exported: Series, name: str) -> list[tuple[dict[str, str], float]]:
    return [(labels, value) for labels, value in exported[f"ray_{name}"] if labels["run"] == "trial-000"]


def test_everything_that_is_promised_is_exported(exported: Series) -> None:
    for name, gauge in GAUGES.items():
        if name == "plca_gpu_memory_bytes" and not torch.cuda.is_available():
            continue
        for labels, _ in ours(exported, name):
            assert labels["search"] == "found", name
            assert bool(labels.get(gauge.tag)) == bool(gauge.tag), name


def test_values_are_the_runs(exported: Series) -> None:
    def value(name: str, **labels: str) -> float:
        (found,) = [v for have, v in ours(exported, name) if labels.items() <= have.items()]
        return found

    assert value("plca_step") == value("plca_steps_wanted") == 8
    assert value("plca_launches") == 1
    assert value("plca_restarts") == value("plca_preemptions") == value("plca_data_skipped") == 0
    terms = {labels["term"] for labels, _ in ours(exported, "plca_loss")}
    assert terms >= {"total", "cross_entropy", "lovasz", "feature", "prediction"}
    assert {labels["level"] for labels, _ in ours(exported, "plca_consistent_ratio")} == {"feature", "prediction"}
    assert 0 <= value("plca_miou_percent", aggregation="without") <= 100
    assert 0 <= value("plca_miou_percent", aggregation="with") <= 100
    assert value("plca_criterion", criterion="entropy") > 0
    assert value("plca_pairs_per_second") > 0
    assert 0 < value("plca_checkpoint_seconds") < 60
    assert 0 <= time.time() - value("plca_checkpoint_timestamp_seconds") < 120


def queries() -> list[tuple[str, str]]:
    """(where, PromQL) of everything in cluster/grafana."""
    board = json.loads((ROOT / "cluster/grafana/plca.json").read_text())
    found = [(p["title"], t["expr"]) for p in board["panels"] for t in p["targets"]]
    found += [(p["title"], f"({t['legendFormat']})") for p in board["panels"] for t in p["targets"]]
    found += [(v["name"], v["definition"]) for v in board["templating"]["list"] if v["type"] == "query"]
    alerts = yaml.safe_load((ROOT / "cluster/grafana/alerts.yaml").read_text())
    return found + [(r["alert"], r["expr"]) for group in alerts["groups"] for r in group["rules"]]


NAME = re.compile(r"\bray_\w+")


def test_the_dashboard_and_the_alerts_ask_for_what_is_exported(exported: Series) -> None:
    asked = {name for _, query in queries() for name in NAME.findall(query)}
    assert {f"ray_{name}" for name in GAUGES} <= asked, "a figure that nobody looks at"
    cpu_only = set() if torch.cuda.is_available() else {"ray_plca_gpu_memory_bytes"}
    assert asked - cpu_only <= exported.keys()


def test_the_dashboard_and_the_alerts_go_by_labels_that_there_are(exported: Series) -> None:
    target = {"instance"}  # Prometheus adds it to what it scrapes
    for where, query in queries():
        names = NAME.findall(query)
        labels = set(re.findall(r"(\w+)\s*=~", query))
        for listed in re.findall(r"(?:by|on) \(([^)]*)\)", query):
            labels |= set(listed.split(", "))
        labels |= set(re.findall(r"label_values\(.*, (\w+)\)", query))
        for name in names:
            have = {label for series in exported.get(name, []) for label in series[0]} | target
            if name == "ray_plca_gpu_memory_bytes":
                have |= {"run", "search"}
            assert labels <= have, (where, name)


def test_the_docs_list_what_there_is() -> None:
    listed = re.findall(r"^\| `ray_(plca_\w+)`", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert listed == list(GAUGES)


@pytest.fixture
def run(toytown_settings: list[str], tmp_path: Path) -> Run:
    made = open_run(config(toytown_settings, tmp_path), "run")
    made.claim(1)
    return made


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What every gauge stands at, as `name tag`, with nobody to export it."""
    values: dict[str, float] = {}

    class Gauge:
        def __init__(self, name: str) -> None:
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == {"run", "search"} | ({GAUGES[self.name].tag} - {""})
            values[" ".join([self.name.removeprefix("plca_"), tags.get(GAUGES[self.name].tag, "")]).strip()] = value

    monkeypatch.setattr(under_test, "_gauge", Gauge)
    return values


def launch(run: Run) -> RunGauges:
    return RunGauges(run, "", lambda record: None)


def stopped(kind: StopKind) -> StopRequest:
    return StopRequest(kind, f"a reason of kind {kind}", 0.0, final=True)


@pytest.mark.parametrize("kind", ["signal", "drain"])
def test_preemptions_are_counted_over_launches(kind: StopKind, run: Run, standing: dict[str, float]) -> None:
    for times in (1, 2):
        told = launch(run)
        assert standing["preemptions"] == times - 1, "a launch begins with what the run has seen"
        told.begin(10 * times, 2, times)
        told.stopped(stopped(kind))
        assert standing["preemptions"] == times
        told.stopped(stopped(kind))
        assert standing["preemptions"] == times, "one attempt ends once"
    told.begin(20, 1, 3)
    told.end("restarted", "ValueError: a bug")
    assert (standing["restarts"], standing["preemptions"]) == (1, 2)


@pytest.mark.parametrize("kind", ["grew", "search", "lease lost"])
def test_leaving_for_the_runs_own_good_is_no_preemption(kind: StopKind, run: Run, standing: dict[str, float]) -> None:
    told = launch(run)
    told.begin(0, 1, 1)
    told.stopped(stopped(kind))
    assert standing["preemptions"] == 0
    assert read_history(run.store)[-1].end == "left"


def test_records_become_figures_in_base_units(run: Run, standing: dict[str, float]) -> None:
    told = launch(run)
    told.show({"step": 3, "gpu_memory_gb": 2.0, "data/skipped": 2, "miou_aggregated": 31.0, "elapsed_s": 9.0})
    told.show({"step": 4, "data/skipped": 1, "criteria/entropy": 0.5, "consistent/feature": 0.25})
    assert standing["step"] == 4
    assert standing["gpu_memory_bytes"] == 2 * 2**30
    assert standing["data_skipped"] == 3
    assert standing["miou_percent with"] == 31.0
    assert "miou_percent without" not in standing
    assert standing["criterion entropy"] == 0.5
    assert standing["consistent_ratio feature"] == 0.25


def test_a_commit_makes_the_newest_checkpoint_young(
    run: Run, standing: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test.time, "time", lambda: 100.0)
    told = launch(run)
    monkeypatch.setattr(under_test.time, "time", lambda: 160.0)
    told.show(Message("checkpoint failed", "checkpoint failed"))
    assert standing["checkpoint_timestamp_seconds"] == 100.0
    told.show(Message("checkpoint", "checkpoint step-00000004-of-1", {"checkpoint_s": 1.5}))
    assert standing["checkpoint_timestamp_seconds"] == 160.0
    assert standing["checkpoint_seconds"] == 1.5


def test_what_stands_is_set_again_and_again_until_the_end(
    run: Run, standing: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_AGAIN_S", 0.01)
    with run_gauges(run, lambda record: None, StopRequests()) as told:
        told.show({"step": 3, "miou": 40.0})
        standing.clear()
        deadline = time.monotonic() + 10
        while "miou_percent without" not in standing and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (standing["step"], standing["miou_percent without"], standing["active"]) == (3, 40.0, 1)
    standing.clear()
    time.sleep(0.1)
    assert standing == {}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_ray_forgets_no_figure_of_a_run_at_work_and_all_of_one_that_ended(run: Run) -> None:
    """Ray's agent drops a gauge 20 s after it last got it."""

    def exported() -> list[float]:
        return [v for labels, v in scrape().get("ray_plca_launches", []) if labels["run"] == run.name]

    with run_gauges(run, lambda record: None, StopRequests()):
        time.sleep(45)
        assert exported() == [1]
    time.sleep(45)
    assert exported() == []


@pytest.mark.parametrize(
    ("error", "end"), [(KeyboardInterrupt(), "interrupted"), (UserError("a shard is damaged"), "failed")]
)
def test_the_run_is_inactive_however_it_ends(
    error: BaseException, end: str, run: Run, standing: dict[str, float]
) -> None:
    def ended() -> None:
        with run_gauges(run, lambda record: None, StopRequests()) as told:
            assert (standing["active"], standing["launches"]) == (1, 1)
            told.begin(0, 1, 1)
            raise error

    with pytest.raises(type(error)):
        ended()
    assert standing["active"] == standing["workers"] == 0
    (attempt,) = read_history(run.store)
    assert (attempt.launch, attempt.end, attempt.why) == (1, end, str(error))
