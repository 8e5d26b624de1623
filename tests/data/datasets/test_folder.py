"""Folders as people have them: patterns, lists, zips, names that nearly agree, labels coded in their own way."""

import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plca_dist.data.datasets.dataset import ForeignLabels, Reader
from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.shards import write_shards
from plca_dist.errors import UserError
from plca_dist.storage import resolve


def draw(path: Path, pixels: np.ndarray | int = 0, size: tuple[int, int] = (6, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels if isinstance(pixels, np.ndarray) else np.full(size, pixels, np.uint8)
    Image.fromarray(array).save(path)


def photo(path: Path) -> None:
    draw(path, np.full((6, 8, 3), 9, np.uint8))


def opened(root: Path, *, list_file: Path | None = None, with_labels: bool = True, **patterns: str) -> Reader:
    label_set = "camvid" if with_labels else None
    return open_dataset("folder", root, label_set=label_set, with_labels=with_labels, list_file=list_file, **patterns)


def first_values(reader: Reader) -> dict[str, int]:
    """Id -> the label's first train id; each label of these tests has its own."""
    samples = [reader.load(i) for i in range(len(reader))]
    return {s.id: int(s.label[0, 0]) for s in samples if s.label is not None}


def refused(root: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, **options)  # type: ignore[arg-type]
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(f"{root}", "ROOT")


@pytest.fixture
def idd(tmp_path: Path) -> Path:
    for k, (split, drive, name) in enumerate(
        [("train", "0", "7"), ("train", "1", "7"), ("train", "1", "8"), ("val", "2", "7")]
    ):
        photo(tmp_path / f"leftImg8bit/{split}/{drive}/{name}_image.jpg")
        draw(tmp_path / f"gtFine/{split}/{drive}/{name}_label.png", k)
    return tmp_path


PATTERNS = {"images": "leftImg8bit/train/*/*_image.jpg", "label_files": "gtFine/train/*/*_label.png"}


def test_stars_pair_images_and_labels(idd: Path) -> None:
    (idd / "gtFine/train/0/._7_label.png").write_bytes(b"\0\5\x16\7")
    assert first_values(opened(idd, **PATTERNS)) == {"0/7": 0, "1/7": 1, "1/8": 2}
    deep = {"images": "leftImg8bit/**/*_image.jpg", "label_files": "gtFine/**/*_label.png"}
    assert first_values(opened(idd, **deep)) == {"train/0/7": 0, "train/1/7": 1, "train/1/8": 2, "val/2/7": 3}
    assert list(opened(idd, images="leftImg8bit/*/1/*", with_labels=False).ids) == ["train/7_image", "train/8_image"]


def test_subfolders_with_the_same_names_are_read(tmp_path: Path) -> None:
    for k, name in enumerate(("a/0", "b/0", "b/c/0", "0")):
        photo(tmp_path / f"images/{name}.jpg")
        draw(tmp_path / f"labels/{name}.png", k)
    assert first_values(opened(tmp_path)) == {"0": 3, "a/0": 0, "b/0": 1, "b/c/0": 2}


def test_patterns_that_fit_nothing_or_pair_ambiguously_are_refused(idd: Path) -> None:
    line = refused(idd, images="leftImg8bit/train/*/*.png", label_files="gtFine/train/*/*_label.png")
    assert line.startswith(
        "ROOT is no folder dataset: --images leftImg8bit/train/*/*.png fits nothing; there are leftImg"
    )
    assert refused(idd, images="leftImg/*/*", label_files="gtFine/*/*").startswith(
        "ROOT is no folder dataset: leftImg/ is"
    )
    line = refused(idd, images=PATTERNS["images"], label_files="gtFine/train/*_label.png")
    assert line == (
        "--label-files gtFine/train/*_label.png has * and --images leftImg8bit/train/*/*_image.jpg has * *; each star "
        "stands for the same text in both."
    )
    assert refused(idd, images=PATTERNS["images"]).startswith(
        "--images leftImg8bit/train/*/*_image.jpg: where their lab"
    )
    for images, said in (
        ("a/b.png", "it names one file; put * where names differ."),
        ("/a/*.png", "give a path below --root, such as images/*.png."),
        ("../*.png", "give a path below --root, such as images/*.png."),
        ("a/**", "** stands for folders; write **/ before the name."),
    ):
        assert refused(idd, images=images, with_labels=False) == f"--images {images!r}: {said}"
    assert refused(idd, label_files="gtFine/*").startswith("--label-files gtFine/* goes with --images")
    (idd / "gtFine/train/1/8_label.png").unlink()
    line = refused(idd, **PATTERNS)
    assert (
        "ROOT: no label for ROOT/leftImg8bit/train/1/8_image.jpg (label ROOT/gtFine/train/1/8_label.png); add" in line
    )
    line = refused(idd, images=PATTERNS["images"], label_files="gtFine/train/*/*_labels.png")
    assert line.endswith("There are gtFine/train/0/7_label.png, gtFine/train/1/7_label.png.")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_may_differ_in_normal_form_and_case_of_the_ending(tmp_path: Path, forms: tuple[str, str]) -> None:
    image, label = (unicodedata.normalize(form, "straße_ä") for form in forms)
    photo(tmp_path / f"images/{image}.JPG")
    draw(tmp_path / f"labels/{label}.PNG", 3)
    assert list(first_values(opened(tmp_path)).values()) == [3]
    patterns = {"images": "images/*.jpg", "label_files": "labels/*.png"}
    assert list(first_values(opened(tmp_path, **patterns)).values()) == [3]


def test_of_two_labels_the_one_of_the_same_name_counts_or_none(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "é")
    for k, name in enumerate(("é", decomposed)):
        photo(tmp_path / f"images/{name}.jpg")
        draw(tmp_path / f"labels/{name}.png", k)
    if len(list((tmp_path / "images").iterdir())) == 1:
        pytest.skip("this file system has one normal form")
    assert first_values(opened(tmp_path)) == {"é": 0, decomposed: 1}
    draw(tmp_path / "labels/é.tif", 2)
    assert refused(tmp_path) == "ROOT: images/é.jpg has more than one label: labels/é.png, labels/é.tif; keep one."


def test_labels_of_every_format_that_keeps_values(tmp_path: Path) -> None:
    for k, suffix in enumerate(("png", "tif", "TIFF", "bmp")):
        photo(tmp_path / f"images/{k}.webp")
        draw(tmp_path / f"labels/{k}.{suffix}", k)
    photo(tmp_path / "images/4.bmp")
    Image.fromarray(np.full((6, 8), 4, np.uint8)).save(tmp_path / "labels/4.webp", lossless=True)
    patterns = {"images": "images/*", "label_files": "labels/*"}
    with pytest.raises(UserError, match=r"4\.webp: .*colour image of equal channels; write coding: red"):
        first_values(opened(tmp_path, **patterns))
    (tmp_path / "set.yaml").write_text("classes: camvid\ncoding: red")
    reader = open_dataset("folder", tmp_path, label_set=str(tmp_path / "set.yaml"))
    assert first_values(reader) == {str(k): k for k in range(5)}


def listed(root: Path, text: str, name: str = "train.txt") -> Path:
    (root / name).write_text(text)
    return root / name


def test_lists_of_ids_or_paths_choose_among_the_images(idd: Path) -> None:
    for text in (
        "1/8\n0/7\n",
        "# chosen\n\n1/8\r\n0/7",
        "leftImg8bit/train/1/8_image.jpg\n./leftImg8bit/train/0/7_image.jpg",
    ):
        assert first_values(opened(idd, list_file=listed(idd, text), **PATTERNS)) == {"1/8": 2, "0/7": 0}
    line = refused(idd, list_file=listed(idd, "1/8\n1/9\n1/10"), **PATTERNS)
    assert "2 of 3 lines name no image that --images fits, first in line 2: 1/9. Did you mean" in line


def test_lists_of_images_and_labels(idd: Path) -> None:
    a, b = (
        ("leftImg8bit/train/1/8_image.jpg", "gtFine/train/1/8_label.png"),
        ("leftImg8bit/val/2/7_image.jpg", "gtFine/val/2/7_label.png"),
    )
    expected = {a[0].removesuffix(".jpg"): 2, b[0].removesuffix(".jpg"): 3}
    for joint in (" ", "\t"):
        text = "\n".join(f"/{joint.join(pair)}" for pair in (a, b))
        assert first_values(opened(idd, list_file=listed(idd, text))) == expected
    text = f"image, label\n{a[0]}, {a[1]}\n{b[0]}, {b[1]}\n"
    assert first_values(opened(idd, list_file=listed(idd, text, "train.csv"))) == expected
    text = f"id,split,image,label\nfirst,train,{a[0]},{a[1]}\nsecond,val,{b[0]},{b[1]}\n"
    assert first_values(opened(idd, list_file=listed(idd, text, "train.csv"))) == {"first": 2, "second": 3}
    assert len(opened(idd, list_file=listed(idd, f"{a[0]}\n{b[0]}"), with_labels=False)) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists nothing."),
        (
            "a.jpg b.png c.png",
            "line 1: 3 columns, where an image and its label are two; names with spaces go into a .csv",
        ),
        ("a.jpg b.png\na.jpg c.png", "lists a.jpg more than once."),
        (
            "leftImg8bit/train/1/8_image.jpg\n",
            "names no labels; write each behind its image, or give --images and --la",
        ),
        ("a.jpg b.png\nc.jpg", "line 2: c.jpg has no label, and others have."),
        (
            "leftImg8bit/train/1/9_image.jpg x.png",
            "line 1: leftImg8bit/train/1/9_image.jpg does not exist. Did you mean ",
        ),
    ],
)
def test_lists_that_are_none_are_refused(idd: Path, text: str, said: str) -> None:
    line = refused(idd, list_file=listed(idd, text))
    assert line.removeprefix("--list ROOT/train.txt").lstrip(", ").startswith(said)


