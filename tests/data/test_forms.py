"""Images encoded anew at ingest: the same pixels where a form is lossless, and said where it is not."""

import io
import itertools
import json
import random
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plca_dist.data import encode
from plca_dist.data.codec import decode_image, decode_label, encode_label
from plca_dist.data.datasets.dataset import Sample
from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.decoded import decoded
from plca_dist.data.domain import DomainStream
from plca_dist.data.encode import encoded, encoded_label
from plca_dist.data.forms import ENCODED, FORMS, KEEP, Encoding
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.shards import Manifest, ShardReader, read_manifest, write_shards
from plca_dist.data.shards.manifest import MANIFEST
from plca_dist.data.stream import Batch, Stream
from plca_dist.errors import UserError
from plca_dist.storage import Store, resolve

LOSSLESS = [form for form in ENCODED if ENCODED[form].lossless]


def written(place: Path, form: str, max_edge: int | None = None, **changed: Any) -> tuple[Store, Manifest]:
    reader = open_dataset("toytown", None, "source", with_labels=True, count=6, size=(32, 64))
    store = resolve(str(place))
    return store, write_shards(reader, store, with_labels=True, encoding=Encoding(form, max_edge), **changed)


def sample(pixels_HW3: np.ndarray, label_HW: np.ndarray | None = None) -> Sample:
    height, width = pixels_HW3.shape[:2]
    return Sample("street", encode_label(pixels_HW3), label_HW, height, width)


def rows(store: Store, manifest: Manifest) -> list[dict[str, Any]]:
    reader = ShardReader(store, manifest)
    names = ["image", "label", "height", "width"]
    return [row for g in manifest.row_groups for row in reader.read_row_group(g.shard, g.group, names).to_pylist()]


def batches(store: Store) -> list[Batch]:
    source = DomainStream(
        store, "source", labels=LABEL_SETS["cityscapes"], batch=2, seed=0, window=2, shorter_edge=(24, 40),
        crop=(24, 24), flip=True,
    )  # fmt: skip
    stream = Stream(source, None, slots=range(2), micro=2, start_step=0, threads=2, prefetch=2)
    try:
        return list(itertools.islice(stream, 4))
    finally:
        stream.close()


@pytest.mark.parametrize("form", LOSSLESS)
def test_training_sees_the_same_under_a_lossless_form(form: str, tmp_path: Path) -> None:
    kept, _ = written(tmp_path / "kept", KEEP)
    store, manifest = written(tmp_path / form, form)
    if form != "png-fast":  # as which toytown is drawn
        assert rows(store, manifest)[0]["image"] != rows(kept, read_manifest(kept))[0]["image"]
    for ours, theirs in zip(batches(store), batches(kept), strict=True):
        assert torch.equal(ours.source_image, theirs.source_image)
        assert torch.equal(ours.source_label, theirs.source_label)
    assert f"images as {form} (the same pixels)" in manifest.summary()


def test_files_as_they_came_are_no_form(tmp_path: Path) -> None:
    _, manifest = written(tmp_path, KEEP)
    assert manifest.encoding is None
    assert "images as" not in manifest.summary()


def test_a_lossy_form_is_named_in_the_manifest_and_by_the_summary(tmp_path: Path) -> None:
    store, manifest = written(tmp_path, "jpeg-95", max_edge=48)
    assert json.loads(store.read(MANIFEST))["encoding"] == {"form": "jpeg-95", "max_edge": 48, "lossless": False}
    assert read_manifest(store) == manifest
    assert "images as jpeg-95, at most 48 pixels long (lossy)" in manifest.summary()
    said = "\n".join(manifest.contents())
    assert "6 images, 48 x 24 pixels" in said
    assert "made smaller, to 48 pixels at the longer edge" in said
    assert "compressed as jpeg-95, which changes pixels" in said


