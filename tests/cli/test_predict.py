"""`plca predict`: what lies in the folders is what the network says, in the forms that others read."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from plca_dist.cli import main
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.whole_images import labelled_rows
from plca_dist.models.weights import load_weights
from plca_dist.storage import resolve
from plca_dist.training.evaluation import probabilities

#: The official evaluator's ids and colours of toytown's classes, from the Cityscapes scripts, in train-id order.
TOYTOWN_IDS = (7, 8, 11, 17, 20, 21, 23, 24, 26)
TOYTOWN_COLOURS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (153, 153, 153), (220, 220, 0), (107, 142, 35), (70, 130, 180),
    (220, 20, 60), (0, 0, 142),
)  # fmt: skip

#: Stem of a photograph -> its path below `photos`.
PLACE = {"street": "street", "odd": "odd", "grey": "deeper/grey"}


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, np.ndarray]:
    """Images of three sizes and kinds in `photos/`: by stem, what they look like in RGB."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    pixels = {
        "street": rng.integers(0, 256, (40, 72, 3), dtype=np.uint8),
        "odd": rng.integers(0, 256, (33, 65, 3), dtype=np.uint8),
        "grey": np.repeat(rng.integers(0, 256, (16, 24, 1), dtype=np.uint8), 3, axis=2),
    }
    Image.fromarray(pixels["street"]).save(folder / "street.png")
    Image.fromarray(pixels["odd"]).convert("RGBA").save(folder / "odd.PNG")
    Image.fromarray(pixels["grey"][..., 0]).save(folder / "deeper" / "grey.png")
    (folder / "notes.txt").write_text("not an image")
    return pixels


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == ("L" if "_ids/" in str(path) else "RGB")
        return np.asarray(image)


