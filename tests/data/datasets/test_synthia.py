"""SYNTHIA's labels are 16-bit colour PNGs, which need care of their own."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plca_dist.data.codec import verified_image
from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.labels import LABEL_SETS
from plca_dist.errors import UserError
from tests.data.png_files import RGB, chunk, header, png_file


def png16(path: Path, values_HW3: np.ndarray) -> None:
    """A 16-bit RGB PNG, byte by byte: no library at hand writes one."""
    height, width, _ = values_HW3.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values_HW3)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_file(header(width, height, RGB, bits=16), chunk(b"IDAT", zlib.compress(lines))))


def test_synthia_takes_channel_0_of_16_bits(tmp_path: Path) -> None:
    (tmp_path / "RGB").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "RGB/0000000.png")
    label = np.zeros((6, 8, 3), np.uint16)
    label[..., 0].flat[:23] = range(23)
    label[..., 1] = 1000 + np.arange(48).reshape(6, 8)  # instances
    png16(tmp_path / "GT/LABELS/0000000.png", label)
    reader = open_dataset("synthia", tmp_path)
    assert reader.label_set is LABEL_SETS["synthia"]
    got = reader.load(0).label
    assert got is not None
    names = {n: LABEL_SETS["synthia"].classes[i] for n, i in enumerate(got.reshape(-1)[:23]) if i != 255}
    assert names == {
        1: "sky", 2: "building", 3: "road", 4: "sidewalk", 5: "fence", 6: "vegetation", 7: "pole", 8: "car",
        9: "traffic sign", 10: "person", 11: "bicycle", 12: "motorcycle", 15: "traffic light", 17: "rider", 19: "bus",
        21: "wall",
    }  # fmt: skip
    label[0, 0, 0], label[0, 1, 0] = 23, 770  # 770 is 2 in its low byte
    png16(tmp_path / "GT/LABELS/0000000.png", label)
    with pytest.raises(UserError, match=r"0000000.png: label values 23, 770 are not synthia's; allowed: 0-22\."):
        reader.load(0)


def test_16_bit_colour_images_become_8_bit(tmp_path: Path) -> None:
    shades = np.random.default_rng(0).integers(0, 2**16, (5, 7, 3)).astype(np.uint16)
    png16(tmp_path / "x.png", shades)
    assert np.array_equal(verified_image((tmp_path / "x.png").read_bytes()).permute(1, 2, 0), shades >> 8)
