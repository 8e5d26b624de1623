"""`plca import`: the authors' files in, used by every command, and out again by `plca export`; what is refused."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plca_dist.cli import main
from plca_dist.data.labels import cityscapes_ids
from plca_dist.recipe import load
from plca_dist.run.directory import open_run
from tests.authors import MEAN_BGR, ORDER, AuthorsNetwork

Refused = Callable[..., str]
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def theirs() -> AuthorsNetwork:
    return AuthorsNetwork()


@pytest.fixture(scope="module")
def files(theirs: AuthorsNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `authors.pth` and what `plca import` made of it, `ours.safetensors`."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "authors.pth").write_bytes(theirs.file())
    assert main(["import", f"{folder}/authors.pth", "--out", f"{folder}/ours.safetensors"]) == 0
    return folder


def test_an_imported_file_predicts_what_theirs_does(theirs: AuthorsNetwork, files: Path, tmp_path: Path) -> None:
    pixels_HW3 = np.random.default_rng(0).integers(0, 256, (97, 129, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels_HW3).save(tmp_path / "photos" / "a.png")
    command = ["predict", f"{files}/ours.safetensors", "--aggregation", "0", "--images", f"{tmp_path}/photos"]
    assert main([*command, "--out", f"{tmp_path}/out"]) == 0

    bgr_13HW = torch.from_numpy(pixels_HW3[..., ::-1] - np.array(MEAN_BGR)).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        grid_1Khw = theirs(bgr_13HW).softmax(1)
    row_HW = torch.nn.functional.interpolate(grid_1Khw, (97, 129), mode="bilinear").argmax(1)[0]
    expected_HW = np.array([cityscapes_ids()[name] for name in ORDER])[row_HW]
    found_HW = np.asarray(Image.open(tmp_path / "out" / "label_ids" / "a.png"))
    assert (found_HW == expected_HW).mean() > 0.999  # but for ties
    assert len(np.unique(expected_HW)) > 4


def test_an_imported_file_is_evaluated_and_trained_from(
    files: Path, toytown_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json = f"{tmp_path}/scores.json"
    assert main(["evaluate", f"{files}/ours.safetensors", "--data", f"{toytown_shards}/val", "--json", json]) == 0
    assert "mIoU" in capsys.readouterr().out
    uris = [f"{name}.uri={toytown_shards}/{name}" for name in ("source", "target")]
    network = ["labels=cityscapes", "model.backbone=resnet101", "model.style=caffe", "model.rates=[6, 12, 18, 24]"]
    crops = ["source.crop=[32, 64]", "target.crop=[32, 64]", "evaluation.uri=null"]
    for name in ("authors.pth", "ours.safetensors"):
        settings = [*uris, *network, *crops, f"storage.uri={tmp_path}/runs", f"model.weights={files}/{name}"]
        open_run(load("toytown", settings), "from-theirs")  # loads the weights


def test_the_way_back(theirs: AuthorsNetwork, files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["export", f"{files}/ours.safetensors", "--out", f"{tmp_path}/again.pth"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/again.pth: 19 classes, resnet101 in style caffe\n"
    again = torch.load(tmp_path / "again.pth", weights_only=True)["weights"]
    assert list(again) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(again[key], value), key


def test_files_that_cannot_be_imported(refused: Refused, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.safetensors"

    def broken(weights: object) -> Path:
        torch.save({"weights": weights}, tmp_path / "broken.pth")
        return tmp_path / "broken.pth"

    whole = (files / "authors.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    assert "not a file of tensors" in refused("import", tmp_path / "cut.pth", "--out", out)
    state = torch.load(io.BytesIO(whole), weights_only=True)["weights"]
    head = "classifier.0.convs.0.0.weight"
    few = broken({head: state[head][:13]})
    assert "13 classes where the authors' models have 19, or 16" in refused("import", few, "--out", out)
    other = broken({key.replace("layer3.22", "layer3.x"): value for key, value in state.items()})
    line = refused("import", other, "--out", out)
    assert str(other) in line
    assert "18 missing: backbone.layer3.22.conv1.weight, " in line
    assert "18 unexpected: backbone.layer3.x.conv1.weight" in line
    line = refused("import", tmp_path / "absent.pth", "--out", out)
    assert f"{tmp_path}/absent.pth does not exist" in line
    assert "not one of the authors' files" in refused("import", _plain(tmp_path), "--out", out)
    assert not out.exists()
    assert "is called .safetensors" in refused("import", files / "authors.pth", "--out", tmp_path / "new")
    ours = files / "ours.safetensors"
    before = ours.read_bytes()
    assert "exists already" in refused("import", files / "authors.pth", "--out", ours)
    assert ours.read_bytes() == before


def _plain(folder: Path) -> Path:
    torch.save({"conv1.weight": torch.zeros(1)}, folder / "plain.pth")
    return folder / "plain.pth"


def test_what_has_no_authors_file(refused: Refused, run: Path, files: Path, tmp_path: Path) -> None:
    line = refused("export", run, "--out", tmp_path / "a.pth")
    assert f"{run} cannot be an authors' file" in line
    assert "backbone 'resnet101', not 'tiny'" in line
    assert "export it as .safetensors" in line
    for option in (["--size", 32, 32], ["--aggregation", 0]):
        assert "settings of an .onnx file" in refused("export", run, "--out", tmp_path / "a.pth", *option)
    assert "does not exist" in refused("export", tmp_path / "no.safetensors", "--out", tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()
    assert "exists already" in refused("export", run, "--out", files / "authors.pth")
    line = refused("export", files / "authors.pth", "--out", tmp_path / "a.pth")
    assert "`plca import` makes one" in line


@pytest.mark.slow
def test_training_starts_from_an_imported_file(files: Path, training: Arguments, tmp_path: Path) -> None:
    more = [
        "labels=cityscapes", "model.backbone=resnet101", "model.style=caffe", "model.rates=[6, 12, 18, 24]",
        f"model.weights={files}/ours.safetensors", "schedule.steps=1", "batch.pairs=1", "evaluation.every=0",
        "cluster.workers=1", "optimizer.lr=1e-9",
    ]  # fmt: skip
    assert main(training(tmp_path / "runs", *(part for setting in more for part in ("--set", setting)))) == 0
    assert main(["export", f"{tmp_path}/runs/toytown", "--out", f"{tmp_path}/again.pth"]) == 0
    again = torch.load(tmp_path / "again.pth", weights_only=True)["weights"]
    came = torch.load(files / "authors.pth", weights_only=True)["weights"]
    for key in ("backbone.layer3.11.conv2.weight", "classifier.0.convs.3.0.weight"):
        torch.testing.assert_close(again[key], came[key], rtol=0, atol=1e-5)
