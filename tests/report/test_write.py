"""`report`: the page of finished and unfinished runs, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.servers.seaweed import S3
from plca_dist.data.colours import png
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.whole_images import Labelled, Pair, labelled_rows
from plca_dist.errors import RunFailed, UserError
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.deeplab import build_network
from plca_dist.models.weights import to_bytes
from plca_dist.recipe import load
from plca_dist.report import pictures
from plca_dist.report.association_picture import association_picture
from plca_dist.report.curves import Mark, charts, curves
from plca_dist.report.diffusion_picture import diffusion_picture
from plca_dist.report.image_scores import image_miou, image_scores
from plca_dist.report.markup import data_uri
from plca_dist.report.panels import columns, panel_rows
from plca_dist.report.pictures import PictureOptions
from plca_dist.report.read import names
from plca_dist.report.write import report
from plca_dist.run.directory import open_run
from plca_dist.run.history import Attempt
from plca_dist.run.train import train
from plca_dist.run_files import attempt, json_bytes
from plca_dist.storage import Location, resolve
from plca_dist.training.evaluation import Counts, probabilities
from plca_dist.training.scores import score
from plca_dist.training.trained import TrainedNetwork, load_trained
from tests.html_reader import Reader, assert_self_contained

RECORDS = [{"step": s, "loss/total": 3.0 / s, "elapsed_s": s / 10} for s in (10, 20, 30)]
ATTEMPTS = [
    Attempt(1, 1000.0, 0, 2, {"torch": "2.11"}, 1060.0, 20, "preempted", "SIGTERM"),
    Attempt(2, 2000.0, 20, 1, {"torch": "2.12"}, 2060.0, 40, "finished"),
]
Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path, toytown_settings: list[str]) -> Make:
    """`make(name, *settings, finished=…, seed=…)`: the URI of a run as training leaves it, but of random weights."""

    def made(name: str, *settings: str, finished: bool = True, seed: int = 0, storage: str = "") -> str:
        place = f"storage.uri={storage or tmp_path / 'runs'}"
        config = load("toytown", [*toytown_settings, place, "schedule.steps=40", *settings])
        run = open_run(config, name)
        run.claim(1)
        run.store.write("metrics.jsonl", "".join(json.dumps(r) + "\n" for r in RECORDS).encode())
        run.store.write("history.json", json.dumps([vars(a) for a in ATTEMPTS]).encode())
        if finished:
            labels = LABEL_SETS[config.labels]
            torch.manual_seed(seed)
            network = build_network("tiny", len(labels), style="torchvision", rates=config.model.rates)
            run.store.write("model.safetensors", to_bytes(network, labels.classes))
            counts = torch.randint(1, 50, (len(labels),) * 2, generator=torch.Generator().manual_seed(seed))
            scores = [{"aggregation": r, **score(counts, labels).as_dict()} for r in (0.0, 0.5)]
            outcome = {"step": 40, "labels": labels.name, "images": 6, "scores": scores}
            run.store.write("evaluation.json", json.dumps(outcome).encode())
        return run.store.uri

    return made


def reported(*places: str, options: PictureOptions | None = None, out: str | None = None) -> tuple[Reader, list[str]]:
    """The page of the runs, and the names of the files beside it."""
    shown: list[tuple[str, int, int]] = []
    options = options or PictureOptions(images=2, candidates=4)
    files = report([*map(Location, places)], Location(out) if out else None, options, lambda *told: shown.append(told))
    assert all(("images", *[options.candidates] * 2) in shown for what, *_ in shown if what == "images")
    folder, _, name = files[0].rpartition("/")
    assert name == "index.html"
    text = resolve(folder).read(name).decode()
    assert_self_contained(text)
    assert all(resolve(folder).read(file.rpartition("/")[2])[:4] == b"\x89PNG" for file in files[1:])
    return Reader(text), [file.rpartition("/")[2] for file in files[1:]]


def move(place: str, before: str, after: str) -> None:
    """Change the place of data in the recipe of the run at `place`."""
    recipe = resolve(place).read(f"{attempt(1)}/recipe.yaml").decode()
    assert before in recipe
    resolve(place).write(f"{attempt(1)}/recipe.yaml", recipe.replace(before, after).encode())


def rows_of(uri: str, count: int) -> list[Labelled]:
    return list(labelled_rows(resolve(uri), LABEL_SETS["toytown"], range(count)))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places that weights are read from."""
    places: list[str] = []

    def load_and_tell(location: Location) -> TrainedNetwork:
        places.append(location.uri)
        return load_trained(location)

    for module in ("inference.distribute", "report.write"):
        monkeypatch.setattr(f"plca_dist.{module}.load_trained", load_and_tell)
    return places