def test_csv_lists_that_are_none_are_refused(idd: Path) -> None:
    line = refused(idd, list_file=listed(idd, "a.jpg,b.png", "l.csv"))
    assert line.endswith("l.csv: the first line names the columns: image, and label or id where there are such.")
    line = refused(idd, list_file=listed(idd, "image,lable\na.jpg,b.png", "l.csv"))
    assert line.endswith("l.csv: column 'lable' is unknown. Did you mean 'label'?")
    assert refused(idd, list_file=listed(idd, "image,label\n,b.png", "l.csv")).endswith(
        "l.csv, line 2: it names no image."
    )
    (idd / "l.txt").write_bytes(b"\xff\xfe\x00")
    assert "is no text in UTF-8" in refused(idd, list_file=idd / "l.txt")
    assert "cannot be read: No such file or directory" in refused(idd, list_file=idd / "none.txt")


def zipped(archive: Path, root: Path, prefix: str = "") -> None:
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(root.rglob("*.*")):
            if path.is_file() and path != archive:
                out.write(path, prefix + path.relative_to(root).as_posix())
        out.writestr("__MACOSX/images/._0.png", b"\0\5\x16\7")


def test_a_zip_is_read_in_place(tmp_path: Path) -> None:
    for k in range(3):
        photo(tmp_path / f"set/images/{k}.jpg")
        draw(tmp_path / f"set/labels/{k}.png", k)
    zipped(tmp_path / "set.zip", tmp_path / "set")
    plain, packed = opened(tmp_path / "set"), opened(tmp_path / "set.zip")
    assert first_values(packed) == first_values(plain) == {"0": 0, "1": 1, "2": 2}
    assert [packed.load(i).image for i in range(3)] == [plain.load(i).image for i in range(3)]
    assert len({packed.stamp(i) for i in range(3)}) == 3
    # Two zips beside each other, as many sets are published.
    zipped(tmp_path / "images.zip", tmp_path / "set/images", "all/")
    zipped(tmp_path / "labels.zip", tmp_path / "set/labels")
    patterns = {"images": "images.zip/all/*.jpg", "label_files": "labels.zip/*.png"}
    assert first_values(opened(tmp_path, **patterns)) == {"0": 0, "1": 1, "2": 2}
    store = resolve(str(tmp_path / "out"))
    assert write_shards(opened(tmp_path, **patterns), store, with_labels=True, workers=2).rows == 3


