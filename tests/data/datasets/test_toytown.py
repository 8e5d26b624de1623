import hashlib
import subprocess
import sys

import numpy as np
import pytest

from plca_dist.data.codec import decode_image
from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.datasets.toytown import scene
from plca_dist.data.label_match import remap
from plca_dist.data.labels import LABEL_SETS
from plca_dist.errors import UserError

CLASSES = LABEL_SETS["toytown"].classes
CITYSCAPES = LABEL_SETS["cityscapes"].classes
#: From the Cityscapes train ids that scenes are labelled with to places in CLASSES.
PLACE = remap(LABEL_SETS["cityscapes"], LABEL_SETS["toytown"])
SIZE = {"height": 96, "width": 192}


def scenes(domain: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*(scene(i, seed=seed, domain=domain, **SIZE) for i in range(count)), strict=True)
    return np.stack(images), PLACE[np.stack(labels)]


@pytest.mark.parametrize("domain", ["source", "target"])
@pytest.mark.parametrize(("height", "width"), [(96, 192), (64, 64), (75, 131), (180, 90)])
def test_shapes_and_types_at_any_size(domain: str, height: int, width: int) -> None:
    image, label = scene(3, seed=0, domain=domain, height=height, width=width)
    assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
    assert (label.shape, label.dtype) == ((height, width), np.uint8)
    assert {CITYSCAPES[k] for k in np.unique(label)} <= set(CLASSES)


@pytest.mark.parametrize("domain", ["source", "target"])
def test_every_class_occurs_often_enough_to_be_learned(domain: str) -> None:
    _, labels = scenes(domain, 60)
    share = np.bincount(labels.reshape(-1), minlength=len(CLASSES)) / labels.size
    in_scenes = np.stack([np.bincount(label.reshape(-1), minlength=len(CLASSES)) > 0 for label in labels]).mean(axis=0)
    assert share.min() > 0.005, dict(zip(CLASSES, share, strict=True))
    assert in_scenes.min() > 0.8, dict(zip(CLASSES, in_scenes, strict=True))


def test_both_domains_show_the_same_world() -> None:
    shares = []
    for domain in ("source", "target"):
        _, labels = scenes(domain, 60)
        shares.append(np.bincount(labels.reshape(-1), minlength=len(CLASSES)) / labels.size)
        names = [CLASSES[i] for i in np.median(labels[:, :, 96], axis=0).astype(int)[[2, -3]]]
        assert names == ["sky", "road"]  # up there and down here
    assert np.abs(shares[0] - shares[1]).max() < 0.04
    assert (shares[0] / shares[1]).max() < 1.4


def test_colours_tell_the_classes_apart_in_the_source_and_mislead_in_the_target() -> None:
    """A classifier by nearest mean colour, learned on the source: the simplest learner there is."""

    def pixels(domain: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        images, labels = scenes(domain, 30, seed)
        return images.reshape(-1, 3).astype(np.float32), labels.reshape(-1)

    def miou(colours: np.ndarray, labels: np.ndarray) -> float:
        distance = ((colours[:, None] - means) ** 2).sum(axis=2)
        matrix = np.bincount(labels * 9 + distance.argmin(axis=1), minlength=81).reshape(9, 9)
        return float((np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))).mean())

    colours, labels = pixels("source", 0)
    means = np.stack([colours[labels == n].mean(axis=0) for n in range(9)])
    in_source, in_target = miou(*pixels("source", 1)), miou(*pixels("target", 1))
    assert in_source > 0.4
    assert in_target < 0.5 * in_source
    # The instances of a class differ: one colour is not enough.
    cars = [
        image[label == CLASSES.index("car")].mean(axis=0) for image, label in zip(*scenes("source", 20), strict=True)
    ]
    assert np.nanstd(np.stack(cars), axis=0).max() > 10


def test_a_scene_is_a_function_of_its_arguments() -> None:
    base = scene(5, seed=1, domain="target", **SIZE)
    again = scene(5, seed=1, domain="target", **SIZE)
    assert all(np.array_equal(a, b) for a, b in zip(base, again, strict=True))
    for other in ({"index": 6}, {"seed": 2}, {"domain": "source"}):
        arguments = {"index": 5, "seed": 1, "domain": "target", **SIZE, **other}
        assert not np.array_equal(base[1], scene(arguments.pop("index"), **arguments)[1])


def test_a_scene_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from plca_dist.data.datasets.toytown import scene\n"
        "image, label = scene(7, seed=3, domain='target', height=96, width=192)\n"
        "print(hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    image, label = scene(7, seed=3, domain="target", **SIZE)
    assert printed == hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()


def test_the_reader_gives_the_scenes_losslessly() -> None:
    reader = open_dataset("toytown", split="target", count=3, seed=4, size=(64, 96))
    assert len(reader) == len(set(reader.ids)) == 3
    sample = reader.load(2)
    image, label = scene(2, seed=4, domain="target", height=64, width=96)
    assert sample.id == reader.ids[2]
    assert (sample.height, sample.width) == (64, 96)
    assert np.array_equal(decode_image(sample.image).permute(1, 2, 0).numpy(), image)
    assert sample.label is not None
    assert np.array_equal(sample.label, label)
    assert open_dataset("toytown", split="target", with_labels=False).load(0).label is None
    assert len({reader.stamp(i) for i in range(3)}) == 3


def test_bad_requests_are_refused() -> None:
    with pytest.raises(UserError, match=r"split 'sauce': give one of source, target. Did you mean 'source'"):
        open_dataset("toytown", split="sauce")
    with pytest.raises(UserError, match="size 31x96: height and width must be at least 32"):
        open_dataset("toytown", size=(31, 96))
    with pytest.raises(UserError, match="count 0"):
        open_dataset("toytown", count=0)
