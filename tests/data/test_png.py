"""Plain PNGs are decoded by Wuffs, to the pixels that Pillow gives; the others are left to Pillow."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from plca_dist.data import png
from plca_dist.data.codec import decode_image, decode_label, pillow_image, pillow_label
from plca_dist.data.encode import encoded_label
from plca_dist.data.formats import MOST_PIXELS
from plca_dist.data.forms import Encoding
from tests.programs import unavailable


@pytest.fixture(autouse=True)
def wuffs() -> None:
    if not png.WUFFS:
        unavailable("pywuffs is not installed (pip install '.[png]' needs a C++ compiler)", "PLCA_TESTS_PNG")


def colours(height: int = 19, width: int = 23) -> np.ndarray:
    """Noise over a slope, of which a writer filters rows in every way."""
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width, 3))
    noise[: height // 2] //= 32
    return (noise + np.arange(width)[:, None]).astype(np.uint8)


def written(image: Image.Image, **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **how)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """Behind the pixels, where a chunk is found last."""
    return data[:-12] + chunk(kind, body) + data[-12:]


def text(keyword: str, said: str, **how: bool) -> PngInfo:
    info = PngInfo()
    info.add_text(keyword, said, **how)
    return info


@pytest.mark.parametrize(
    "how",
    [
        *({"compress_level": level} for level in (0, 1, 6, 9)),
        {"dpi": (72, 72), "icc_profile": b"a profile", "pnginfo": text("Software", "a camera")},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (64, 97)])
def test_plain_images_have_pillows_pixels(size: tuple[int, int], how: dict[str, Any]) -> None:
    pixels = colours(*size)
    data = written(Image.fromarray(pixels), **how)
    found = png.decode_plain(data, 3, MOST_PIXELS)
    assert found is not None
    assert np.array_equal(found, pixels)
    image = decode_image(data)
    assert torch.equal(image, pillow_image(data))
    assert image.stride() == pillow_image(data).stride()


@pytest.mark.parametrize(
    "data", [written(Image.fromarray(colours()[..., 0])), encoded_label(colours()[..., 0], Encoding())]
)
def test_labels_have_pillows_ids(data: bytes) -> None:
    found = png.decode_plain(data, 1, MOST_PIXELS)
    assert found is not None
    assert np.array_equal(found, colours()[..., 0])
    assert torch.equal(decode_label(data), pillow_label(data))


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


def interlaced() -> bytes:
    """One pixel, all of it in the first of seven passes."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0abc")), (b"IEND", b"")
    return png.SIGNATURE + b"".join(chunk(*part) for part in parts)


RGB = Image.fromarray(colours())
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(written(RGB.convert("RGBA")), id="alpha"),
        pytest.param(written(RGB.convert("P")), id="palette"),
        pytest.param(written(RGB.convert("L")), id="grey"),
        pytest.param(written(RGB.convert("1")), id="1-bit"),
        pytest.param(written(Image.fromarray(colours()[..., 0].astype(np.uint16) * 257)), id="16-bits"),
        pytest.param(written(RGB, transparency=(1, 2, 3)), id="transparent-colour"),
        pytest.param(written(RGB, exif=turned()), id="exif"),
        pytest.param(with_chunk(written(RGB), b"eXIf", turned().tobytes()[6:]), id="exif-behind"),
        pytest.param(written(RGB, pnginfo=text("Raw profile type exif", "x", zip=True)), id="exif-in-text"),
        pytest.param(with_chunk(written(RGB), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode()), id="xmp"),
        pytest.param(interlaced(), id="interlaced"),
        pytest.param(written(RGB)[:-20], id="truncated"),
        pytest.param(written(RGB)[:8], id="no-chunk"),
        pytest.param(written(RGB)[:60] + bytes(8) + written(RGB)[68:], id="damaged"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"BM" + bytes(40), id="no-png"),
    ],
)
def test_all_others_are_left_to_pillow(data: bytes) -> None:
    assert png.decode_plain(data, 3, MOST_PIXELS) is None
    try:
        wanted = pillow_image(data)
    except Exception as error:
        with pytest.raises(type(error)):
            decode_image(data)
    else:
        assert torch.equal(decode_image(data), wanted)


@pytest.mark.parametrize("mode", ["P", "RGB", "LA"])
def test_a_label_of_another_kind_is_left_to_pillow(mode: str) -> None:
    data = written(RGB.convert(mode))
    assert png.decode_plain(data, 1, MOST_PIXELS) is None
    assert torch.equal(decode_label(data), pillow_label(data))


def test_no_more_pixels_than_pillow_is_given() -> None:
    data = written(RGB)
    assert png.decode_plain(data, 3, RGB.width * RGB.height) is not None
    assert png.decode_plain(data, 3, RGB.width * RGB.height - 1) is None


def test_without_the_package_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "WUFFS", False)
    assert png.decode_plain(written(RGB), 3, MOST_PIXELS) is None
    assert torch.equal(decode_image(written(RGB)), pillow_image(written(RGB)))


def test_what_is_damaged_is_never_other_pixels() -> None:
    """Bytes changed, lost and put in at random: what Wuffs takes has the pixels of the sound file."""
    rng = random.Random(0)
    sound = written(RGB, dpi=(72, 72))
    taken = 0  # those that changed nothing
    for _ in range(3000):
        data = bytearray(sound)
        at = rng.randrange(len(data))
        data[at : at + rng.choice((0, 1, 1, 2))] = rng.randbytes(rng.choice((0, 1, 1, 1, 4)))
        found = png.decode_plain(bytes(data), 3, MOST_PIXELS)
        if found is not None:
            taken += 1
            assert np.array_equal(found, colours()), at
    assert 0 < taken < 250