def test_a_damaged_zip_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "set/images/0.jpg")
    zipped(tmp_path / "set.zip", tmp_path / "set")
    data = bytearray((tmp_path / "set.zip").read_bytes())
    data[60] ^= 0xFF
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"set\.zip/images/0\.jpg: cannot be read out of its zip: Bad CRC-32"):
        opened(tmp_path / "set.zip", with_labels=False).load(0)
    (tmp_path / "none.zip").write_bytes(b"no zip")
    assert "none.zip: is no readable zip: File is not a zip file; copy it again." in refused(
        tmp_path / "none.zip"
    ).replace("ROOT", "none.zip")


MINE = {
    "values": (
        "classes: [{name: a, values: 7}, {name: b, values: [8, 300]}]\nignore: [0]",
        np.array([[7, 8, 300, 0]], np.uint16),
    ),
    "palette": ("classes: [{name: a, values: 1}, {name: b, values: 0}]", np.array([[1, 0, 0, 255]], np.uint8)),
    "red": (
        "coding: red\nclasses: [{name: a, values: 7}, {name: b, values: 8}]\nignore: 0",
        np.array([[[7, 1, 2], [8, 9, 9], [8, 0, 0], [0, 7, 7]]], np.uint8),
    ),
    "colour": (
        'coding: colour\nclasses: [{name: a, colour: "#ff0000"}, {name: b, colours: [[0, 0, 9], [9, 0, 0]], '
        "colour: [0, 9, 0]}]\nignore: [0, 0, 0]",
        np.array([[[255, 0, 0], [0, 0, 9], [9, 0, 0], [0, 0, 0]]], np.uint8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("coding", MINE)
def test_labels_are_read_as_their_set_says(tmp_path: Path, coding: str) -> None:
    text, pixels = MINE[coding]
    (tmp_path / "mine.yaml").write_text(text)
    draw(tmp_path / "images/x.png", np.zeros((1, 4, 3), np.uint8))
    draw(tmp_path / "labels/x.png", pixels)
    if coding == "palette":
        image = Image.frombytes("P", (4, 1), pixels.tobytes())
        image.putpalette([c for i in range(256) for c in (255 - i, i // 2, 90)])
        image.save(tmp_path / "labels/x.png")
    label = open_dataset("folder", tmp_path, label_set=str(tmp_path / "mine.yaml")).load(0).label
    assert label is not None
    assert label.tolist() == ([[0, 1, 1, 255]])


@pytest.mark.parametrize(
    ("text", "pixels", "said"),
    [
        (
            "classes: [a, b]", [[0, 7, 7], [0, 30, 1]],
            "label values 7, 30 are not folder's; allowed: 0-1, 255. 7: 2 pixels, the first in row 0, column 1, 30: 1 "
            "pixel, the first in row 1, column 1.",
        ),
        ("classes: [a, b]", [[0, 255], [0, 255]], None),
        ("classes: [a, b]\nignore: []", [[0, 255], [0, 255]], "Black and white masks: give the first class values: 0"),
        ("classes: [a, b, c]", [[1, 2], [3, 1]], "Classes counted from 1? Then give them values: 1 to 3"),
        ("classes: cityscapes", [[7, 11], [26, 23]], "They fit --labels cityscapes_label_ids or gta5"),
        (
            "coding: colour\nclasses: [{name: a, colour: [9, 9, 9]}, {name: b, colour: [0, 0, 0]}]",
            [[[9, 9, 9], [9, 9, 8]]],
            "label colours #090908 are not folder's; allowed: #000000, #090909. #090908: 1 pixel, the first in row",
        ),
    ],
)  # fmt: skip
def test_what_is_outside_the_coding_is_named(tmp_path: Path, text: str, pixels: list, said: str | None) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    array = np.array(pixels, np.uint8)
    draw(tmp_path / "images/x.png", np.zeros((*array.shape[:2], 3), np.uint8))
    draw(tmp_path / "labels/x.png", array)
    reader = open_dataset("folder", tmp_path, label_set=str(tmp_path / "mine.yaml"))
    if said is None:
        reader.load(0)
        return
    with pytest.raises(ForeignLabels) as caught:
        reader.load(0)
    assert f"{tmp_path}/labels/x.png: " in str(caught.value)
    assert said in str(caught.value)


def test_another_coding_is_other_shards(tmp_path: Path) -> None:
    draw(tmp_path / "images/x.png", np.zeros((1, 2, 3), np.uint8))
    draw(tmp_path / "labels/x.png", np.array([[0, 1]], np.uint8))
    store = resolve(str(tmp_path / "out"))

    def write(text: str) -> None:
        (tmp_path / "mine.yaml").write_text(text)
        write_shards(open_dataset("folder", tmp_path, label_set=str(tmp_path / "mine.yaml")), store, with_labels=True)

    write("classes: [a, b]")
    write("classes: [a, b]")
    with pytest.raises(UserError, match="already holds 1 samples of folder, written from other data or with other"):
        write("classes: [{name: a, values: 1}, {name: b, values: 0}]")
