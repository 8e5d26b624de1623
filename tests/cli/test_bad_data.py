"""Data sets that cannot become shards as they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plca_dist.cli import main
from plca_dist.data.shards import read_manifest
from plca_dist.storage import resolve

Refused = Callable[..., str]


def images(folder: Path, count: int, mode: str = "RGB", value: int = 7) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.full((16, 24, 3) if mode == "RGB" else (16, 24), value + i, np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:05d}.png")


@pytest.fixture
def gta5(tmp_path: Path) -> Path:
    images(tmp_path / "gta5" / "images", 4)
    images(tmp_path / "gta5" / "labels", 4, "L")
    return tmp_path / "gta5"


@pytest.mark.parametrize("dataset", ["gta5", "synthia", "cityscapes", "camvid", "folder"])
def test_a_root_that_is_not_that_data_set_is_refused(dataset: str, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "root" / "pictures").mkdir(parents=True)
    split = ["--split", "train"] if dataset in ("cityscapes", "camvid") else []
    labels = ["--labels", "cityscapes"] if dataset == "folder" else []
    line = refused("shards", dataset, "--root", tmp_path / "root", "--out", tmp_path / "out", *split, *labels)
    assert f"{tmp_path}/root is no {dataset} dataset" in line
    assert "is missing" in line
    assert "Expected layout" in line
    assert "--root" in refused("shards", dataset, "--out", tmp_path / "out", *split, *labels)
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_fit_are_refused(refused: Refused, gta5: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "out"]
    assert "Did you mean 'camvid'?" in refused("shards", "camvd", "--root", gta5, *out)
    assert "Did you mean 'train'?" in refused("shards", "camvid", "--root", gta5, "--split", "trian", *out)
    assert "--split" in refused("shards", "toytown", "--split", "val", *out)
    assert "--count" in refused("shards", "gta5", "--root", gta5, "--count", 3, *out)
    assert "split" in refused("shards", "gta5", "--root", gta5, "--split", "val", *out)
    assert "--no-labels" in refused("shards", "folder", "--root", gta5, "--labels", "camvid", "--no-labels", *out)
    assert "Did you mean 'camvid'?" in refused("shards", "folder", "--root", gta5, "--labels", "canvid", *out)
    assert not (tmp_path / "out").exists()


def test_foreign_label_values_are_refused_with_file_and_values(
    refused_late: Refused, gta5: Path, tmp_path: Path
) -> None:
    pixels = np.full((16, 24), 7, np.uint8)
    pixels[3:5, 3] = 200, 77
    Image.fromarray(pixels).save(gta5 / "labels" / "00002.png")
    line = refused_late("shards", "gta5", "--root", gta5, "--out", tmp_path / "out")
    assert str(gta5 / "labels" / "00002.png") in line
    assert "77" in line
    assert "200" in line
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_unreadable_image_stops_sharding_or_is_listed(
    refused_late: Refused, capsys: pytest.CaptureFixture[str], gta5: Path, tmp_path: Path
) -> None:
    broken = gta5 / "images" / "00001.png"
    broken.write_bytes(broken.read_bytes()[:40])
    command = ["shards", "gta5", "--root", str(gta5), "--out", str(tmp_path / "out")]
    line = refused_late(*command)
    assert str(broken) in line
    assert "--skip-broken" in line
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert main([*command, "--skip-broken"]) == 0
    summary = capsys.readouterr().out
    assert "3 samples" in summary
    assert "00001" in summary
    assert [s.id for s in read_manifest(resolve(str(tmp_path / "out"))).skipped] == ["00001"]


def test_shards_are_not_replaced_unasked(
    refused: Refused, gta5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["shards", "gta5", "--root", str(gta5), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.*")}
    assert len(before) == 2
    assert "--overwrite" in refused(*command, "--no-labels")
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.*")} == before
    assert main([*command, "--no-labels", "--overwrite"]) == 0
    assert "no labels" in capsys.readouterr().out
