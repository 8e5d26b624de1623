"""The labels of shards, in the train ids of the classes that are wanted."""

import numpy as np
import torch
from torch import Tensor

from plca_dist.data.label_match import matched, remap, with_nearest
from plca_dist.data.labels import LabelSet
from plca_dist.data.shards import Manifest
from plca_dist.errors import UserError


def label_table(manifest: Manifest, labels: LabelSet, where: str) -> Tensor:
    """Lookup table (256,) uint8 from the shards' train ids to those of `labels`.

    Raises UserError where the shards hold no labels, or none of the classes.
    """
    if not manifest.with_labels:
        raise UserError(f"{where} holds no labels; write these shards from a labelled set, without --no-labels.")
    there = manifest.labels
    if set(matched(there, labels)) <= {None}:
        raise UserError(
            f"{where} (label set {manifest.label_set!r}) knows none of the classes wanted: "
            f"{with_nearest(labels.classes, there.classes, 'there')}; same_as or merges in a label-set file says which "
            "class is which."
        )
    return torch.from_numpy(remap(there, labels))


def look_up(table: Tensor, label_HW: Tensor) -> Tensor:
    """`table[label]` for a (256,) uint8 table and uint8 labels on the CPU; torch's own takes six times as long."""
    return torch.from_numpy(np.take(table.numpy(), label_HW.numpy()))
