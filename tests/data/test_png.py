"""Plain PNGs are decoded by Wuffs, to the pixels that Pillow gives; others are left to Pillow, unsound ones refused."""

import io
import random
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from plca_dist.data import png
from plca_dist.data.codec import colour_codes, decode_image, decode_label, pillow_image, pillow_label, verified_image
from plca_dist.data.encode import encoded_label
from plca_dist.data.formats import MOST_PIXELS
from plca_dist.data.forms import Encoding
from tests.data import png_files
from tests.data.png_files import chunk, header, in_parts, png_file, rows_of
from tests.programs import unavailable

pytestmark = pytest.mark.usefixtures("wuffs")


@pytest.fixture(scope="module")
def wuffs() -> None:
    if png.WITHOUT_WUFFS is not None:
        unavailable(f"{png.WITHOUT_WUFFS} (pip install '.[png]' needs a C++ compiler)", "PLCA_TESTS_PNG")


def colours(height: int = 19, width: int = 23) -> np.ndarray:
    """Noise over a slope."""
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width, 3))
    noise[: height // 2] //= 32
    return (noise + np.arange(width)[:, None]).astype(np.uint8)


def written(image: Image.Image, **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **how)
    return stream.getvalue()


def by_hand(rows: bytes, *more: bytes, parts: int = 1, behind: bytes = b"", stream: bytes | None = None) -> bytes:
    """An RGB file of the size of `colours()`, with more chunks before its pixels, which are cut into parts."""
    return png_file(HEADER, *more, *in_parts(zlib.compress(rows) if stream is None else stream, parts), behind)


def text(keyword: str, said: str, **how: bool) -> PngInfo:
    info = PngInfo()
    info.add_text(keyword, said, **how)
    return info


HEADER = header(23, 19, png_files.RGB)
ROWS = rows_of(colours())
RGB = Image.fromarray(colours())


@pytest.mark.parametrize(
    "how",
    [
        *(pytest.param({"compress_level": level}, id=f"level-{level}") for level in (0, 1, 6, 9)),
        pytest.param({"dpi": (72, 72), "pnginfo": text("Software", "a camera")}, id="with-chunks"),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (64, 97)], ids=str)
def test_plain_images_have_pillows_pixels(size: tuple[int, int], how: dict[str, Any]) -> None:
    pixels = colours(*size)
    data = written(Image.fromarray(pixels), **how)
    found = png.decode_plain(data, 3, MOST_PIXELS)
    assert found is not None
    assert np.array_equal(found, pixels)
    for image in (decode_image(data), verified_image(data)):
        assert torch.equal(image, pillow_image(data))
        assert image.stride() == pillow_image(data).stride()


@pytest.mark.parametrize("parts", [1, 3, 200])
@pytest.mark.parametrize("kinds", [(0,), (1,), (2,), (3,), (4,), (4, 3, 2, 1, 0)], ids=str)
def test_rows_filtered_in_every_way(kinds: tuple[int, ...], parts: int) -> None:
    data = by_hand(rows_of(colours(), kinds), parts=parts)
    found = png.decode_plain(data, 3, MOST_PIXELS)
    assert found is not None
    assert np.array_equal(found, colours())
    assert torch.equal(decode_image(data), pillow_image(data))


IDS = np.arange(256, dtype=np.uint8).reshape(8, 32)


@pytest.mark.parametrize(
    "data", [written(Image.fromarray(IDS)), encoded_label(IDS, Encoding())], ids=["grey", "shards"]
)
def test_labels_have_pillows_ids(data: bytes) -> None:
    found = png.decode_plain(data, 1, MOST_PIXELS)
    assert found is not None
    assert np.array_equal(found, IDS)
    assert torch.equal(decode_label(data), pillow_label(data))


def turned() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    return exif.tobytes()


def interlaced(stream: bytes) -> bytes:
    """3 x 3 pixels, in the five of the seven passes that have any of them."""
    return png_file(header(3, 3, png_files.RGB, interlaced=True), *in_parts(stream))


#: Rows and columns of those passes.
PASSES = b"".join(height * (b"\0" + width * b"abc") for height, width in ((1, 1), (1, 1), (1, 2), (2, 1), (1, 3)))
XMP = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(written(RGB.convert("RGBA")), id="alpha"),
        pytest.param(written(RGB.convert("P")), id="palette"),
        pytest.param(written(RGB.convert("L")), id="grey"),
        pytest.param(written(RGB.convert("1")), id="1-bit"),
        pytest.param(written(Image.fromarray(colours()[..., 0].astype(np.uint16) * 257)), id="16-bits"),
        pytest.param(written(RGB, transparency=(1, 2, 3)), id="transparent-colour"),
        pytest.param(written(RGB, icc_profile=b"a profile"), id="profile"),
        pytest.param(by_hand(ROWS, chunk(b"eXIf", turned()[6:])), id="exif"),
        pytest.param(by_hand(ROWS, behind=chunk(b"eXIf", turned()[6:])), id="exif-behind"),
        pytest.param(by_hand(ROWS, chunk(b"tEXt", b"exif\0" + turned())), id="exif-in-text"),
        pytest.param(by_hand(ROWS, behind=chunk(b"tEXt", b"exif\0" + turned())), id="exif-in-text-behind"),
        pytest.param(written(RGB, pnginfo=text("Raw profile type exif", "x", zip=True)), id="raw-profile"),
        pytest.param(by_hand(ROWS, chunk(b"tEXt", b"interlace\0x")), id="setting-in-text"),
        pytest.param(by_hand(ROWS, chunk(b"tEXt", b"Comment\0" + 2000 * b"x")), id="long-text"),
        pytest.param(by_hand(ROWS, behind=chunk(b"iTXt", XMP)), id="xmp"),
        pytest.param(by_hand(ROWS, chunk(b"gAMA", b"x")), id="short-chunk"),
        pytest.param(by_hand(ROWS, HEADER), id="two-headers"),
        pytest.param(interlaced(zlib.compress(PASSES)), id="interlaced"),
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
        assert torch.equal(verified_image(data), wanted)


@pytest.mark.parametrize("mode", ["P", "RGB", "LA"])
def test_a_label_of_another_kind_is_left_to_pillow(mode: str) -> None:
    data = written(RGB.convert(mode))
    assert png.decode_plain(data, 1, MOST_PIXELS) is None
    assert torch.equal(decode_label(data), pillow_label(data))


STREAM = zlib.compress(ROWS)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(by_hand(ROWS[: -3 * 70]), id="rows"),  # whole ones: Pillow fills up with black
        pytest.param(by_hand(ROWS, stream=STREAM[:-4]), id="no-end"),
        pytest.param(by_hand(ROWS, stream=STREAM[:-4] + b"sum?"), id="checksum"),
        pytest.param(by_hand(ROWS, stream=STREAM[:-4] + b"sum?", parts=len(STREAM)), id="checksum-in-parts"),
        pytest.param(interlaced(zlib.compress(PASSES[:-10])), id="interlaced"),
    ],
)
@pytest.mark.parametrize("without", [None, "it is not here"])
def test_sound_chunks_with_unsound_pixels_are_refused_at_ingest(
    data: bytes, without: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png, "WITHOUT_WUFFS", without)
    assert png.decode_plain(data, 3, MOST_PIXELS) is None
    for read in (verified_image, colour_codes):
        with pytest.raises(ValueError, match=r"^it is a damaged PNG \(.*\); replace the file$"):
            read(data)


