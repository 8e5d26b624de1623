"""`report`: what of runs gets onto the page, also of those that are not finished, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plca_dist.data.labels import LABEL_SETS
from plca_dist.errors import UserError
from plca_dist.launch.pictures import Looks
from plca_dist.launch.report import names, report
from plca_dist.launch.run import open_run
from plca_dist.launch.train import train
from plca_dist.models.deeplab import build_network
from plca_dist.models.weights import to_bytes
from plca_dist.recipe import load
from plca_dist.storage import resolve
from plca_dist.training.history import Attempt
from plca_dist.training.metrics import score
from tests.html_reader import Reader, assert_self_contained
from tests.seaweed import S3

CLASSES = LABEL_SETS["toytown"].classes
ATTEMPTS = [
    Attempt(1, 1000.0, 0, 2, {"torch": "2.11"}, 1060.0, 20, "preempted", "SIGTERM"),
    Attempt(2, 2000.0, 20, 1, {"torch": "2.12"}, 2060.0, 40, "finished"),
]
Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path, toytown_shards: Path) -> Make:
    """`make(name, *settings, finished=…, seed=…)`: the URI of a run as training leaves it, but of random weights."""

    def made(name: str, *settings: str, finished: bool = True, seed: int = 0, storage: str = "") -> str:
        uris = [f"source.uri={toytown_shards}/source", f"target.uri={toytown_shards}/target"]
        uris += [f"evaluation.uri={toytown_shards}/val", f"storage.uri={storage or tmp_path / 'runs'}"]
        config = load(
            "toytown", [*uris, "source.crop=[32, 64]", "target.crop=[32, 64]", "schedule.steps=40", *settings]
        )
        run = open_run(config, name)
        run.claim()
        records = [{"step": s, "loss/total": 3.0 / s, "elapsed_s": s / 10} for s in (10, 20, 30)]
        run.store.write("metrics.jsonl", "".join(json.dumps(r) + "\n" for r in records).encode())
        run.store.write("history.json", json.dumps([vars(a) for a in ATTEMPTS]).encode())
        if finished:
            torch.manual_seed(seed)
            network = build_network("tiny", len(CLASSES), style="torchvision", rates=config.model.rates)
            run.store.write("model.safetensors", to_bytes(network, CLASSES))
            counts = torch.randint(1, 50, (len(CLASSES),) * 2, generator=torch.Generator().manual_seed(seed))
            scores = [{"aggregation": r, **score(counts, LABEL_SETS["toytown"]).as_dict()} for r in (0.0, 0.5)]
            outcome = {"step": 40, "labels": "toytown", "images": 6, "scores": scores}
            run.store.write("evaluation.json", json.dumps(outcome).encode())
        return run.store.uri

    return made


def reported(*places: str, looks: Looks | None = None, out: str | None = None) -> tuple[Reader, list[str]]:
    """The page of the runs, and the names of the files beside it."""
    shown: list[tuple[str, int, int]] = []
    files = report(places, out, looks or Looks(images=2, candidates=4), lambda *told: shown.append(told))
    assert all(("images", 4, 4) in shown for what, *_ in shown if what == "images")
    folder, _, name = files[0].rpartition("/")
    assert name == "index.html"
    text = resolve(folder).read(name).decode()
    assert_self_contained(text)
    assert all(resolve(folder).read(file.rpartition("/")[2])[:4] == b"\x89PNG" for file in files[1:])
    return Reader(text), [file.rpartition("/")[2] for file in files[1:]]


def test_two_runs_stand_side_by_side(make: Make, tmp_path: Path) -> None:
    first, last = make("first", "objective.association=0", seed=1), make("last", "seed=3", seed=2)
    read, files = reported(first, last, looks=Looks(images=4, candidates=4), out=str(tmp_path / "out"))
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


def test_a_run_remembers_its_launches(make: Make, tmp_path: Path) -> None:
    read, _ = reported(make("told"), looks=Looks(images=0))
    assert (tmp_path / "runs/told/report/index.html").exists(), "of one run the page goes into the run"
    facts = {row[0]: row[1:] for row in read.rows}
    assert facts["time"] == ["0:03 of training, 2:00 with starts and ends"]
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
    recipe = resolve(place).read("recipe.yaml").decode()
    resolve(place).write("recipe.yaml", recipe.replace(f"{toytown_shards}/val", f"{tmp_path}/away").encode())
    read, files = reported(place)
    text = "".join(read.text)
    assert "no predictions: " in text
    assert f"no manifest.json under {tmp_path}/away" in text
    assert "panels.png" not in files
    assert files[1:3] == ["cycle-association-1.png", "cycle-association-2.png"], "they need the training shards alone"
    assert "of the associations correct" not in text, "nobody has labels of the target's"
    with pytest.raises(UserError, match="nowhere"):
        reported(place, looks=Looks(data=str(tmp_path / "nowhere")))
    _, files = reported(place, looks=Looks(data=f"{toytown_shards}/val", images=2, candidates=4))
    assert "panels.png" in files
    moved = recipe.replace(str(toytown_shards), f"{tmp_path}/away")
    resolve(place).write("recipe.yaml", moved.encode())
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
def test_a_run_on_its_way_has_the_pictures_of_its_newest_checkpoint(tmp_path: Path, toytown_shards: Path) -> None:
    uris = [
        f"{name}.uri={toytown_shards}/{at}" for name, at in (("source",) * 2, ("target",) * 2, ("evaluation", "val"))
    ]
    crops = ["source.crop=[32, 64]", "target.crop=[32, 64]", f"storage.uri={tmp_path}", "cluster.workers=1"]
    steps = ["schedule.steps=4", "checkpoint.every=2", "log.every=1"]
    run = train(load("toytown", [*uris, *crops, *steps]), "run", lambda record: None)
    run.store.delete("model.safetensors")
    read, files = reported(run.store.uri)
    assert "panels.png" in files
    assert "pictures are of step-00000004-of-1." in "".join(read.text)
    assert [row[4:] for row in read.rows if row[0] == "run"][1:] == [["0 to 4", "1", "finished"]]