def test_label_ids_colours_and_overlays(
    run: Path, photos: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(run), "--images", str(tmp_path / "photos"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"3 images:\n  {out}/label_ids\n  {out}/colour\n  {out}/overlay\n"
    kinds = ("label_ids", "colour", "overlay")
    assert {str(p.relative_to(out)) for p in out.rglob("*.*")} == {f"{k}/{PLACE[s]}.png" for k in kinds for s in photos}
    network = load_weights((run / "model.safetensors").read_bytes())
    seen: set[int] = set()
    for stem, pixels in photos.items():
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        expected = probabilities(network, image, size=None, ratio=0.5).argmax(0).numpy()
        ids, colour, overlay = (read(out / kind / f"{PLACE[stem]}.png") for kind in kinds)
        np.testing.assert_array_equal(ids, np.array(TOYTOWN_IDS)[expected])
        np.testing.assert_array_equal(colour, np.array(TOYTOWN_COLOURS)[expected])
        np.testing.assert_allclose(overlay, (pixels.astype(float) + colour) / 2, atol=0.5)
        seen |= set(expected.ravel().tolist())
    assert len(seen) > 2, "a prediction of one class shows nothing"


def test_settings_reach_the_network(run: Path, photos: dict[str, np.ndarray], tmp_path: Path) -> None:
    base = ["predict", str(run), "--images", str(tmp_path / "photos")]
    for name, more in {"a": [], "b": ["--aggregation", "0"], "c": ["--size", "64", "128"]}.items():
        assert main([*base, "--out", str(tmp_path / name), *more]) == 0
    plain = read(tmp_path / "a" / "label_ids" / "street.png")
    network = load_weights((run / "model.safetensors").read_bytes())
    image = torch.from_numpy(photos["street"].copy()).permute(2, 0, 1)
    for name, size, ratio in (("b", None, 0.0), ("c", (64, 128), 0.5)):
        expected = probabilities(network, image, size=size, ratio=ratio).argmax(0).numpy()
        found = read(tmp_path / name / "label_ids" / "street.png")
        np.testing.assert_array_equal(found, np.array(TOYTOWN_IDS)[expected])
        assert (found != plain).any()


def test_classes_that_cityscapes_lacks_give_train_ids(
    photos: dict[str, np.ndarray], tmp_path: Path, weights: Callable[..., bytes]
) -> None:
    (tmp_path / "w.safetensors").write_bytes(weights(LABEL_SETS["camvid"].classes))
    base = ["predict", str(tmp_path / "w.safetensors"), "--images", str(tmp_path / "photos")]
    assert main([*base, "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "label_ids").exists()
    found = read(tmp_path / "out" / "train_ids" / "street.png")
    assert found.shape == photos["street"].shape[:2]
    assert found.max() < 11


def test_frames_of_drives_keep_their_folders(
    run: Path, photos: dict[str, np.ndarray], tmp_path: Path, refused: Callable[..., str]
) -> None:
    for drive in ("a", "b"):
        (tmp_path / "drives" / drive).mkdir(parents=True)
    Image.fromarray(photos["street"]).save(tmp_path / "drives/a/0.png")
    Image.fromarray(photos["odd"]).save(tmp_path / "drives/b/0.tif")
    command = ["predict", str(run), "--images", str(tmp_path / "drives"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    for kind in ("label_ids", "colour", "overlay"):
        assert read(tmp_path / "out" / kind / "a/0.png").shape[:2] == photos["street"].shape[:2]
        assert read(tmp_path / "out" / kind / "b/0.png").shape[:2] == photos["odd"].shape[:2]
    Image.fromarray(photos["odd"]).save(tmp_path / "drives/b/0.jpg")
    assert "b/0.jpg and b/0.tif would get predictions of one name; rename one." in refused(*command)


def test_what_reading_changes_is_said(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "deep").mkdir()
    for i in range(2):
        Image.fromarray(np.full((16, 24), 40000 * i, np.uint16)).save(tmp_path / f"deep/{i}.tif")
    Image.new("RGB", (24, 16)).save(tmp_path / "deep/plain.png")
    assert main(["predict", str(run), "--images", str(tmp_path / "deep"), "--out", str(tmp_path / "out")]) == 0
    assert "2 of 3 images: 16 bits a sample, of which the high byte is taken" in caplog.text


def test_a_single_image_is_predicted(
    run: Path, photos: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable
) -> None:
    one = tmp_path / "photos" / "street.png"
    assert main(["predict", str(run), "--images", str(one), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("1 image:")
    assert [p.name for p in (tmp_path / "out").rglob("*.png")] == ["street.png"] * 3
    assert "holds no images" in refused("predict", run, "--images", tmp_path / "no.png", "--out", tmp_path / "out")


def test_predictions_are_the_labels_of_a_next_round(
    run: Path, photos: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As train ids with the recipe's label set, or as label ids with their coding."""
    found = {}
    for kind, labels, more in (("train_ids", "toytown", ["--train-ids"]), ("label_ids", "cityscapes_label_ids", [])):
        out, shards = tmp_path / kind, tmp_path / f"shards_{kind}"
        assert main(["predict", str(run), "--images", str(tmp_path / "photos"), "--out", str(out), *more]) == 0
        shown = [str(p.relative_to(out).parts[0]) for p in sorted(out.iterdir())]
        assert shown == sorted(["colour", "overlay", kind])
        patterns = ["--images", "photos/**/*", "--label-files", f"{kind}/{kind}/**/*"]
        command = ["shards", "folder", "--root", str(tmp_path), "--out", str(shards), "--labels", labels, *patterns]
        assert main(command) == 0
        store = resolve(str(shards))
        found[kind] = {s.id: s.label for s in labelled_rows(store, LABEL_SETS["toytown"], range(3))}
    assert found["train_ids"].keys() == set(PLACE.values())
    for name, label in found["train_ids"].items():
        assert torch.equal(label, found["label_ids"][name])
    wrong = ["--labels", "cityscapes", "--images", "photos/**/*", "--label-files", "label_ids/label_ids/**/*"]
    assert main(["shards", "folder", "--root", str(tmp_path), "--out", str(tmp_path / "x"), *wrong]) == 2
    assert "They fit --labels cityscapes_label_ids" in capsys.readouterr().err


@pytest.mark.usefixtures("photos")
def test_doing_it_again_does_not_take_predictions_for_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path / "photos", tmp_path / "photos" / "out"):
        command = ["predict", str(run), "--images", str(tmp_path / "photos"), "--out", str(out)]
        for _ in range(2):
            assert main(command) == 0
            assert capsys.readouterr().out.startswith("3 images:")
        for folder in ("label_ids", "colour", "overlay"):
            for made in (out / folder).rglob("*.png"):
                made.unlink()


def test_a_photograph_is_predicted_as_viewers_show_it(
    run: Path, photos: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And hidden files beside it are no images."""
    held, exif = Image.fromarray(np.rot90(photos["street"]).copy()), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned to the right
    held.save(tmp_path / "photos" / "held.png", exif=exif)
    (tmp_path / "photos" / "._held.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "photos" / ".trash").mkdir()
    (tmp_path / "photos" / ".trash" / "x.png").write_bytes(b"gone")
    assert main(["predict", str(run), "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("4 images:")
    for kind in ("label_ids", "overlay"):
        assert np.array_equal(read(tmp_path / "out" / kind / "held.png"), read(tmp_path / "out" / kind / "street.png"))


@pytest.mark.usefixtures("photos")
def test_what_cannot_be_read_is_named_before_anything_is_predicted(
    run: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    command = ["predict", run, "--images", tmp_path / "photos", "--out", tmp_path / "out"]
    (tmp_path / "photos" / "scan.GIF").write_bytes(b"GIF8")
    assert "scan.GIF: only PNG, JPEG, TIFF, WebP and BMP are read; convert them" in refused(*command)
    (tmp_path / "photos" / "scan.GIF").unlink()
    os.mkfifo(tmp_path / "photos" / "pipe.png")
    assert "pipe.png is no file but a pipe, socket or device; take it away" in refused(*command)
    assert not (tmp_path / "out").exists()


def test_names_out_of_utf_8_are_predicted_here_and_refused_for_a_bucket(
    s3: object, run: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "odd").mkdir()
    name = os.fsdecode(b"d\xff\x1b[2J.png")
    Image.new("RGB", (24, 16)).save(tmp_path / "odd" / name)
    command = ["predict", run, "--images", tmp_path / "odd", "--out"]
    assert main([str(part) for part in [*command, tmp_path / "out"]]) == 0
    assert (tmp_path / "out" / "label_ids" / name).exists()
    line = refused(*command, "s3://bucket/odd")
    assert r"d\udcff\x1b[2J.png: its name is not UTF-8" in line
    assert line.strip().isprintable()


def test_from_a_bucket_into_a_bucket(s3: object, run: Path, photos: dict[str, np.ndarray], tmp_path: Path) -> None:
    from plca_dist.storage import resolve

    store = resolve("s3://bucket/predict")
    for path in (tmp_path / "photos").rglob("*.*"):
        store.write(f"photos/{path.relative_to(tmp_path / 'photos')}", path.read_bytes())
    base = ["predict", str(run), "--images"]
    assert main([*base, "s3://bucket/predict/photos", "--out", "s3://bucket/predict/out"]) == 0
    assert main([*base, str(tmp_path / "photos"), "--out", str(tmp_path / "out")]) == 0
    there = {e.name.removeprefix("out/"): store.read(e.name) for e in store.list("out")}
    here = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*.png")}
    assert there == here
    assert len(here) == 3 * len(photos)
