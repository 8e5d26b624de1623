"""The labels of shards, in the train ids of the classes that are wanted."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from plca_dist.data.labels import remap
from plca_dist.data.shards import Manifest
from plca_dist.errors import UserError


def label_table(manifest: Manifest, classes: Sequence[str], where: str) -> Tensor:
    """Lookup table (256,) uint8 from the shards' train ids to those of `classes`.

    Raises UserError where the shards hold no labels, or none of the classes.
    """
    if not manifest.with_labels:
        raise UserError(f"{where} holds no labels; write these shards from a labelled set, without --no-labels.")
    if not set(manifest.classes) & set(classes):
        raise UserError(
            f"{where} (label set {manifest.label_set!r}) knows none of the classes wanted: {', '.join(classes)}."
        )
    return torch.from_numpy(remap(manifest.classes, classes))


def look_up(table: Tensor, label_HW: Tensor) -> Tensor:
    """`table[label]` for a (256,) uint8 table and uint8 labels on the CPU; torch's own takes six times as long."""
    return torch.from_numpy(np.take(table.numpy(), label_HW.numpy()))
