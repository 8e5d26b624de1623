"""Miniature trees in the exact published layouts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plca_dist.data.codec import decode_image
from plca_dist.data.datasets.layouts import DATASETS, open_dataset
from plca_dist.data.labels import LABEL_SETS, cityscapes_ids
from plca_dist.errors import UserError

CAMVID = Path(__file__).resolve().parents[3].parent / "shared" / "camvid"


def photo(path: Path, height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def grey(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image = Image.frombytes("P", image.size, values.astype(np.uint8).tobytes())
        image.putpalette([c for i in range(256) for c in (255 - i, i // 2, 90)])
    image.save(path)


def values(*first: int, height: int = 6, width: int = 8) -> np.ndarray:
    """A label image that holds the given values, and the first of them elsewhere."""
    out = np.full(height * width, first[0], np.uint16)
    out[: len(first)] = first
    return out.reshape(height, width)


@pytest.fixture
def gta5(tmp_path: Path) -> Path:
    for n in (2, 1):
        photo(tmp_path / f"images/{n:05d}.png", seed=n)
        grey(tmp_path / f"labels/{n:05d}.png", values(*range(35)), palette=True)
    return tmp_path


def test_gta5_palette_indices_are_label_ids(gta5: Path) -> None:
    reader = open_dataset("gta5", gta5)
    assert reader.ids == ("00001", "00002")
    assert reader.label_set is LABEL_SETS["cityscapes"]
    assert reader.labelled
    sample = reader.load(1)
    assert (sample.id, sample.height, sample.width) == ("00002", 6, 8)
    assert sample.image == (gta5 / "images/00002.png").read_bytes()
    assert sample.label is not None
    assert sample.label.dtype == np.uint8
    train_id = {label_id: n for n, label_id in enumerate(cityscapes_ids().values())}
    assert sample.label.reshape(-1)[:35].tolist() == [train_id.get(i, 255) for i in range(35)]


def test_without_labels_label_files_need_not_exist(gta5: Path) -> None:
    for path in (gta5 / "labels").iterdir():
        path.unlink()
    reader = open_dataset("gta5", gta5, with_labels=False)
    assert not reader.labelled
    assert reader.load(0).label is None


def test_cityscapes(tmp_path: Path) -> None:
    for city, frame in (("ulm", "000001_000019"), ("aachen", "000010_000019")):
        photo(tmp_path / f"leftImg8bit/train/{city}/{city}_{frame}_leftImg8bit.png")
        grey(tmp_path / f"gtFine/train/{city}/{city}_{frame}_gtFine_labelIds.png", values(7, 33, 0, 255))
        grey(tmp_path / f"gtFine/train/{city}/{city}_{frame}_gtFine_instanceIds.png", values(99))
    reader = open_dataset("cityscapes", tmp_path, "train")
    assert reader.ids == ("aachen_000010_000019", "ulm_000001_000019")
    label = reader.load(0).label
    assert label is not None
    assert label.reshape(-1)[:5].tolist() == [0, 18, 255, 255, 0]
    assert len(open_dataset("cityscapes", tmp_path, "train", with_labels=False)) == 2
    with pytest.raises(UserError, match=r"is no cityscapes dataset: leftImg8bit/val/ is missing\. Expected layout: "):
        open_dataset("cityscapes", tmp_path, "val")
    with pytest.raises(UserError, match=r"split 'trian': give one of train, val, test\. Did you mean 'train'\?"):
        open_dataset("cityscapes", tmp_path, "trian")
    with pytest.raises(UserError, match=r"split None: give one of"):
        open_dataset("cityscapes", tmp_path)


def test_camvid_layout(tmp_path: Path) -> None:
    photo(tmp_path / "val/a.jpg")
    photo(tmp_path / "val/b.png")
    (tmp_path / "val/readme.txt").write_text("no image")
    for name in "ab":
        grey(tmp_path / f"valannot/{name}.png", values(*range(12)))
    reader = open_dataset("camvid", tmp_path, "val")
    assert reader.ids == ("a", "b")
    label = reader.load(0).label
    assert label is not None
    assert label.reshape(-1)[:12].tolist() == [*range(11), 255]
    grey(tmp_path / "valannot/b.png", values(12, 0))
    with pytest.raises(UserError, match=r"b\.png: label values 12 are not camvid's; allowed: 0-11\."):
        reader.load(1)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="the CamVid frames are not on this machine")
def test_the_real_camvid() -> None:
    train, val = open_dataset("camvid", CAMVID, "train"), open_dataset("camvid", CAMVID, "val")
    assert (len(train), len(val)) == (367, 101)
    assert not set(train.ids) & set(val.ids)
    colours: dict[str, list[np.ndarray]] = {}
    for i in range(0, 367, 40):
        sample = train.load(i)
        assert (sample.height, sample.width) == (360, 480)
        assert sample.label is not None
        image = decode_image(sample.image).numpy()
        for n, name in enumerate(LABEL_SETS["camvid"].classes):
            if (sample.label == n).sum() > 500:
                colours.setdefault(name, []).append(image[:, sample.label == n].mean(axis=1))
    # The classes are where they should be: sky is bright, road is grey.
    sky, road = (np.mean(colours[name], axis=0) for name in ("sky", "road"))
    assert sky.min() > 150
    assert sky.mean() > 1.5 * road.mean()
    assert np.ptp(road) < 30


def test_a_folder_needs_the_name_of_its_label_set(tmp_path: Path) -> None:
    photo(tmp_path / "images/x.jpeg")
    reader = open_dataset("folder", tmp_path, with_labels=False)
    assert (reader.label_set, reader.labelled, reader.load(0).label) == (None, False, None)
    grey(tmp_path / "labels/x.png", values(0, 15, 255))
    with pytest.raises(UserError, match="need the name of their label set"):
        open_dataset("folder", tmp_path)
    label = open_dataset("folder", tmp_path, label_set="synthia").load(0).label
    assert label is not None
    assert label.reshape(-1)[:3].tolist() == [0, 15, 255]
    grey(tmp_path / "labels/x.png", values(0, 16, 200))
    with pytest.raises(UserError, match=r"label values 16, 200 are not folder's; allowed: 0-15, 255"):
        open_dataset("folder", tmp_path, label_set="synthia").load(0)
    with pytest.raises(UserError, match=r"label set 'synthai' is unknown.*'synthia'"):
        open_dataset("folder", tmp_path, label_set="synthai")


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    photo(tmp_path / "images/x.jpg")
    photo(tmp_path / "images/x.png")
    with pytest.raises(UserError, match="more than one image is called x"):
        open_dataset("folder", tmp_path, with_labels=False)


def test_a_wrong_root_says_what_is_missing_and_what_is_expected(tmp_path: Path) -> None:
    gta5 = tmp_path / "GTA5"
    photo(gta5 / "images/00001.png")
    for root, said in (
        (gta5 / "images", "images/ is missing"),
        (gta5.parent, f"images/ is missing. Did you mean {gta5}"),
        (gta5 / "nowhere", "there is no such directory"),
    ):
        with pytest.raises(UserError) as caught:
            open_dataset("gta5", root)
        assert said in str(caught.value)
        assert DATASETS["gta5"].layout in str(caught.value)
    for path in (gta5 / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="images/ holds no image"):
        open_dataset("gta5", gta5)
    with pytest.raises(UserError, match=r"gta5 needs the directory"):
        open_dataset("gta5")


def test_an_image_without_label_is_named(gta5: Path) -> None:
    (gta5 / "labels/00002.png").unlink()
    with pytest.raises(UserError, match=r"no label for .*images/00002\.png \(label .*labels/00002\.png\); add"):
        open_dataset("gta5", gta5)


def test_options_a_dataset_does_not_have_are_refused(gta5: Path) -> None:
    with pytest.raises(UserError, match="gta5 has no split to choose"):
        open_dataset("gta5", gta5, "train")
    with pytest.raises(UserError, match="gta5 has no count to choose"):
        open_dataset("gta5", gta5, count=3)
    with pytest.raises(UserError, match=r"dataset 'gta' is unknown; known: .*Did you mean 'gta5'"):
        open_dataset("gta", gta5)
    with pytest.raises(UserError, match="toytown is drawn"):
        open_dataset("toytown", gta5)


def test_broken_files_are_named(gta5: Path) -> None:
    reader = open_dataset("gta5", gta5)
    image, label = gta5 / "images/00001.png", gta5 / "labels/00001.png"
    good_image, good_label = image.read_bytes(), label.read_bytes()
    flipped = bytearray(good_image)
    flipped[len(flipped) // 2] ^= 0x40
    for broken, said in (
        (good_image[: len(good_image) // 2], "truncated"),
        (good_image[:-12], "truncated"),
        (bytes(flipped), "checksum"),
        (b"", "no PNG, JPEG, TIFF, WebP or BMP"),
        (b"<html>404</html>", "no PNG, JPEG, TIFF, WebP or BMP"),
    ):
        image.write_bytes(broken)
        with pytest.raises(UserError, match=rf"images/00001\.png: cannot be decoded: .*{said}"):
            reader.load(0)
    image.write_bytes(good_image)
    for broken in (good_label[:-40], b"", b"text"):
        label.write_bytes(broken)
        with pytest.raises(UserError, match=r"labels/00001\.png: cannot be read as a label"):
            reader.load(0)
    photo(label)
    with pytest.raises(UserError, match=r"labels/00001\.png: .*colour image"):
        reader.load(0)
    grey(label, values(7, height=8, width=6))
    with pytest.raises(UserError, match=r"the label is 6x8 pixels, its image .* is 8x6"):
        reader.load(0)
    label.unlink()
    with pytest.raises(UserError, match=r"labels/00001\.png: cannot be read: No such file"):
        reader.load(0)


def test_a_stamp_follows_the_content_and_not_the_place(gta5: Path, tmp_path: Path) -> None:
    reader = open_dataset("gta5", gta5)
    stamps = [reader.stamp(0), reader.stamp(1)]
    assert stamps[0] != stamps[1]
    assert open_dataset("gta5", gta5, with_labels=False).stamp(0) != stamps[0]
    data = (gta5 / "labels/00001.png").read_bytes()
    (gta5 / "labels/00001.png").write_bytes(data)  # a new time of change
    assert reader.stamp(0) == stamps[0]
    grey(gta5 / "labels/00001.png", values(*range(1, 35), 34), palette=True)
    assert reader.stamp(0) != stamps[0]
