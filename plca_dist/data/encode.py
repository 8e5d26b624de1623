"""Samples put into the form in which shards keep them."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from plca_dist.data.augment import resize_for_test, resize_label
from plca_dist.data.codec import decode_image, decode_label
from plca_dist.data.datasets.dataset import Sample
from plca_dist.data.forms import ENCODED, KEEP, Encoding
from plca_dist.data.png import GREYS
from plca_dist.errors import UserError, first_line


def encoded(sample: Sample, encoding: Encoding) -> Sample:
    """The sample with its image in another form, and perhaps smaller, with its label. Lossless forms are compared.

    Raises UserError where the form cannot hold the image, or gives other pixels though it is lossless.
    """
    if encoding.form == KEEP:
        return sample
    sample, pixels_3HW = _smaller(sample, encoding.max_edge)
    pixels_HW3 = np.ascontiguousarray(pixels_3HW.permute(1, 2, 0).numpy())
    form = ENCODED[encoding.form]
    try:
        data = _written(Image.fromarray(pixels_HW3), form.image)
        right = not form.lossless or np.array_equal(decode_image(data).permute(1, 2, 0).numpy(), pixels_HW3)
    except Exception as error:  # Pillow has no single error for what a format cannot hold
        raise UserError(
            f"{sample.id}: {sample.width} x {sample.height} pixels cannot be written as {encoding.form} "
            f"({first_line(error)}); choose another form with --encode."
        ) from error
    if not right:
        raise UserError(f"{sample.id}: as {encoding.form} it has other pixels; choose another form with --encode.")
    notes = () if form.lossless else (f"compressed as {encoding.form}, which changes pixels",)
    return replace(sample, image=data, notes=(*sample.notes, *notes))


def encoded_label(label_HW: np.ndarray, encoding: Encoding) -> bytes:
    """uint8 ids (H, W) -> what `codec.decode_label` reads."""
    how = None if encoding.form == KEEP else ENCODED[encoding.form].label
    picture = Image.fromarray(label_HW)
    if how is None:
        # With a palette Pillow leaves the rows of a PNG as they are. Those of grey images it filters, and undoing that
        # takes it half of the time to decode them.
        picture.putpalette(GREYS)
    data = _written(picture, how or {"format": "PNG"})
    assert np.array_equal(decode_label(data).numpy(), label_HW)
    return data


def _smaller(sample: Sample, max_edge: int | None) -> tuple[Sample, torch.Tensor]:
    """The sample with its label no longer than that, and the pixels (3, H, W) of its image."""
    image_3HW = decode_image(sample.image)
    longer = max(sample.height, sample.width)
    if max_edge is None or longer <= max_edge:
        return sample, image_3HW
    height, width = (max(1, round(edge * max_edge / longer)) for edge in (sample.height, sample.width))
    label_HW = sample.label
    if label_HW is not None:
        label_HW = resize_label(torch.from_numpy(label_HW), (height, width)).numpy()
    notes = (*sample.notes, f"made smaller, to {max_edge} pixels at the longer edge")
    sample = replace(sample, label=label_HW, height=height, width=width, notes=notes)
    return sample, resize_for_test(image_3HW, (height, width))


def _written(picture: Image.Image, how: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, **how)
    return stream.getvalue()