def test_an_image_is_made_smaller_with_its_label_and_never_larger(tmp_path: Path) -> None:
    store, manifest = written(tmp_path, "tiff-zstd", max_edge=32)
    for row in rows(store, manifest):
        image, label = decoded(row, "here")
        assert (row["height"], row["width"]) == image.shape[1:] == (16, 32)
        assert label is not None
        assert label.shape == (16, 32)
    assert manifest.encoding is not None
    assert not manifest.encoding.lossless
    label = np.arange(32, dtype=np.uint8).reshape(4, 8)
    small = sample(np.zeros((4, 8, 3), np.uint8), label)
    same = encoded(small, Encoding("png-fast", 8))
    assert (same.height, same.width, same.notes) == (4, 8, ())
    half = encoded(small, Encoding("png-fast", 4))
    assert half.label is not None
    assert half.label.tolist() == label[1::2, 1::2].tolist()
    assert decode_image(half.image).shape == (3, 2, 4)


@pytest.mark.parametrize("form", [name for name in FORMS if name != "tiff-zstd"])
def test_rows_of_a_label_are_not_filtered(form: str) -> None:
    """Undoing the filters is half of the time that decoding a label takes."""
    label = np.arange(4 * 9, dtype=np.uint8).reshape(4, 9) * 7
    data = encoded_label(label, Encoding(form))
    [start] = [found.start() for found in re.finditer(b"IDAT", data)]
    length = int.from_bytes(data[start - 4 : start])
    rows = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + length]), np.uint8).reshape(4, 10)
    assert np.array_equal(rows[:, 1:], label)
    assert not rows[:, 0].any()
    with Image.open(io.BytesIO(data)) as shown:
        assert np.array_equal(np.array(shown.convert("L")), label), "viewers show the ids as greys"


@pytest.mark.parametrize("form", FORMS)
def test_images_of_any_size_and_labels_of_any_value_survive(form: str) -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 7), (5, 1), (33, 70)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        label = rng.integers(0, 256, (height, width), dtype=np.uint8)
        image = decode_image(encoded(sample(pixels), Encoding(form)).image).permute(1, 2, 0).numpy()
        assert image.shape == pixels.shape
        assert np.array_equal(image, pixels) or form not in LOSSLESS
        assert np.array_equal(decode_label(encoded_label(label, Encoding(form))).numpy(), label)


def test_a_form_that_gives_other_pixels_stops_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))
    monkeypatch.setattr(encode, "decode_image", lambda data: decode_image(data) ^ (next(calls) % 2))
    with pytest.raises(UserError, match="as tiff-zstd it has other pixels; choose another form"):
        written(tmp_path, "tiff-zstd", workers=1)


def test_what_a_form_cannot_hold_is_refused_by_the_images_name() -> None:
    with pytest.raises(UserError, match=r"street: 16400 x 1 pixels cannot be written as webp-lossless .* another form"):
        encoded(sample(np.zeros((1, 16400, 3), np.uint8)), Encoding("webp-lossless"))


def test_forms_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match=f"'gif' is unknown; give one of {', '.join(FORMS)}"):
        Encoding("gif")
    with pytest.raises(UserError, match="with --max-edge give --encode, one of tiff-zstd"):
        Encoding(max_edge=100)


def test_another_form_is_another_data_set(tmp_path: Path) -> None:
    _, manifest = written(tmp_path, "tiff-zstd")
    assert written(tmp_path, "tiff-zstd")[1] == manifest
    for form, max_edge in ((KEEP, None), ("png-fast", None), ("tiff-zstd", 32)):
        with pytest.raises(UserError, match="with other settings"):
            written(tmp_path, form, max_edge)


@pytest.mark.parametrize("form", ENCODED)
def test_damaged_bytes_are_an_error_or_pixels(form: str) -> None:
    """In training the checksum of the row group comes first; here decoding has to do without."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    row = {
        "image": encoded(sample(pixels), Encoding(form)).image,
        "label": encoded_label(pixels[..., 0], Encoding(form)),
    }
    refused = []
    for case in range(400):
        draw = random.Random(case)
        name = draw.choice(["image", "label"])
        data = bytearray(row[name])
        if case % 2:
            data = data[: draw.randrange(len(data))]
        else:
            for _ in range(draw.choice([1, 1, 8])):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image, _ = decoded(row | {name: bytes(data)}, "row 3")
            assert image.dtype == torch.uint8
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 190
    assert all(line.startswith("row 3") and "\n" not in line for line in refused)