def test_two_runs_stand_side_by_side(make: Make, tmp_path: Path, loads: list[str]) -> None:
    first, last = make("first", "objective.association=0", seed=1), make("last", "seed=3", seed=2)
    read, files = reported(first, last, options=PictureOptions(images=4, candidates=4), out=str(tmp_path / "out"))
    assert files[:3] == ["curves.png", "panels.png", "legend.png"]
    assert [f.rpartition("-")[0] for f in files[3:7]] == ["cycle-association"] * 4
    text = "".join(read.text)
    for row in (["seed", "0", "3"], ["objective.association", "0.0", "0.1"], ["steps", "30 of 40, 4 pairs each"]):
        assert row in read.rows
    assert ["class", "first", "first, λ = 0.5", "last", "last, λ = 0.5", "difference"] in read.rows
    assert "difference: last against first" in text
    assert "The worst and the best of 4 images" in text
    assert "by the mIoU of last, without aggregation" in text
    assert len(read.pictures()) >= 4 * 4 + 4 + 1, "image, truth and two predictions of four; cycles; a curve"
    scored = [float(t.rpartition(" ")[2]) for t in read.text if ": mIoU " in t]
    assert len(scored) == 4
    assert scored == sorted(scored), "the worst of the last run come first"
    assert "Not here" not in text
    assert loads == [first, last], "the weights of each are read once"


def test_pictures_are_of_each_run_as_it_was_trained(make: Make, tmp_path: Path, toytown_shards: Path) -> None:
    sized = "evaluation.size=[48, 96]", "evaluation.size=[64, 128]"
    places = {
        "first": make("first", sized[0], "objective.aggregation=0.25", seed=1),
        "last": make("last", sized[1], "objective.kl_aggregation_contrast=true", seed=2),
    }
    read, _ = reported(
        *places.values(), options=PictureOptions(images=6, candidates=6, aggregation=0.9), out=str(tmp_path)
    )
    text, labels = "".join(read.text), LABEL_SETS["toytown"]
    samples = rows_of(f"{toytown_shards}/val", 6)
    networks = {title: load_trained(Location(place)).network for title, place in places.items()}
    settings = {
        "first": {"size": (48, 96), "inference": InferenceSettings(kl_aggregation_contrast=False)},
        "last": {"size": (64, 128), "inference": InferenceSettings(kl_aggregation_contrast=True)},
    }

    def ranked(ratio: float) -> list[int]:
        found = image_scores(networks["last"], samples, labels, ratio=ratio, **settings["last"])
        return [score.row for score in sorted(found, key=lambda score: score.miou)]

    order = ranked(0.9)
    assert order not in (ranked(0.0), ranked(0.5)), "λ decides what is shown"
    rows, captions = [], []
    for sample in (samples[row] for row in order):
        predicted = {
            title: probabilities(network, sample.image, ratio=0.9, **settings[title]).argmax(0)
            for title, network in networks.items()
        }
        scored = ", ".join(f"{title} {image_miou(p, sample.label, labels):.1f}" for title, p in predicted.items())
        captions.append(f"{sample.id}: mIoU {scored}")
        shown = {title: p.numpy() for title, p in predicted.items()}
        rows.append(columns(sample.image.numpy(), sample.label.numpy(), shown, labels))
    assert [t for t in read.text if ": mIoU " in t] == captions
    assert (tmp_path / "panels.png").read_bytes() == png(panel_rows(rows))

    [source] = rows_of(f"{toytown_shards}/source", 1)
    target = samples[order[3]]
    pair = Pair(source.image, source.label, target.image)
    trained_with = {
        "first": {**settings["first"], "aggregation": 0.25},
        "last": {**settings["last"], "aggregation": 0.5},
    }
    cases = [(level, title) for level in ("feature", "prediction") for title in networks]
    for k, (level, title) in enumerate(cases, 1):
        found = association_picture(
            networks[title], pair, labels, target_label=target.label, level=level, **trained_with[title]
        )
        assert f"{title}, {level} level: {found.caption}" in text
        assert (tmp_path / f"cycle-association-{k}.png").read_bytes() == found.png
    spread = diffusion_picture(networks["last"], pair, **trained_with["last"])
    assert spread
    assert f"last, feature level: {spread.elsewhere:.0%} of the gradient" in text
    assert (tmp_path / "gradient-diffusion-1.png").read_bytes() == spread.png


def test_the_papers_numbers_stand_beside_runs_of_its_classes(make: Make) -> None:
    read, _ = reported(make("ours", "labels=synthia"), options=PictureOptions(images=0))
    assert ["class", "ours", "ours, λ = 0.5", "paper (ResNet-101)"] in read.rows
    assert [row[0] for row in read.rows if row[-1] == "82.6"] == ["road"]


