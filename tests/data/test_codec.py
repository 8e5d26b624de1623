import io

import numpy as np
import pytest
from PIL import Image

from plca_dist.data.codec import decode_label, encode_label, verified_image


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


def test_other_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="no PNG or JPEG"):
        verified_image(encoded(Image.new("RGB", (4, 4)), "GIF"))
