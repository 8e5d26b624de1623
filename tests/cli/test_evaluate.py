"""`plca evaluate`: the numbers, where they are written, and that parts add up to the whole."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plca_dist.cli import main
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.whole_images import labelled_samples
from plca_dist.inference import distribute as job
from plca_dist.models.weights import load_weights
from plca_dist.storage import resolve
from plca_dist.training.evaluation import probabilities

TOYTOWN = LABEL_SETS["toytown"]


def confusion(run: Path, data: Path, ratio: float) -> np.ndarray:
    """The counts, image by image and pixel by pixel, in numpy."""
    network = load_weights((run / "model.safetensors").read_bytes())
    counts = np.zeros((len(TOYTOWN), len(TOYTOWN)), np.int64)
    for image, label in labelled_samples(resolve(str(data)), TOYTOWN, 0, 1):
        predicted = probabilities(network, image, size=None, ratio=ratio).argmax(0).numpy()
        for truth, guess in zip(label.numpy().ravel(), predicted.ravel(), strict=True):
            if truth != 255:
                counts[truth, guess] += 1
    return counts


def test_counts_every_pixel_once_and_says_where_it_wrote(
    run: Path, toytown_shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    val = toytown_shards / "val"
    assert main(["evaluate", str(run), "--data", str(val)]) == 0
    out, err = capsys.readouterr()
    written = run / "evaluations" / "val.json"
    assert out.endswith(f"\njson: {written}\n")
    assert "\n\n" not in out
    assert "Traceback" not in err
    result = json.loads(written.read_text())
    assert (result["images"], result["weights"], result["data"]) == (6, str(run), str(val))
    assert [s["aggregation"] for s in result["scores"]] == [0.0, 0.5]
    for score in result["scores"]:
        expected = confusion(run, val, score["aggregation"])
        assert score["confusion"] == expected.tolist()
        hit, union = np.diag(expected), expected.sum(0) + expected.sum(1) - np.diag(expected)
        present = union > 0
        assert score["miou"] == pytest.approx(100 * (hit[present] / union[present]).mean())
        assert f"{score['miou']:.1f}" in out.splitlines()[-2]
        for name, value in zip(TOYTOWN.classes, 100 * hit / np.maximum(union, 1), strict=True):
            row = next(line for line in out.splitlines() if line.startswith(f"{name}  "))
            assert f"{value:.1f}" in row
    monkeypatch.setattr(job, "_PART_IMAGES", 1)
    assert main(["evaluate", str(run), "--data", str(val)]) == 0
    assert json.loads(written.read_text()) == result, "images in other parts"


def test_a_weight_file_and_a_place_for_the_json(
    run: Path, toytown_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    val = str(toytown_shards / "val")
    assert main(["evaluate", "runs/made", "--data", val, "--json", "whole.json"]) == 0
    assert main(["evaluate", "runs/made/model.safetensors", "--data", val, "--json", "new/file.json"]) == 0
    whole, file = (json.loads((tmp_path / name).read_text()) for name in ("whole.json", "new/file.json"))
    assert whole["scores"] == file["scores"]
    assert not (run / "evaluations").exists()
    assert main(["evaluate", "runs/made/model.safetensors", "--data", val, "--aggregation", "0"]) == 0
    only = json.loads((run / "evaluations" / "val.json").read_text())
    assert only["scores"] == whole["scores"][:1]
    assert main(["evaluate", "runs/made", "--data", val, "--size", "16", "32", "--json", "small.json"]) == 0
    assert json.loads((tmp_path / "small.json").read_text())["scores"] != whole["scores"], "--size does something"
    assert f"json: {tmp_path}/new/file.json" in capsys.readouterr().out


def test_a_list_of_ratios_is_swept_on_one_checkpoint(
    run: Path, toytown_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val = toytown_shards / "val"
    assert main(["evaluate", str(run), "--data", str(val), "--aggregation", "0.75,0,0.25"]) == 0
    head, *_ = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "class"
    assert [c.strip() for c in head.split("  ") if "λ" in c] == ["λ = 0.75", "λ = 0", "λ = 0.25"]
    scores = json.loads((run / "evaluations" / "val.json").read_text())["scores"]
    assert [s["aggregation"] for s in scores] == [0.75, 0, 0.25]
    for score in scores:
        assert score["confusion"] == confusion(run, val, score["aggregation"]).tolist()
    assert main(["evaluate", str(run), "--data", str(val), "--aggregation", "0.25"]) == 0
    single = json.loads((run / "evaluations" / "val.json").read_text())["scores"]
    assert single == scores[1:]


def test_labels_without_a_labelled_pixel_are_refused(
    run: Path, withheld_shards: Path, refused_late: Callable[..., str]
) -> None:
    line = refused_late("evaluate", run, "--data", withheld_shards)
    assert f"{withheld_shards}: these labels have no labelled pixel of 'toytown', so there is no score" in line
    assert not (run / "evaluations").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("0,0.5,0.50", "0.5 is given twice"),
        ("0,1", "1 is not in [0, 1)"),
        ("0,,0.5", "'' is no number"),
        ("0;1", "no number"),
    ],
)
def test_a_list_of_ratios_that_is_none(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "run", "--data", "x", "--aggregation", given])
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_a_prediction_has_one_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "run", "--images", "x", "--out", "y", "--aggregation", "0,0.5"])
    assert "'0,0.5' is no number" in capsys.readouterr().err


def test_foreign_classes_are_ignored_and_absent_ones_named(
    toytown_shards: Path, tmp_path: Path, weights: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """A CamVid network on toytown: ten classes meet, the bicyclist is nowhere in the truth."""
    (tmp_path / "w.safetensors").write_bytes(weights(LABEL_SETS["camvid"].classes))
    assert main(["evaluate", str(tmp_path / "w.safetensors"), "--data", str(toytown_shards / "val")]) == 0
    result = json.loads((tmp_path / "evaluations" / "val.json").read_text())
    counts = np.array(result["scores"][0]["confusion"])
    assert counts[LABEL_SETS["camvid"].classes.index("bicyclist")].sum() == 0
    assert counts.sum() > 0
    assert "bicyclist" in capsys.readouterr().out