@pytest.mark.parametrize("side", [512, 700, 1024])
def test_sound_pixels_of_several_mebibytes_pass(side: int) -> None:
    assert verified_image(written(Image.new("RGBA", (side, side)))).shape == (3, side, side)
    noise = Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 4), dtype=np.uint8))
    assert verified_image(written(noise)).shape == (3, side, side)


def test_no_more_pixels_than_pillow_is_given() -> None:
    data = written(RGB)
    assert png.decode_plain(data, 3, RGB.width * RGB.height) is not None
    assert png.decode_plain(data, 3, RGB.width * RGB.height - 1) is None


def test_no_memory_for_a_header_that_promises_what_cannot_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png_file(header(13_000, 13_000, png_files.RGB), *in_parts(zlib.compress(ROWS)))
    monkeypatch.setattr(png, "ImageDecoder", None)  # it is not asked
    assert png.decode_plain(data, 3, MOST_PIXELS) is None


def test_without_the_package_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "WITHOUT_WUFFS", "it is not here")
    assert png.decode_plain(written(RGB), 3, MOST_PIXELS) is None
    assert torch.equal(decode_image(written(RGB)), pillow_image(written(RGB)))


def test_what_decodes_is_a_tensor_of_its_own() -> None:
    image = decode_image(written(RGB))
    image += 1
    assert not torch.equal(image, decode_image(written(RGB)))


@pytest.mark.parametrize("without", [None, "it is not here"])
def test_what_is_damaged_is_refused_and_never_other_pixels(
    without: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes changed, lost and put in at random."""
    monkeypatch.setattr(png, "WITHOUT_WUFFS", without)
    rng = random.Random(0)
    sound = written(RGB, dpi=(72, 72))
    refused = 0
    for _ in range(3000):
        data = bytearray(sound)
        at = rng.randrange(len(data))
        data[at : at + rng.choice((0, 1, 1, 2))] = rng.randbytes(rng.choice((0, 1, 1, 1, 4)))
        try:
            found = decode_image(bytes(data))
        except ValueError:
            refused += 1
        else:
            assert bytes(data) == sound, at
            assert np.array_equal(found.permute(1, 2, 0), colours())
    assert refused > 2500
