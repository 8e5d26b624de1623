"""Small copies of published layouts: which files are pairs, and which value is which class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plca_dist.data.datasets.layouts import DATASETS, open_dataset
from plca_dist.data.labels import LABEL_SETS
from plca_dist.errors import UserError

#: Data set -> split, paths of (images, labels) for the names of its samples, raw values and the class of each.
LAYOUTS: dict = {
    "idd": (
        "val",
        ("leftImg8bit/val/{}_leftImg8bit.png", "gtFine/val/{}_gtFine_labellevel3Ids.png"),
        [("12/frame0",), ("7/frame0",)],
        {0: "road", 8: "autorickshaw", 25: "sky", 255: None},
    ),
    "idd_lite": (
        "train",
        ("leftImg8bit/train/{}_image.jpg", "gtFine/train/{}_label.png"),
        [("12/frame0",), ("7/0",)],
        {0: "drivable", 4: "roadside objects", 6: "sky", 255: None},
    ),
    "bdd100k": (
        "train",
        ("images/10k/train/{}.jpg", "labels/sem_seg/masks/train/{}.png"),
        [("0a-1",)],
        {0: "road", 18: "bicycle", 255: None},
    ),
    "acdc": (
        "train",
        ("rgb_anon/{}/train/{}_rgb_anon.png", "gt/{}/train/{}_gt_labelTrainIds.png"),
        [("fog", "GOPR1/GOPR1_frame_1"), ("night", "GOPR1/GOPR1_frame_1")],
        {0: "road", 18: "bicycle", 255: None},
    ),
    "mapillary_vistas": (
        "val",
        ("validation/images/{}.jpg", "validation/labels/{}.png"),
        [("x_1",)],
        {13: "road", 24: "road", 2: "sidewalk", 15: "sidewalk", 20: "rider", 22: "rider", 52: "bicycle", 65: None},
    ),
    "carla": (
        None,
        ("rgb/{}.png", "semantic/{}.png"),
        [("town1/000001",)],
        {1: "road", 24: "road", 14: "car", 12: "person", 19: "bicycle", 0: None, 28: None},
    ),
    "virtual_kitti": (
        None,
        ("{}/frames/rgb/{}/rgb_{}.jpg", "{}/frames/classSegmentation/{}/classgt_{}.png"),
        [("Scene01/clone", "Camera_0", "00001"), ("Scene01/fog", "Camera_1", "00001")],
        {(100, 60, 100): "road", (0, 199, 0): "vegetation", (0, 139, 139): "car", (80, 80, 80): None},
    ),
    "synscapes": (None, ("img/rgb/{}.png", "img/class/{}.png"), [("17",)], {7: "road", 33: "bicycle", 0: None}),
}


def draw(root: Path, dataset: str) -> None:
    _, (images, labels), names, values = LAYOUTS[dataset]
    for image, label in ((images.format(*name), labels.format(*name)) for name in names):
        pixels = np.array(list(values), np.uint8)[None]
        if dataset == "carla":  # the tag is in the red channel, and other things are in the others
            pixels = np.stack([pixels, pixels * 0 + 3, pixels * 0 + 4, pixels * 0 + 255], axis=-1)
        for name, array in ((image, np.zeros((1, len(values), 3), np.uint8)), (label, pixels)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / name)


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_pairs_and_classes(dataset: str, tmp_path: Path) -> None:
    split, (images, labels), names, values = LAYOUTS[dataset]
    draw(tmp_path, dataset)
    (tmp_path / images.format(*names[0])).with_name("._stray.jpg").write_bytes(b"\0\5\x16\7")
    reader = open_dataset(dataset, tmp_path, split)
    assert list(reader.ids) == sorted("/".join(name) for name in names)
    assert reader.label_set is not None
    classes = reader.label_set.classes
    assert reader.label_set is LABEL_SETS[dataset if dataset.startswith("idd") else "cityscapes"]
    for i in range(len(reader)):
        label = reader.load(i).label
        assert label is not None
        assert [None if v == 255 else classes[v] for v in label[0]] == list(values.values())
    for path in [tmp_path / labels.format(*name) for name in names]:
        path.unlink()
    assert len(open_dataset(dataset, tmp_path, split, with_labels=False)) == len(names)
    with pytest.raises(UserError, match="no label for "):
        open_dataset(dataset, tmp_path, split)


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_another_root_says_what_is_expected(dataset: str, tmp_path: Path) -> None:
    split = LAYOUTS[dataset][0]
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError) as caught:
        open_dataset(dataset, tmp_path / "set", split)
    assert f"{tmp_path}/set is no {dataset} dataset: " in str(caught.value)
    assert DATASETS[dataset].layout in str(caught.value)
    draw(tmp_path / "set", dataset)
    if dataset != "virtual_kitti":  # its own folders may have any name
        with pytest.raises(UserError, match=f"Did you mean {tmp_path}/set\\?"):
            open_dataset(dataset, tmp_path, split)


@pytest.mark.parametrize("dataset", [name for name in LAYOUTS if LAYOUTS[name][0]])
def test_the_split_is_asked_for(dataset: str, tmp_path: Path) -> None:
    draw(tmp_path, dataset)
    with pytest.raises(UserError, match=f"{dataset} split None: give one of train, val, test"):
        open_dataset(dataset, tmp_path)
    with pytest.raises(UserError, match=f"is no {dataset} dataset"):
        open_dataset(dataset, tmp_path, "test")
