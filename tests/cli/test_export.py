"""`plca export`: ONNX files that onnxruntime runs as torch does, safetensors, and what cannot be exported."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from plca_dist.cli import main
from plca_dist.data.datasets.toytown import scene
from plca_dist.inference import export
from plca_dist.method.settings import InferenceSettings
from plca_dist.models.onnx_file import run_onnx
from plca_dist.models.weights import load_weights
from plca_dist.storage import file_at
from plca_dist.training.evaluation import probabilities

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("typed", "said", "ratio", "sizes"),
    [
        ([], "images of any size, λ = 0.5", 0.5, [(48, 64), (33, 65)]),
        (["--size", "40", "72", "--aggregation", "0"], "images of 40 x 72, λ = 0", 0.0, [(40, 72)]),
    ],
)
def test_an_onnx_file_does_what_predict_does(
    typed: list[str],
    said: str,
    ratio: float,
    sizes: list[tuple[int, int]],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), "--out", "model.onnx", *typed]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path}/model.onnx: 9 classes, {said}; from torch it differs by at most ")
    assert err == ""

    session = onnxruntime.InferenceSession("model.onnx")
    network = load_weights((run / "model.safetensors").read_bytes())
    for height, width in sizes:
        pixels_3HW = scene(1, seed=3, domain="source", height=height, width=width)[0].transpose(2, 0, 1)
        probability_1KHW, ids_1HW = session.run(["probabilities", "train_ids"], {"image": pixels_3HW[None]})
        ours_KHW = probabilities(network, torch.from_numpy(pixels_3HW.copy()), size=None, ratio=ratio).numpy()
        np.testing.assert_allclose(probability_1KHW[0], ours_KHW, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(ids_1HW[0], probability_1KHW[0].argmax(0))


def test_a_graph_aggregates_predictions_as_the_network_was_trained_to(run: Path, tmp_path: Path) -> None:
    recipe = run / "attempts/00000001/recipe.yaml"
    text = recipe.read_text()
    assert "kl_aggregation_contrast: false" in text
    recipe.write_text(text.replace("kl_aggregation_contrast: false", "kl_aggregation_contrast: true"))
    assert main(["export", str(run), "--out", f"{tmp_path}/m.onnx"]) == 0
    image_3HW = torch.from_numpy(scene(1, seed=3, domain="source", height=40, width=72)[0].transpose(2, 0, 1).copy())
    theirs_1KHW, _ = run_onnx((tmp_path / "m.onnx").read_bytes(), image_3HW[None])
    network = load_weights((run / "model.safetensors").read_bytes())
    with_it, without_it = (
        probabilities(network, image_3HW, size=None, ratio=0.5, inference=InferenceSettings(contrast))
        for contrast in (True, False)
    )
    assert (with_it - without_it).abs().max() > 1e-4
    torch.testing.assert_close(theirs_1KHW[0], with_it, rtol=0, atol=1e-5)


def test_a_graph_that_is_off_is_not_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_weights((run / "model.safetensors").read_bytes())
    monkeypatch.setattr(export, "to_onnx", lambda *_, **__: b"")
    for wrong in (0.01, float("nan")):

        def off(data: bytes, image_13HW: torch.Tensor, by: float = wrong) -> tuple[torch.Tensor, None]:
            right_KHW = probabilities(network, image_13HW[0], size=None, ratio=0.5)
            right_KHW[0, -1, -1] += by
            return right_KHW[None], None

        monkeypatch.setattr(export, "run_onnx", off)
        assert main(["export", str(run), "--out", f"{tmp_path}/m.onnx"]) == 1
        assert "off torch's; not written" in capsys.readouterr().err
    assert list(tmp_path.glob("*.onnx")) == []


def test_safetensors_are_the_runs_own(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--out", f"{tmp_path}/m.safetensors"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/m.safetensors: 9 classes, tiny in style torchvision\n"
    assert (tmp_path / "m.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("s3")
def test_from_a_bucket_into_a_bucket(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = "s3://bucket/export/a.safetensors", "s3://bucket/export/b.safetensors"
    assert main(["export", str(run), "--out", first]) == 0
    assert main(["export", first, "--out", second]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"{second}: 9 classes, tiny in style torchvision"
    store, name = file_at(second)
    assert store.read(name) == (run / "model.safetensors").read_bytes()
    assert main(["export", first, "--out", second]) == 2


def test_what_cannot_be_exported(refused: Refused, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "as .safetensors or .onnx, or as .pth" in refused("export", run, "--out", tmp_path / "model.pt")
    assert "no λ" in refused("export", run, "--out", tmp_path / "m.safetensors", "--aggregation", "0")
    assert "no size" in refused("export", run, "--out", tmp_path / "m.safetensors", "--size", "32", "32")
    assert "exists already" in refused("export", run, "--out", run / "model.safetensors")
    assert "holds no recipe.yaml" in refused("export", tmp_path, "--out", tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    line = refused("export", run, "--out", tmp_path / "m.onnx")
    assert "onnxscript is not installed: pip install 'plca-dist[export]'" in line
    monkeypatch.undo()
    (run / "model.safetensors").unlink()
    assert "has not finished" in refused("export", run, "--out", tmp_path / "m.onnx")
    assert list(tmp_path.glob("m.*")) == []
