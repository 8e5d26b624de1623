"""`plca demo --photographs`: from two folders of photographs and a weight file to one page."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from plca_dist.cli import main

LAYOUTS = {
    "camvid": ("{split}/{name}.jpg", "{split}annot/{name}.png", 11),
    "idd_lite": ("leftImg8bit/{split}/7/{name}_image.jpg", "gtFine/{split}/7/{name}_label.png", 7),
}


def draw(root: Path, dataset: str, count: int = 9) -> Path:
    image_of, label_of, classes = LAYOUTS[dataset]
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for k in range(count):
            label = np.repeat(np.repeat(rng.integers(0, classes, (4, 6), np.uint8), 60, 0), 60, 1)
            image = np.stack([label * 20, 255 - label * 20, label * 5], -1)
            for pattern, pixels in ((image_of, image), (label_of, label)):
                path = root / pattern.format(split=split, name=f"frame{k}")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {name: draw(tmp_path / name, name) for name in LAYOUTS}


@pytest.mark.ci
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_session")
def test_two_data_sets_become_a_page(folders: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "lite0.pth")
    out = tmp_path / "out"
    typed = ["demo", "--out", str(out), "--steps", "2", "--weights", str(tmp_path / "lite0.pth")]
    typed += ["--photographs", *(f"{name}={folder}" for name, folder in folders.items())]
    assert main(typed) == 0
    result = json.loads((out / "result.json").read_text())
    assert {"seed", "source_only", "plca"} == set(result)
    assert all(0 < result[name]["miou"] < 100 for name in ("source_only", "plca"))
    page = (out / "index.html").read_text()
    assert "roadside objects" in page
    assert "CamVid to IDD Lite" in page
    manifests = {path.parent.name: json.loads(path.read_text()) for path in out.glob("data/*/manifest.json")}
    assert {name: manifest["with_labels"] for name, manifest in manifests.items()} == {
        "camvid": True,
        "idd_lite_train": False,
        "idd_lite_val": True,
    }
    finished = (out / "runs" / "plca-seed0-2steps" / "evaluation.json").stat().st_mtime_ns
    assert main(typed) == 0
    assert (out / "runs" / "plca-seed0-2steps" / "evaluation.json").stat().st_mtime_ns == finished
