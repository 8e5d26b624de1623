import io
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from plca_dist.data.codec import (
    colour_codes,
    decode_label,
    encode_label,
    first_channel,
    index_image,
    verified_image,
)
from plca_dist.data.formats import changes
from tests.data.png_files import GREY, PALETTE, chunk, header, png_file


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_images_of_any_kind_become_rgb(mode: str) -> None:
    shade = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (5, 1))
    image = Image.fromarray(shade.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(shade).convert(mode)
    out = verified_image(encoded(image))
    assert out.shape == (3, 5, 25)
    assert out.numpy().astype(int) == pytest.approx(np.stack([shade] * 3).astype(int), abs=0)


def test_labels_survive_encoding() -> None:
    label = np.arange(256, dtype=np.uint8).reshape(8, 32)
    assert np.array_equal(decode_label(encode_label(label)).numpy(), label)


def test_any_one_damaged_byte_of_a_png_is_noticed() -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)))
    assert verified_image(data).shape == (3, 4, 5)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(ValueError, match="it is"):
            verified_image(bytes(damaged))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_cut_short_anywhere_is_noticed(kind: str) -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)), kind)
    assert verified_image(data).shape == (3, 16, 16)
    # Two bytes short, a JPEG lacks its end mark only: its pixels are all there.
    for length in range(0, len(data) - 3, 7):
        with pytest.raises(ValueError, match="it is"):
            verified_image(data[:length])


def raw_png(samples: np.ndarray, bits: int, palette: bool = False) -> bytes:
    """A PNG of one channel with these samples (H, W) at `bits` a sample, written out by hand."""
    height, width = samples.shape
    of_bits = (samples[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    lines = np.packbits(of_bits.reshape(height, width * bits).astype(np.uint8), axis=1)
    data = np.hstack([np.zeros((height, 1), np.uint8), lines]).tobytes()
    colours = [chunk(b"PLTE", bytes(range(48)))] if palette else []
    head = header(width, height, PALETTE if palette else GREY, bits=bits)
    return png_file(head, *colours, chunk(b"IDAT", zlib.compress(data, 1)))


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("read", [index_image, first_channel])
def test_a_label_has_the_samples_of_its_file(read: Callable[[bytes], np.ndarray], bits: int, palette: bool) -> None:
    samples = np.random.default_rng(bits).integers(0, min(2**bits, 16), (5, 13))
    samples[0, 0] = 0
    samples[0, 1] = min(2**bits, 16) - 1
    found = read(raw_png(samples, bits, palette))
    assert found.dtype == np.uint8
    assert np.array_equal(found, samples)


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "L")]
)
def test_pixels_are_turned_as_the_file_says(kind: str, mode: str) -> None:
    shades = np.random.default_rng(0).integers(0, 256, (5, 9), np.uint8)
    image = Image.fromarray(shades.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(shades).convert(mode)
    plain = verified_image(encoded(image, kind)).numpy()
    for orientation in range(10):  # 0 and 9 mean nothing
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        stream = io.BytesIO()
        image.save(stream, kind, exif=exif)
        # Pillow's own way, on the pixels that a file without the tag has.
        method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
        pixels = Image.fromarray(plain.transpose(1, 2, 0).copy())
        upright = np.asarray(pixels if method is None else pixels.transpose(Image.Transpose(method)))
        assert np.array_equal(verified_image(stream.getvalue()).numpy(), upright.transpose(2, 0, 1)), orientation
        if kind == "PNG" and mode == "L":
            assert np.array_equal(index_image(stream.getvalue()), upright[..., 0]), orientation


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_exif_data_that_are_none_turn_nothing() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 9, 3), np.uint8))
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert np.array_equal(verified_image(stream.getvalue()).permute(1, 2, 0).numpy(), np.asarray(image))


def test_large_images_are_read_up_to_a_limit_that_is_named() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert index_image(raw_png(np.zeros((9500, 10000), np.uint8), 1)).shape == (9500, 10000)
    # Nothing may be decoded behind its header.
    data = png_file(header(15000, 12500, GREY), chunk(b"IDAT", zlib.compress(b"\0\0")))
    for read in (verified_image, index_image):
        with pytest.raises(ValueError, match=r"^it has 15000 x 12500 pixels, and at most 178 million are read; cut it"):
            read(data)


@pytest.mark.parametrize("kind", ["GIF", "JPEG2000"])
def test_formats_that_are_not_read_are_named(kind: str) -> None:
    name = {"GIF": "GIF", "JPEG2000": "JPEG 2000"}[kind]
    with pytest.raises(ValueError, match=rf"^it is {name}, and PNG, JPEG, TIFF, WebP and BMP are read; convert it$"):
        verified_image(encoded(Image.new("RGB", (4, 4)), kind))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "BMP"])
