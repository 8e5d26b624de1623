"""What folders hold beside plain images: each is read, ignored or refused by name, and never opened in vain."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from plca_dist.data.codec import decode_image
from plca_dist.data.datasets.dataset import ForeignLabels
from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.domain import DomainStream
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.shards import ShardReader, read_manifest, write_shards
from plca_dist.data.whole_images import labelled_rows
from plca_dist.errors import UserError
from plca_dist.storage import resolve

CAMVID = LABEL_SETS["camvid"]


def photo(path: Path, value: int = 7, size: tuple[int, int] = (16, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def ids(root: Path) -> tuple[str, ...]:
    return tuple(open_dataset("folder", root, with_labels=False).ids)


def test_hidden_files_are_no_images_and_endings_may_be_in_upper_case(tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG", "c.JPG", "d.jfif.jpeg"):
        photo(tmp_path / "images" / name)
    for name in ("._a.png", "._e.png", ".hidden.jpg"):
        (tmp_path / "images" / name).write_bytes(b"\0\5\x16\7")
    assert ids(tmp_path) == ("a", "b", "c", "d.jfif")
    for dataset, images, labels in (("gta5", "images", "labels"), ("synthia", "RGB", "GT/LABELS")):
        root = tmp_path / dataset
        for name in ("0.png", "1.PNG"):
            photo(root / images / name)
            (root / labels).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((16, 24), 7, np.uint8)).save(root / labels / name)
        reader = open_dataset(dataset, root)
        assert [reader.load(i).id for i in range(2)] == ["0", "1"]


def test_images_of_another_name_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ulm = tmp_path / "leftImg8bit" / "train" / "ulm"
    photo(ulm / "ulm_0_leftImg8bit.png")
    photo(ulm / "ulm_1_LEFTIMG8BIT.PNG")
    photo(ulm / "preview.jpg")
    reader = open_dataset("cityscapes", tmp_path, "train", with_labels=False)
    assert tuple(reader.ids) == ("ulm_0", "ulm_1")
    assert str(ulm / "preview.jpg") in caplog.text


@pytest.mark.parametrize("suffix", ["tif", "webp", "bmp", "TIFF"])
def test_pictures_of_other_formats_are_read(tmp_path: Path, suffix: str) -> None:
    photo(tmp_path / "images" / f"x.{suffix}", value=200)
    out = resolve(str(tmp_path / "out"))
    write_shards(open_dataset("folder", tmp_path, with_labels=False), out, with_labels=False)
    row = ShardReader(out, read_manifest(out)).read_row_group(0, 0, ["image"])
    assert decode_image(row["image"][0].as_py()).min() >= 195


@pytest.mark.parametrize("suffix", ["gif", "GIF"])
def test_pictures_that_are_not_read_are_refused_by_name_or_listed(tmp_path: Path, suffix: str) -> None:
    for i in range(4):
        photo(tmp_path / "images" / f"{i}.png")
    photo(tmp_path / "images" / f"x.{suffix}")
    reader = open_dataset("folder", tmp_path, with_labels=False)
    out = resolve(str(tmp_path / "out"))
    with pytest.raises(UserError, match=rf"x\.{suffix}: cannot be decoded: it is GIF, and PNG, JPEG.* are read; conv"):
        write_shards(reader, out, with_labels=False)
    assert [s.id for s in write_shards(reader, out, with_labels=False, skip_broken=True).skipped] == ["x"]


@pytest.mark.parametrize("what", ["pipe", "socket", "device", "directory"])
@pytest.mark.parametrize("where", ["images/1.png", "labels/1.png"])
def test_what_is_no_file_is_named_and_never_opened(
    tmp_path: Path, where: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        photo(tmp_path / f"images/{i}.png")
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((16, 24), np.uint8)).save(tmp_path / f"labels/{i}.png")
    odd = tmp_path / where
    odd.unlink()
    monkeypatch.chdir(odd.parent)  # a socket's path must be short
    if what == "pipe":
        os.mkfifo(odd)
    elif what == "socket":
        socket.socket(socket.AF_UNIX).bind(odd.name)
    elif what == "device":
        odd.symlink_to("/dev/zero")
    else:
        odd.mkdir()
    reader = open_dataset("folder", tmp_path, label_set="camvid")
    with pytest.raises(UserError, match=r"1\.png: is no file but a directory, pipe, socket or device; take it away"):
        write_shards(reader, resolve(str(tmp_path / "out")), with_labels=True)


def test_labels_in_another_coding_are_no_broken_files(tmp_path: Path) -> None:
    for i in range(8):
        photo(tmp_path / f"images/{i}.png")
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.fromarray(np.full((16, 24), 26 if i == 5 else 3, np.uint8)).save(tmp_path / f"labels/{i}.png")
    reader = open_dataset("folder", tmp_path, label_set="camvid")
    out = resolve(str(tmp_path / "out"))
    with pytest.raises(ForeignLabels, match=r"5\.png: label values 26 are not folder's; allowed: 0-10, 255") as error:
        write_shards(reader, out, with_labels=True, skip_broken=True)
    assert "--skip-broken" not in str(error.value)
    assert not out.exists("manifest.json")


def test_odd_names_are_harmless(tmp_path: Path) -> None:
    names = (b"a\nb", b"c\x1b[2J", b"d\xff", "é 漢".encode())
    for name in names:
        photo(tmp_path / "plain.png")
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "plain.png").rename(tmp_path / "images" / f"{os.fsdecode(name)}.png")
    reader = open_dataset("folder", tmp_path, with_labels=False)
    assert set(reader.ids) == {r"a\nb", r"c\x1b[2J", r"d\udcff", "é 漢"}
    store = resolve(str(tmp_path / "out"))
    write_shards(reader, store, with_labels=False)
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"broken")
        with pytest.raises(UserError) as error:
            write_shards(reader, store, with_labels=False, overwrite=True)
        assert str(error.value).isprintable()


@pytest.mark.parametrize("labels_too", [True, False])
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_a_label_lies_on_what_it_labels_however_the_photograph_is_held(
    tmp_path: Path, orientation: int, labels_too: bool
) -> None:
    """The label is the brightness of the image. It is drawn on the image as viewers show it, or has the same tag."""
    rng = np.random.default_rng(orientation)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for i in range(2):
        label = rng.integers(0, 2, (6, 10), dtype=np.uint8)
        image = Image.fromarray(np.stack([label * 200] * 3, axis=-1))
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        image.save(tmp_path / f"images/{i}.png", exif=exif)
        with Image.open(tmp_path / f"images/{i}.png") as held:
            shown = np.asarray(ImageOps.exif_transpose(held))[..., 0] // 200
        if labels_too:
            Image.fromarray(label).save(tmp_path / f"labels/{i}.png", exif=exif)
        else:
            Image.fromarray(shown).save(tmp_path / f"labels/{i}.png")
    store = resolve(str(tmp_path / "out"))
    write_shards(open_dataset("folder", tmp_path, label_set="camvid"), store, with_labels=True)
    for sample in labelled_rows(store, CAMVID, range(2)):
        assert np.array_equal(sample.image[0] // 200, sample.label)
    training = DomainStream(
        store, "source", labels=CAMVID, batch=1, seed=0, window=1, shorter_edge=None, crop=(10, 10), flip=True
    )
    for step in range(2):
        training.announce(step, 0)
        sample = training.load(step, 0)
        assert sample.label_HW is not None
        inside = sample.label_HW != 255
        assert inside.sum() == 60
        assert np.array_equal(sample.image_3HW[0][inside] // 200, sample.label_HW[inside])
    training.groups.close()
