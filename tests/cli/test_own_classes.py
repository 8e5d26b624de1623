"""A person's own classes, two or very many, from raw files to scores, predictions and the page."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plca_dist.cli import main
from plca_dist.data.label_record import own_record
from plca_dist.models.deeplab import build_network
from plca_dist.models.weights import to_bytes
from plca_dist.recipe import load
from plca_dist.run.directory import open_run
from plca_dist.storage import resolve
from plca_dist.training.class_gaps import class_gaps


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The working directory gets images, labels counted from 1 in 16 bits, a label set and a recipe."""
    monkeypatch.chdir(tmp_path)

    def make(classes: int) -> None:
        rng = np.random.default_rng(0)
        for i in range(2):
            for folder in ("photos/drive", "truth/drive"):
                Path(folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(f"photos/drive/{i}_rgb.tif")
            values = np.resize(np.arange(classes, dtype=np.uint16) + 1, (24, 32))
            values[0, 0] = 0
            Image.fromarray(values).save(f"truth/drive/{i}_classes.png")
        entries = "".join(f"  - {{name: thing {k}, values: {k}}}\n" for k in range(1, classes + 1))
        Path("mine.yaml").write_text(f"classes:\n{entries}ignore: 0\ngroups: {{both: [thing 1, thing 2]}}\n")
        Path("recipe.yaml").write_text(
            "labels: mine.yaml\nmodel: {backbone: tiny, rates: [1, 2]}\nsource: {uri: labelled, crop: [16, 16]}\n"
            "target: {uri: photos, crop: [16, 16]}\nevaluation: {uri: labelled}\nschedule: {steps: 1}\n"
            "batch: {pairs: 2}\n"
        )

    return make


def plca(*arguments: str) -> None:
    assert main(list(arguments)) == 0


@pytest.mark.parametrize("classes", [2, 150])
def test_own_classes_work_everywhere(
    classes: int, mine: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    mine(classes)
    images = ["--images", "photos/**/*_rgb.tif"]
    labelled = [*images, "--label-files", "truth/**/*_classes.png", "--labels", "mine.yaml"]
    plca("shards", "folder", "--root", ".", *labelled, "--out", "data/labelled", "--preview", "mine.html")
    assert "2 images, 32 x 24 pixels" in capsys.readouterr().out
    plca("shards", "folder", "--root", ".", *images, "--no-labels", "--out", "data/photos")
    config = load("recipe.yaml")
    assert class_gaps(config) == []
    run = open_run(config, "made")
    run.claim(1)
    network = build_network("tiny", classes, style="torchvision", rates=(1, 2))
    labels = config.label_set
    run.store.write("model.safetensors", to_bytes(network, labels.classes, own_record(labels)))
    for file in ("mine.yaml", "recipe.yaml"):
        Path(file).unlink()  # a run and its weights know their classes

    capsys.readouterr()
    for place in ("runs/made", "runs/made/model.safetensors"):
        plca("evaluate", place, "--data", "data/labelled", "--aggregation", "0", "--json", "scores.json")
        out = capsys.readouterr().out
        assert all(f"thing {k} " in out for k in range(1, classes + 1))
        assert "\nboth" in out
        plca("predict", place, "--images", "photos", "--out", "out")
        values = np.asarray(Image.open("out/train_ids/drive/0_rgb.png"))
        colours = np.asarray(Image.open("out/colour/drive/0_rgb.png"))
        assert values.max() < classes
        assert np.array_equal(colours, np.array(labels.palette, np.uint8)[values])
    plca("report", "runs/made", "--images", "1")
    page = resolve("runs/made/report").read("index.html").decode()
    assert "thing 2" in page
    assert "no pictures" not in page
