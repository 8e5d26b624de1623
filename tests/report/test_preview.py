"""The page that shows a data set before anything is trained on it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plca_dist.cli import main
from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.errors import UserError
from plca_dist.report.preview import preview
from tests.html_reader import Reader


def dataset(root: Path, images: int = 9, classes: int = 3) -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for i in range(images):
        Image.fromarray(np.full((8, 12, 3), 20 * i, np.uint8)).save(root / f"images/{i}.png")
        label = np.zeros((8, 12), np.uint8)
        label[:, 6:], label[0] = 1, 255
        Image.fromarray(label).save(root / f"labels/{i}.png")
    names = ", ".join(f"{{name: class {k}, colour: [{k}, 100, 200]}}" for k in range(classes))
    (root / "set.yaml").write_text(f"classes: [{names}]")
    return root


def run(root: Path, *options: object) -> int:
    command = ["shards", "folder", "--root", root, "--labels", root / "set.yaml", *options]
    return main([str(part) for part in command])


def test_the_page_shows_images_labels_and_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = dataset(tmp_path / "mine")
    assert run(root, "--preview", tmp_path / "pages/mine.html") == 0
    assert capsys.readouterr().out == f"preview: {tmp_path}/pages/mine.html\n"
    assert not (tmp_path / "out").exists()
    page = Reader((tmp_path / "pages/mine.html").read_text())
    text = "".join(page.text)
    assert f"folder: {root}" in text
    assert "6 of 9 images, evenly spread" in text
    assert text.count("labels over it") == 6
    for part in ("class 0", "43.8 %", "class 2", "0.0 %", "12.5 %", "of the pixels shown", "counted over 6 images"):
        assert part in text, part


def test_with_shards_the_shares_are_those_of_all_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = dataset(tmp_path / "mine")
    assert run(root, "--out", tmp_path / "out", "--preview", tmp_path / "mine.html") == 0
    out = capsys.readouterr().out
    assert "9 images, 12 x 8 pixels" in out
    assert "never: class 2" in out
    text = "".join(Reader((tmp_path / "mine.html").read_text()).text)
    assert "of all pixels" in text
    assert "counted over 9 images" in text


def test_photographs_without_labels_are_shown_too(tmp_path: Path) -> None:
    root = dataset(tmp_path / "mine", images=2)
    reader = open_dataset("folder", root, with_labels=False)
    text = "".join(Reader(preview("photos", reader, None, lambda *_: None)).text)
    assert "2 of 2 images" in text
    assert "labels" not in text.replace("labels over it", "")


def test_150_classes_have_rows(tmp_path: Path) -> None:
    root = dataset(tmp_path / "mine", images=2, classes=150)
    reader = open_dataset("folder", root, label_set=str(root / "set.yaml"))
    text = "".join(Reader(preview("many", reader, None, lambda *_: None)).text)
    assert all(f"class {k}" in text for k in range(150))


def test_a_broken_image_stops_the_page_or_is_left_out(tmp_path: Path) -> None:
    root = dataset(tmp_path / "mine", images=3)
    (root / "images/1.png").write_bytes(b"broken")
    reader = open_dataset("folder", root, label_set=str(root / "set.yaml"))
    with pytest.raises(UserError, match=r"1\.png: cannot be decoded"):
        preview("mine", reader, None, lambda *_: None)
    text = "".join(Reader(preview("mine", reader, None, lambda *_: None, skip_broken=True)).text)
    assert "2 of 3 images" in text


def test_options_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = dataset(tmp_path / "mine", images=2)
    for options, said in (
        ((), "give --out for the shards, --preview for a page about the data set, or --verify."),
        (("--preview", tmp_path / "x.png"), "x.png: give the name of an .html file."),
    ):
        assert run(root, *options) == 2
        assert said in capsys.readouterr().err
    assert main(["shards", "toytown", "--out", str(tmp_path / "out"), "--preview", "x.html"]) == 2
    assert "toytown takes no --preview." in capsys.readouterr().err
    assert main(["shards", "--verify", str(tmp_path), "--preview", "x.html"]) == 2
    assert "--verify reads shards and writes none; leave out '--preview'." in capsys.readouterr().err
