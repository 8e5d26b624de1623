"""Stores, shards, runs and weights that are not there or not what they should be."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from plca_dist.cli import main
from plca_dist.data.labels import LABEL_SETS
from plca_dist.models.deeplab import build_network

Refused = Callable[..., str]
Arguments = Callable[..., list[str]]
Weights = Callable[..., bytes]


def test_missing_shards_and_missing_labels_are_refused(
    refused: Refused, training: Arguments, toytown_shards: Path, tmp_path: Path
) -> None:
    base = training(tmp_path / "runs")
    line = refused(*base, "--set", f"source.uri={tmp_path}/nowhere")
    assert "no manifest.json" in line
    assert f"{tmp_path}/nowhere" in line
    assert "plca shards" in line
    assert "holds no labels" in refused(*base, "--set", f"source.uri={toytown_shards}/target")
    assert "--no-labels" in refused(*base, "--set", f"target.uri={toytown_shards}/source")
    assert "batch" in refused(*base, "--set", "batch.pairs=32")
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_is_refused(
    refused: Refused, refused_late: Refused, training: Arguments, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a directory")
    assert str(tmp_path / "file") in refused(*training(tmp_path / "file"))
    assert str(tmp_path / "file") in refused_late("shards", "toytown", "--out", tmp_path / "file" / "x", "--count", 1)


@pytest.mark.parametrize(
    ("variables", "place", "parts"),
    [
        ({}, "s3://no-such-bucket/x", ["s3://no-such-bucket", "bucket does not exist"]),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3://bucket/x", ["s3://bucket", "check AWS_SECRET_ACCESS_KEY"]),
        ({"AWS_ACCESS_KEY_ID": "stranger"}, "s3://bucket/x", ["s3://bucket", "check AWS_ACCESS_KEY_ID"]),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://bucket/x", ["s3://bucket", "AWS_ENDPOINT_URL"]),
        ({}, "s4://bucket/x", ["'s4'", "s3://bucket/prefix"]),
        ({}, "s3:///x", ["names no bucket"]),
    ],
)
@pytest.mark.usefixtures("s3")
def test_a_store_out_of_reach_is_explained_by_every_command(
    variables: dict[str, str], place: str, parts: list[str], refused: Refused, run: Path, toytown_shards: Path,
    training: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    lines = [
        refused("shards", "toytown", "--out", place),
        refused(*training(place)),
        refused(*training(tmp_path), "--set", f"source.uri={place}"),
        refused("evaluate", place, "--data", toytown_shards / "val"),
        refused("evaluate", run, "--data", place),
        refused("predict", run, "--images", place, "--out", tmp_path / "out"),
        refused("report", place),
        refused("report", run, "--out", place, "--images", 0),
    ]
    for line in lines:
        for part in parts:
            assert part in line


def test_weights_of_another_network_are_refused_before_anything_is_written(
    refused: Refused, training: Arguments, weights: Weights, tmp_path: Path
) -> None:
    (tmp_path / "camvid.safetensors").write_bytes(weights(LABEL_SETS["camvid"].classes))
    (tmp_path / "wide.safetensors").write_bytes(weights(LABEL_SETS["toytown"].classes, rates=(6, 12)))
    (tmp_path / "noise.pth").write_bytes(b"not weights at all")
    torch.save(build_network("tiny", 9, style="torchvision", rates=(1, 2)).state_dict(), tmp_path / "torch.pth")
    base = training(tmp_path / "runs")
    for file, parts in {
        "camvid.safetensors": ["another network", "classes", "bicyclist"],
        "wide.safetensors": ["another network", "rates", "(6, 12)", "(1, 2, 4)"],
        "noise.pth": [],
        "torch.pth": ["tiny"],
        "absent.pth": ["does not exist", "model.weights"],
    }.items():
        line = refused(*base, "--set", f"model.weights={tmp_path}/{file}")
        for part in (file, *parts):
            assert part in line
    assert not (tmp_path / "runs").exists()


def test_a_run_of_another_recipe_is_refused_with_the_keys_named(
    refused: Refused, training: Arguments, run: Path
) -> None:
    (run / "checkpoints/step-00000004-of-1-g1").mkdir(parents=True)
    (run / "checkpoints/step-00000004-of-1-g1/commit.json").write_text("{}")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    base = training(run.parent, "--name", run.name)
    line = refused(*base, "--set", "seed=3", "--set", "objective.lovasz=0", "--set", "log.every=1")
    assert f"run {run} exists with another recipe" in line
    assert "seed (0 there, 3 here)" in line
    assert "objective.lovasz (0.75 there, 0.0 here)" in line
    assert "log.every" not in line
    assert f"another --name; that one begins with these weights under --set model.weights={run}" in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_on_other_shards_is_refused(refused: Refused, run: Path, training: Arguments, tmp_path: Path) -> None:
    assert main(["shards", "toytown", "--out", str(tmp_path / "b"), "--size", "32", "64", "--count", "8"]) == 0
    line = refused(*training(run.parent, "--name", run.name, "--set", f"target.uri={tmp_path}/b/target"))
    assert "the target shards" in line
    assert "the source shards" not in line


def test_what_is_no_run_cannot_be_used(refused: Refused, run: Path, toytown_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"x")
    (tmp_path / "foreign.safetensors").write_bytes(b"x" * 100)
    places = {
        str(tmp_path / "nowhere"): "holds no recipe.yaml",
        str(tmp_path): "holds no recipe.yaml",
        str(tmp_path / "photo.png"): "holds no recipe.yaml",
        str(tmp_path / "foreign.safetensors"): "not written by plca_dist",
        str(tmp_path / "absent.safetensors"): "does not exist",
        f"{run}/checkpoints/step-00000010-of-2": "no committed checkpoint",
    }
    for place, part in places.items():
        for line in (
            refused("evaluate", place, "--data", toytown_shards / "val"),
            refused("predict", place, "--images", tmp_path, "--out", tmp_path / "out"),
        ):
            assert place in line
            assert part in line
    (run / "model.safetensors").unlink()
    line = refused("evaluate", run, "--data", toytown_shards / "val")
    assert "has not finished" in line
    assert "plca train" in line
    assert not (tmp_path / "out").exists()


def test_shards_that_cannot_be_scored_are_refused(
    refused: Refused, run: Path, toytown_shards: Path, tmp_path: Path
) -> None:
    assert "no manifest.json" in refused("evaluate", run, "--data", tmp_path / "nowhere")
    assert "holds no labels" in refused("evaluate", run, "--data", toytown_shards / "target")
    assert not (run / "evaluations").exists()


def test_folders_that_cannot_be_predicted_are_refused(
    refused: Refused, refused_late: Refused, run: Path, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    command = ["predict", run, "--images", photos, "--out", out]
    assert "holds no images (.png, .jpg, .jpeg, .jpe, .jfif, .tif, .tiff, .webp, .bmp)" in refused(*command)
    photos.mkdir()
    (photos / "notes.txt").write_text("no image")
    assert "holds no images" in refused(*command)
    for name in ("sub/a.png", "sub/a.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16)).save(photos / name)
    line = refused(*command)
    assert "sub/a.png" in line
    assert "sub/a.jpg" in line
    (photos / "a.png").write_bytes((photos / "sub" / "a.png").read_bytes()[:50])
    (photos / "sub" / "a.png").unlink()
    (photos / "sub" / "a.jpg").unlink()
    assert f"{photos}/a.png" in refused_late(*command)
    assert not out.exists()
