"""A label set as plain data: what recipes, shards and weight files keep of its file."""

from collections.abc import Mapping
from typing import Any

from plca_dist.data.coding import from_record
from plca_dist.data.label_file import label_set_from
from plca_dist.data.labels import LABEL_SETS, LabelSet
from plca_dist.errors import UserError
from plca_dist.parsing import MISFITS


def record(labels: LabelSet, *, with_coding: bool = True) -> dict[str, Any]:
    """The label set as plain data, from which `of_record` makes it again."""
    classes = []
    for name, colour in zip(labels.classes, labels.palette, strict=True):
        more = {
            key: list(of[name]) for key, of in (("same_as", labels.same_as), ("merges", labels.merges)) if name in of
        }
        classes.append({"name": name, "colour": list(colour), **more})
    tree: dict[str, Any] = {"name": labels.name, "classes": classes}
    for key, subsets in (("means", labels.means), ("groups", labels.groups)):
        if subsets:
            tree[key] = {name: [labels.classes[i] for i in of] for name, of in subsets.items()}
    if with_coding and labels.coding:
        tree["codes"] = labels.coding.record()
    return tree


def own_record(labels: LabelSet) -> dict[str, Any] | None:
    """`record` without the coding, of a label set that no shipped one equals; None of a shipped one."""
    plain = LabelSet(**{**vars(labels), "coding": None})
    shipped = (
        LabelSet(**{**vars(known), "coding": None}) for known in LABEL_SETS.values() if known.name == labels.name
    )
    return None if any(known == plain for known in shipped) else record(labels, with_coding=False)


def of_record(tree: Mapping[str, Any], where: str) -> LabelSet:
    """The inverse of `record`. Raises UserError for other data."""
    rest = {key: value for key, value in tree.items() if key != "codes"}
    labels = label_set_from(rest, where)
    try:
        coding = from_record(tree["codes"]) if "codes" in tree else None
    except MISFITS as error:
        raise UserError(f"{where}: the codes of its labels are damaged.") from error
    return LabelSet(**{**vars(labels), "coding": coding})