def test_other_formats_give_the_same_pixels(kind: str, mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 9), np.uint8)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, lossless=True) if kind == "WEBP" else image.save(stream, kind)
    assert torch.equal(verified_image(stream.getvalue()), verified_image(encoded(image)))


def tiff(samples: np.ndarray, **settings: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, "TIFF", **settings)
    return stream.getvalue()


def test_a_tiff_is_turned_once_and_its_16_bits_are_scaled() -> None:
    shades = np.random.default_rng(0).integers(0, 256, (5, 9), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = tiff(shades, exif=exif)
    assert np.array_equal(verified_image(data)[0].numpy(), np.rot90(shades, -1))
    assert np.array_equal(index_image(data), np.rot90(shades, -1))
    assert changes(data) == ("turned as its EXIF orientation says",)
    deep = tiff(shades.astype(np.uint16) * 257)
    assert np.array_equal(verified_image(deep)[0].numpy(), shades)
    assert np.array_equal(index_image(deep), shades.astype(np.uint16) * 257)
    assert changes(deep) == ("16 bits a sample, of which the high byte is taken",)


def test_pictures_whose_values_nobody_can_know_are_refused() -> None:
    shades = np.zeros((5, 9), np.uint8)
    for data, said in (
        (tiff(shades.astype(np.float32)), "its samples have 32 bits, and nothing says which are black and white"),
        (tiff(shades.astype(np.int32)), "its samples have 32 bits"),
        (tiff(shades, save_all=True, append_images=[Image.fromarray(shades)]), "it holds 2 pictures; give each a file"),
    ):
        with pytest.raises(ValueError, match=f"^{said}"):
            verified_image(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded(Image.new("L", (8, 8)), "JPEG"), "it is a JPEG whose compression changes values; write labels as PNG"),
        (encoded(Image.new("L", (8, 8)), "WEBP"), "it is a WebP whose compression changes values"),
        (tiff(np.zeros((8, 8), np.uint8), compression="jpeg"), "it is a TIFF whose compression changes values"),
        (tiff(np.zeros((8, 8), np.uint8), tiffinfo={262: 0}), "it is a TIFF whose 0 is white"),
        (tiff(np.zeros((8, 8), np.float32)), "its samples are no whole numbers"),
        (encoded(Image.new("RGB", (8, 8), (1, 2, 3))), "it is a colour image; with coding: colour its colours say"),
        (encoded(Image.new("RGB", (8, 8), (2, 2, 2))), "it is a colour image of equal channels; write coding: red"),
    ],
)
def test_label_files_that_hold_no_class_numbers_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        index_image(data)


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "L"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_colours_of_a_label_are_its_codes(kind: str, mode: str) -> None:
    image = Image.fromarray(np.array([[[128, 64, 128], [0, 0, 142]], [[7, 7, 7], [255, 0, 0]]], np.uint8)).convert(mode)
    expected = np.asarray(image.convert("RGB")).astype(int) @ (65536, 256, 1)
    assert np.array_equal(colour_codes(encoded(image, kind)), expected)


def test_colours_that_are_none_are_refused() -> None:
    clear = Image.new("RGBA", (2, 2), (1, 2, 3, 128))
    with pytest.raises(ValueError, match=r"^it is transparent in places"):
        colour_codes(encoded(clear))
    with pytest.raises(ValueError, match=r"^its colours have more than 8 bits"):
        colour_codes(encoded(Image.fromarray(np.zeros((2, 2), np.uint16))))


def test_what_reading_changes_is_said() -> None:
    plain = Image.new("RGB", (8, 8))
    assert changes(encoded(plain)) == changes(encoded(plain, "JPEG")) == ()
    assert changes(encoded(plain.convert("CMYK"), "JPEG")) == ("CMYK colours converted to RGB",)
    assert changes(encoded(plain.convert("RGBA"))) == ()
    assert changes(encoded(Image.new("RGBA", (8, 8), (1, 2, 3, 254)))) == ("transparency left out",)
    for profile, said in ((b"a profile of Adobe RGB", 1), (b"a profile of sRGB IEC", 0)):
        stream = io.BytesIO()
        plain.save(stream, "PNG", icc_profile=profile)
        assert len(changes(stream.getvalue())) == said


def test_transparency_of_a_palette_is_no_warning() -> None:
    image = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).convert("P")
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = verified_image(stream.getvalue())
    assert torch.equal(found, verified_image(encoded(image)))
