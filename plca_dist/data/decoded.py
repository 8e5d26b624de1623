"""Rows of shards -> tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plca_dist.data.codec import decode_image, decode_label
from plca_dist.errors import UserError, first_line


def decoded(row: Mapping[str, Any], where: str) -> tuple[Tensor, Tensor | None]:
    """Image (3, H, W) uint8 RGB and label (H, W) uint8 train ids of a row, None where it has no label.

    where: names the row in the UserError for bytes that are no image and label of one size.
    """
    try:
        image, label = decode_image(row["image"]), decode_label(row["label"]) if "label" in row else None
    except Exception as error:  # see `codec._soundly`
        raise UserError(
            f"{where} cannot be decoded ({first_line(error)}); write the shards again with --overwrite."
        ) from error
    if label is not None and (label.dtype != torch.uint8 or label.shape != image.shape[1:]):
        raise UserError(
            f"{where}: the label is {_size(label)} pixels, its image {_size(image)}; the shards were written from "
            "files that do not fit together, or before images were turned as their EXIF orientation says; "
            "write them again with --overwrite."
        )
    return image, label


def _size(pixels: Tensor) -> str:
    return " x ".join(map(str, reversed(pixels.shape[-2:])))