def test_a_lost_worker_costs_the_predictions_and_not_the_page(
    make: Make, toytown_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make("run")

    def lost(*arguments: object) -> None:
        raise RunFailed("OutOfMemoryError: CUDA out of memory")

    monkeypatch.setattr(pictures, "distribute", lost)
    read, files = reported(place)
    assert "no predictions: OutOfMemoryError: CUDA out of memory" in "".join(read.text)
    assert "panels.png" not in files
    assert "cycle-association-1.png" in files
    with pytest.raises(RunFailed, match="CUDA out of memory"):
        reported(place, options=PictureOptions(data=Location(f"{toytown_shards}/val")))


def test_a_smaller_report_takes_away_what_it_does_not_replace(make: Make, tmp_path: Path) -> None:
    first, last, out = make("first"), make("last", seed=1), tmp_path / "out"
    out.mkdir()
    theirs = {"legend.png", "cycle-association-9.png", "notes.txt"}
    for name in theirs:
        (out / name).write_text("somebody's")
    _, files = reported(last, options=PictureOptions(images=0), out=str(out))
    assert files == ["curves.png"]
    assert {p.name for p in out.iterdir()} == {"index.html", "curves.png", *theirs}, "no report of ours made them"
    _, files = reported(first, last, out=str(out))
    assert files == [
        "curves.png", "panels.png", "legend.png", *(f"cycle-association-{k}.png" for k in (1, 2, 3, 4)),
        "gradient-diffusion-1.png",
    ]  # fmt: skip
    resolve(last).delete("metrics.jsonl")
    _, files = reported(last, out=str(out))
    assert "gradient-diffusion-1.png" in files
    assert {p.name for p in out.iterdir()} == {"index.html", *files, *theirs}
    _, files = reported(last, options=PictureOptions(images=0), out=str(out))
    assert {p.name for p in out.iterdir()} == {"index.html", "cycle-association-9.png", "notes.txt"}


def test_candidates_without_a_labelled_pixel_are_said(
    make: Make, toytown_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = [s._replace(label=torch.full_like(s.label, 255)) for s in rows_of(f"{toytown_shards}/val", 6)]
    monkeypatch.setattr(pictures, "labelled_rows", lambda shards, labels, rows: (blank[k] for k in rows))
    read, files = reported(make("run"))
    assert "/val: none of the first 4 images has a labelled pixel." in "".join(read.text)
    assert "panels.png" not in files


def test_shards_of_no_image_are_said(make: Make, tmp_path: Path, toytown_shards: Path) -> None:
    place, empty = make("run"), tmp_path / "empty"
    manifest = json.loads((toytown_shards / "source/manifest.json").read_text())
    resolve(str(empty)).write("manifest.json", json.dumps({**manifest, "rows": 0, "shards": []}).encode())
    move(place, f"{toytown_shards}/source", str(empty))
    read, files = reported(place)
    assert f"no pictures of associations: {empty} holds no images." in "".join(read.text)
    assert "panels.png" in files
    move(place, f"{toytown_shards}/val", str(empty))
    read, files = reported(place)
    assert f"no predictions: {empty} holds no images." in "".join(read.text)
    assert f"no pictures of associations: {empty} or {toytown_shards}/target holds no images." in "".join(read.text)
    assert files == ["curves.png"]


def test_a_run_remembers_its_launches(make: Make, tmp_path: Path) -> None:
    read, _ = reported(make("told"), options=PictureOptions(images=0))
    page = tmp_path / "runs/told/report/index.html"
    assert page.exists(), "of one run the page goes into the run"
    drawn = {"told": RECORDS}, {"told": [Mark(20, "preemption")]}
    assert (page.parent / "curves.png").read_bytes() == curves(*drawn)
    shown = [f'<figure><img alt="{title}" src="{data_uri(chart)}"></figure>' for title, chart in charts(*drawn).items()]
    assert "\n".join(["<h2>Curves</h2>", '<div class="curves">', *shown, "</div>"]) in page.read_text()
    facts = {row[0]: row[1:] for row in read.rows}
    assert facts["time"] == ["0:05 of training, 2:00 with starts and ends"]
    assert facts["world size"] == ["2, then 1"]
    assert facts["launches"] == ["2 launches, 1 preemption"]
    assert facts["versions"] == ["torch 2.11 then 2.12"]
    assert ["told", "1", "1970-01-01 00:16", "1:00", "0 to 20", "2", "preempted: SIGTERM"] in read.rows


def test_of_an_unfinished_run_the_page_says_what_is_not_there_yet(make: Make) -> None:
    place = make("begun", finished=False)
    read, files = reported(place)
    text = "".join(read.text)
    assert files == ["curves.png"]
    assert "begun is not finished: its records go to step 30 of 40." in text
    assert "begun has no mIoU yet." in text
    nothing = Counts({0.0: torch.zeros(9, 9, dtype=torch.int64)}, images=3).result(LABEL_SETS["toytown"])
    resolve(place).write("evaluation.json", json_bytes({"step": 30, **nothing}))
    assert "begun has no mIoU: these labels have no labelled pixel." in "".join(reported(place)[0].text)
    resolve(place).delete("evaluation.json")
    assert "no pictures: there are no weights yet." in text
    resolve(place).delete("metrics.jsonl")
    resolve(place).delete("history.json")
    read, files = reported(place)
    assert files == []
    assert "begun has no records yet, hence no curves." in "".join(read.text)
    assert "Attempts" not in "".join(read.text)


def test_beside_an_unfinished_run_the_finished_one_has_its_pictures(make: Make, tmp_path: Path) -> None:
    read, files = reported(make("done"), make("begun", finished=False), out=str(tmp_path / "out"))
    assert "panels.png" in files
    assert "difference" not in read.text
    assert "by the mIoU of done" in "".join(read.text)


def test_data_out_of_reach_is_said_and_what_was_asked_for_is_refused(
    make: Make, tmp_path: Path, toytown_shards: Path
) -> None:
    place = make("far")
    move(place, f"{toytown_shards}/val", f"{tmp_path}/away")
    read, files = reported(place)
    text = "".join(read.text)
    assert "no predictions: " in text
    assert f"no manifest.json under {tmp_path}/away" in text
    assert "panels.png" not in files
    assert files[1:3] == ["cycle-association-1.png", "cycle-association-2.png"], "they need the training shards alone"
    assert "of the associations correct" not in text, "nobody has labels of the target's"
    with pytest.raises(UserError, match="nowhere"):
        reported(place, options=PictureOptions(data=Location(str(tmp_path / "nowhere"))))
    _, files = reported(place, options=PictureOptions(data=Location(f"{toytown_shards}/val"), images=2, candidates=4))
    assert "panels.png" in files
    move(place, str(toytown_shards), f"{tmp_path}/away")
    read, files = reported(place)
    assert files == ["curves.png"]
    assert "no pictures of associations: " in "".join(read.text)


def test_what_is_no_run_or_does_not_go_together_is_refused(make: Make, tmp_path: Path) -> None:
    one, other = make("one"), make("other", "labels=synthia", finished=False)
    with pytest.raises(UserError, match="is given twice"):
        reported(one, f"{one}/")
    with pytest.raises(UserError, match=r"different label sets.*one \(toytown\), other \(synthia\); report them one"):
        reported(one, other)
    with pytest.raises(UserError, match=r"is no run: it holds no recipe.yaml"):
        reported(str(tmp_path / "nothing"))
    (tmp_path / "search").mkdir()
    (tmp_path / "search/space.yaml").write_text("")
    with pytest.raises(UserError, match=r"is a search; its page is .*index.html, and its runs are in .*/trials"):
        reported(str(tmp_path / "search"))
    assert not (tmp_path / "runs/one/report").exists()


@pytest.mark.usefixtures("s3")
def test_runs_and_reports_may_lie_in_a_bucket(make: Make, s3: S3) -> None:
    place = make("far", storage="s3://bucket/reported")
    read, files = reported(place)
    assert place == "s3://bucket/reported/far"
    assert "panels.png" in files
    assert ["seed", "0"] not in read.rows
    assert resolve(f"{place}/report").exists("index.html")


@pytest.mark.parametrize(
    ("uris", "titles"),
    [
        (["/runs/a"], ["a"]),
        (["/runs/a", "/runs/b"], ["a", "b"]),
        (["/runs/a", "/more/a", "/more/b"], ["runs/a", "more/a", "more/b"]),
        (["s3://x/runs/a", "s3://y/runs/a"], ["x/runs/a", "y/runs/a"]),
        (["/a", "/b/a"], ["/a", "b/a"]),
    ],
)
def test_runs_of_one_name_are_told_apart(uris: list[str], titles: list[str]) -> None:
    assert names(uris) == titles


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_on_its_way_has_the_pictures_of_its_newest_checkpoint(
    tmp_path: Path, toytown_settings: list[str]
) -> None:
    steps = ["schedule.steps=4", "checkpoint.every=2", "log.every=1"]
    settings = [*toytown_settings, f"storage.uri={tmp_path}", "cluster.workers=1", *steps]
    run = train(load("toytown", settings), "run", lambda record: None)
    run.store.delete("model.safetensors")
    read, files = reported(run.store.uri)
    assert "panels.png" in files
    assert "pictures are of step-00000004-of-1-g1." in "".join(read.text)
    assert [row[4:] for row in read.rows if row[0] == "run"][1:] == [["0 to 4", "1", "finished"]]
