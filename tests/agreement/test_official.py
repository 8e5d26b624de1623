"""`plca evaluate` against the benchmark's own evaluator, cityscapesscripts, on what `plca predict` wrote.

A miniature Cityscapes in the published layout goes both ways: through `plca shards` and `plca evaluate`, and as the
label-id PNGs of `plca predict` into `csEvalPixelLevelSemanticLabeling`.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plca_dist.cli import main
from plca_dist.data.labels import LABEL_SETS, cityscapes_ids
from plca_dist.models.deeplab import build_network
from plca_dist.models.weights import to_bytes

#: City, sequence and frame, height, width.
IMAGES = (("ulm", "000001_000019", 101, 181), ("ulm", "000002_000019", 96, 192), ("bonn", "000000_000019", 63, 128))
LABEL_IDS = cityscapes_ids()
#: The evaluator as its console command starts it, but without the scores of instances, which would need instance ids.
EVALUATOR = """
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as evaluator
evaluator.args.evalInstLevelScore = False
evaluator.main()
"""


def draw(root: Path, without: tuple[str, ...]) -> None:
    """Photos of coloured patches; ground truth of patches of all label ids, 0 to 33, but those of `without`."""
    generator = np.random.default_rng(0)
    ids = np.array([i for i in range(34) if i not in [LABEL_IDS[name] for name in without]], np.uint8)
    for city, frame, height, width in IMAGES:
        patches = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        truth = generator.choice(ids, (height // 4 + 1, width // 4 + 1))
        for kind, pixels, by in (
            ("leftImg8bit/val/{0}/{0}_{1}_leftImg8bit.png", patches, 8),
            ("gtFine/val/{0}/{0}_{1}_gtFine_labelIds.png", truth, 4),
        ):
            path = root / kind.format(city, frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.repeat(by, 0).repeat(by, 1)[:height, :width]).save(path)


def network(labels: str, never: tuple[str, ...]) -> bytes:
    """A random network that predicts many classes, and none of `never`."""
    torch.manual_seed(1)
    classes = LABEL_SETS[labels].classes
    made = build_network("tiny", len(classes), style="torchvision", rates=(1, 2, 4))
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        patches = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
        made.train()(patches.repeat_interleave(8, 2).repeat_interleave(8, 3))  # gives batch norm its statistics
        for convolution in made.classifier.convs:
            convolution.weight.sub_(convolution.weight.mean(1, keepdim=True))  # what features share favours no class
            convolution.weight[[classes.index(name) for name in never]] = -1
    return to_bytes(made, classes)


def officially(root: Path, predictions: Path) -> dict[str, Any]:
    environment = os.environ | {"CITYSCAPES_DATASET": str(root), "CITYSCAPES_RESULTS": str(predictions)}
    ended = subprocess.run(
        [sys.executable, "-c", EVALUATOR], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads((root / "evaluationResults" / "resultPixelLevelSemanticLabeling.json").read_text())


def both(tmp_path: Path, weights: Path, aggregation: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our score and the official result of one network at one λ."""
    root, out = tmp_path / "cityscapes", tmp_path / f"predictions-{aggregation}"
    shards, written = tmp_path / "shards", tmp_path / "ours.json"
    assert main(["shards", "cityscapes", "--root", f"{root}", "--split", "val", "--out", f"{shards}"]) == 0
    options = [str(weights), "--aggregation", aggregation]
    assert main(["evaluate", *options, "--data", f"{shards}", "--json", f"{written}"]) == 0
    assert main(["predict", *options, "--images", f"{root / 'leftImg8bit' / 'val'}", "--out", f"{out}"]) == 0
    scores = {score["aggregation"]: score for score in json.loads(written.read_text())["scores"]}
    return scores[float(aggregation)], officially(root, out / "label_ids")


@pytest.mark.parametrize("aggregation", ["0", "0.5"])
def test_every_class_and_the_mean_agree_with_cityscapesscripts(tmp_path: Path, aggregation: str) -> None:
    draw(tmp_path / "cityscapes", without=("train", "bus"))
    (tmp_path / "w.safetensors").write_bytes(network("cityscapes", never=("train", "road")))
    ours, official = both(tmp_path, tmp_path / "w.safetensors", aggregation)
    for name in LABEL_IDS:
        if name == "train":  # neither there nor predicted: no IoU, and none in the mean
            assert ours["iou"][name] is None
            assert math.isnan(official["classScores"][name])
        else:
            assert ours["iou"][name] == pytest.approx(100 * official["classScores"][name], abs=1e-6)
    assert ours["miou"] == pytest.approx(100 * official["averageScoreClasses"], abs=1e-6)
    assert ours["absent"] == ["train"]
    ids = list(LABEL_IDS.values())
    counts = np.array(official["confMatrix"])
    np.testing.assert_array_equal(np.array(ours["confusion"]), counts[np.ix_(ids, ids)])

    assert counts.sum() == sum(height * width for *_, height, width in IMAGES)
    assert np.delete(counts, ids, axis=0).sum() > 0, "no pixel is ignored"
    assert ours["iou"]["bus"] == 0, "no class is predicted where it never is"
    assert sum(value > 0 for value in ours["iou"].values() if value is not None) > 9


def test_of_synthias_16_classes_the_other_three_are_ignored(tmp_path: Path) -> None:
    """As the authors count; the evaluator agrees once the ground truth leaves the three unlabelled."""
    others = ("terrain", "truck", "train")
    draw(tmp_path / "cityscapes", without=())
    (tmp_path / "w.safetensors").write_bytes(network("synthia", never=()))
    ours, official = both(tmp_path, tmp_path / "w.safetensors", "0.5")
    classes = LABEL_SETS["synthia"].classes
    assert all(ours["iou"][name] > 100 * official["classScores"][name] for name in classes if ours["iou"][name])

    for path in (tmp_path / "cityscapes" / "gtFine").rglob("*.png"):
        with Image.open(path) as image:
            truth = np.asarray(image).copy()
        truth[np.isin(truth, [LABEL_IDS[name] for name in others])] = 0
        Image.fromarray(truth).save(path)
    official = officially(tmp_path / "cityscapes", tmp_path / "predictions-0.5" / "label_ids")
    expected = {name: 100 * official["classScores"][name] for name in classes}
    assert ours["iou"] == pytest.approx(expected, abs=1e-6)
    assert ours["miou"] == pytest.approx(sum(expected.values()) / 16, abs=1e-6)
    assert ours["means"]["mIoU-13"] == pytest.approx(
        sum(value for name, value in expected.items() if name not in ("wall", "fence", "pole")) / 13, abs=1e-6
    )
