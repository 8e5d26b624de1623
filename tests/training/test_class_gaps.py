"""What a person is told before training about classes that data and recipe do not share."""

from pathlib import Path

import numpy as np

from plca_dist.config import Config
from plca_dist.data.datasets.dataset import Sample
from plca_dist.data.label_file import label_set_from
from plca_dist.data.label_record import record
from plca_dist.data.shards import Manifest
from plca_dist.data.shards.statistics import of_sample
from plca_dist.recipe import parse
from plca_dist.storage import resolve
from plca_dist.training.class_gaps import class_gaps


def shards(root: Path, name: str, *classes: str, occur: int | None = None) -> None:
    """A manifest without shards; of the classes the first `occur` have pixels, None: nobody has counted them."""
    labels = label_set_from({"classes": list(classes)}, f"{name}.yaml")
    label = np.arange(occur or 0, dtype=np.uint8)[None]
    counted = of_sample(Sample("x", b"", label, 1, occur or 0), len(classes)) if occur else None
    manifest = Manifest(name, name, labels.classes, True, 0, (), (), "", statistics=counted, own_labels=record(labels))
    resolve(str(root)).child(name).write("manifest.json", manifest.to_json())


def recipe(root: Path, evaluation: str | None = "val") -> Config:
    labels = "{classes: [road, motorcycle, bicycle, {name: person, same_as: pedestrian}]}"
    return parse(
        f"labels: {labels}\ndata: {root}\nsource: {{uri: source, crop: [16, 16]}}\nschedule: {{steps: 1}}\n"
        f"target: {{uri: target, crop: [16, 16]}}\nevaluation: {{uri: {evaluation or 'null'}}}\n"
    )


def test_both_sides_are_named_with_the_nearest_names_and_what_it_does_to_the_mean(tmp_path: Path) -> None:
    shards(tmp_path, "source", "road", "motorbike", "bike", "pedestrian")
    shards(tmp_path, "val", "road", "motorcycle", "person", "train")
    assert class_gaps(recipe(tmp_path)) == [
        f"source {tmp_path}/source has no label of 2 of 4 classes: motorcycle (there: 'motorbike'?), bicycle (there: "
        "'bike'?). They are not learned, and 1 of 4 classes of the mIoU have an IoU of 0 for it.",
        f"source {tmp_path}/source: labels that are no class of the recipe are ignored: 'motorbike', 'bike'.",
        f"evaluation {tmp_path}/val has no label of 1 of 4 classes: bicycle. One that is predicted has an IoU "
        "of 0; one that is not is left out of the mIoU.",
        f"evaluation {tmp_path}/val: labels that are no class of the recipe are ignored: 'train'.",
    ]


def test_what_all_share_is_not_worth_a_word(tmp_path: Path) -> None:
    for name in ("source", "val"):
        shards(tmp_path, name, "pedestrian", "bicycle", "motorcycle", "road")
    assert class_gaps(recipe(tmp_path)) == class_gaps(recipe(tmp_path, None)) == []


def test_classes_without_a_pixel_are_classes_that_are_not_there(tmp_path: Path) -> None:
    shards(tmp_path, "source", "road", "motorcycle", "bicycle", "person", "train", occur=3)
    assert class_gaps(recipe(tmp_path, None)) == [
        f"source {tmp_path}/source has no label of 1 of 4 classes: person. They are not learned."
    ]


def test_a_set_of_many_classes_is_cut_short(tmp_path: Path) -> None:
    shards(tmp_path, "source", "road", *(f"x{i}" for i in range(200)))
    lines = class_gaps(recipe(tmp_path, None))
    assert max(map(len, lines)) < 400
    assert "and 188 more" in lines[1]
