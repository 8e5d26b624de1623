"""What `plca shards` says about a data set at its end."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plca_dist.data.datasets.dataset import Reader, Sample
from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.label_file import label_set_from
from plca_dist.data.labels import LABEL_SETS, LabelSet
from plca_dist.data.shards import read_manifest, write_shards
from plca_dist.data.shards.statistics import Statistics, of_sample, summary, total
from plca_dist.errors import UserError
from plca_dist.storage import resolve

THREE = label_set_from({"classes": ["road", "car", "far objects"]}, "three.yaml")


def sample(label: list[list[int]], *notes: str) -> Sample:
    array = np.array(label, np.uint8)
    return Sample("x", b"", array, *array.shape, notes)


def lines(*samples: Sample, labels: LabelSet | None = THREE) -> list[str]:
    return summary(total(of_sample(s, len(labels) if labels else None) for s in samples), labels)


def test_sizes_shares_and_what_never_occurs() -> None:
    assert lines(sample([[0, 0], [2, 255]]), sample([[0] * 1000])) == [
        "2 images, 1 of 2 x 2, 1 of 1000 x 1 pixels",
        "pixels: road 99.8 %, far objects 0.1 %, ignored 0.1 %",
        "never: car",
    ]
    assert lines(sample([[0] * 9999 + [1]]))[1] == "pixels: road 100.0 %, car <0.1 %, ignored 0.0 %"


def test_what_looks_like_another_coding_is_said() -> None:
    assert lines(sample([[1, 2]]))[-1].startswith(
        "The first class never occurs and all others do: are the labels counted"
    )
    assert lines(sample([[1, 1]]))[-1].startswith("All labelled pixels are of one class: look at them with --preview.")
    assert lines(sample([[255, 255]]))[-1] == "no labelled pixel: these labels teach nothing and score nothing"


def test_what_changes_pixels_is_said() -> None:
    found = lines(sample([[0, 1]], "turned as its EXIF orientation says"), sample([[0, 1]]), labels=None)
    assert found == ["2 images, 2 x 1 pixels", "1 of 2 images: turned as its EXIF orientation says"]


def test_150_classes_take_few_lines() -> None:
    many = label_set_from({"classes": [f"class {i}" for i in range(150)]}, "many.yaml")
    found = lines(sample([list(range(150))]), labels=many)
    assert max(map(len, found)) <= 112
    assert len(found) < 30
    assert all(f"class {i} 0.7 %" in " ".join(found) for i in range(150))


def toytown() -> Reader:
    return open_dataset("toytown", None, "source", count=5, size=(32, 48))


def test_the_manifest_keeps_them_also_of_a_call_that_goes_on(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    store, once = resolve(f"{tmp_path}/cut"), resolve(f"{tmp_path}/once")
    reader = toytown()
    calls = 0
    load = type(reader).load

    def cut(self: object, i: int) -> Sample:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return load(reader, i)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(type(reader), "load", cut)
        with pytest.raises(KeyboardInterrupt):
            write_shards(reader, store, with_labels=True, shard_rows=2, workers=1)
    went_on = write_shards(toytown(), store, with_labels=True, shard_rows=2)
    assert went_on.statistics == write_shards(toytown(), once, with_labels=True).statistics
    assert read_manifest(store).statistics == went_on.statistics
    expected = total(of_sample(reader.load(i), 19) for i in range(5))
    assert went_on.statistics == expected
    assert went_on.fingerprint() == read_manifest(store).fingerprint()


def test_shards_of_older_versions_have_none(tmp_path: object) -> None:
    store = resolve(f"{tmp_path}/out")
    manifest = write_shards(toytown(), store, with_labels=True)
    old = store.read("manifest.json").decode()
    tree = json.loads(old)
    del tree["statistics"], tree["own_labels"]
    store.write("manifest.json", json.dumps(tree).encode())
    read = read_manifest(store)
    assert (read.statistics, read.contents()) == (None, [])
    assert read.fingerprint() == manifest.fingerprint()
    assert read.labels.classes == LABEL_SETS["cityscapes"].classes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"own_labels": {"name": "x", "classes": ["a", "b"]}},
            "contradicts itself: its label set or its pixels are not of",
        ),
        ({"own_labels": {"name": "x", "classes": ["a", "a"]}}, "is damaged (manifest.json: class a is given twice.)"),
        (
            {"statistics": {"sizes": {}, "pixels": [1, 2]}},
            "contradicts itself: its label set or its pixels are not of its",
        ),
        ({"statistics": {"sizes": {}, "pixels": ["a"]}}, "is damaged (statistics"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: object, change: dict, said: str) -> None:
    store = resolve(f"{tmp_path}/out")
    write_shards(toytown(), store, with_labels=True)
    tree = json.loads(store.read("manifest.json").decode())
    store.write("manifest.json", json.dumps(tree | change).encode())
    with pytest.raises(UserError) as caught:
        read_manifest(store)
    assert f"{store.uri}/manifest.json {said}" in str(caught.value)


def test_photographs_of_every_kind_are_counted(tmp_path: object) -> None:
    root = Path(str(tmp_path)) / "images"
    root.mkdir()
    Image.fromarray(np.full((4, 6), 3000, np.uint16)).save(root / "deep.tif")
    Image.new("RGBA", (6, 4), (1, 2, 3, 9)).save(root / "clear.png")
    Image.new("RGB", (6, 4)).save(root / "plain.png")
    reader = open_dataset("folder", Path(str(tmp_path)), with_labels=False)
    statistics = write_shards(reader, resolve(f"{tmp_path}/out"), with_labels=False).statistics
    assert statistics == Statistics(
        {"6 x 4": 3},
        notes={
            "16 bits a sample, of which the high byte is taken": 1,
            "nearly black, no sample above 4096 of 65535: scale such images to 16 bits first": 1,
            "transparency left out": 1,
        },
    )
