"""The weight files of the paper's authors, in and out.

Such a file is `{"weights": state_dict}` of one network: ResNet-101, caffe style, rates 6/12/18/24. The backbone's names
are the same as here. The head's are `classifier.0.convs.{i}.0.weight`, (K, C, 3, 3), with rows in the order of
AUTHORS_CLASSES: all 19, or the first 16 where it was trained on SYNTHIA.

K: classes; C: feature channels.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plca_dist.errors import UserError
from plca_dist.models.deeplab import PAPER_RATES, Network
from plca_dist.models.description import Description, described, unlike
from plca_dist.models.state import differences, first_few, state_dict_of, torch_payload

AUTHORS_CLASSES = (
    "sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car", "traffic sign", "person", "bicycle",
    "motorcycle", "traffic light", "rider", "bus", "wall", "terrain", "truck", "train",
)  # fmt: skip
AUTHORS_BACKBONE, AUTHORS_STYLE = "resnet101", "caffe"

#: The name of each of the head's tensors here -> in an authors' file.
_HEAD = {f"classifier.convs.{i}.weight": f"classifier.0.convs.{i}.0.weight" for i in range(len(PAPER_RATES))}


def authors_classes(data: bytes, *, origin: str = "the authors' weight file") -> tuple[str, ...]:
    """The classes of an authors' file, in its own order, by the rows of its head.

    Raises UserError for a file of another form, or with another number of classes than the authors' models.
    """
    count = _count(_state(torch_payload(data, origin), origin))
    if count not in (16, 19):
        raise UserError(
            f"{origin} has a head ({next(iter(_HEAD.values()))}, …) of {count} classes where the authors' models have"
            " 19, or 16 if trained on SYNTHIA: check that the file is one the authors published."
        )
    return AUTHORS_CLASSES[:count]


def load_authors(
    network: Network, data: bytes, classes: Sequence[str], *, origin: str = "the authors' weight file"
) -> None:
    """Fill `network` from an authors' file, its class rows put into the order of `classes`.

    `classes`: names in train-id order, the same set as the file's. Raises UserError for another network, other classes,
    and a file of another form.
    """
    fill_as_authors(network, torch_payload(data, origin), classes, origin)


def fill_as_authors(network: Network, payload: Any, classes: Sequence[str], origin: str) -> None:
    """`load_authors` of a file that has been read already."""
    if wrong := _unlike_authors(network, classes):
        raise UserError(f"{origin}: the authors' weights need {'; '.join(wrong)}: build the network so.")
    state = _state(payload, origin)
    in_file = AUTHORS_CLASSES[: _count(state)]
    if in_file and set(in_file) != set(classes):
        raise UserError(
            f"{origin} has {len(in_file)} classes, the network {len(classes)};"
            f" only here: {first_few([c for c in classes if c not in in_file])};"
            f" only in the file: {first_few([c for c in in_file if c not in classes])}:"
            " use the label set the file was trained on."
        )
    own = network.state_dict()
    if wrong := differences({_HEAD.get(key, key): value for key, value in own.items()}, state):
        raise UserError(
            f"{origin} does not fit the network: {'; '.join(wrong)}: check that the file is one the authors published."
        )
    rows = [AUTHORS_CLASSES.index(c) for c in classes]
    network.load_state_dict({key: state[_HEAD[key]][rows] if key in _HEAD else state[key] for key in own})


def to_authors(network: Network, classes: Sequence[str], *, origin: str = "the network") -> bytes:
    """The network as a file that the authors' code loads: the inverse of `load_authors`, key by key, bit by bit.

    Raises UserError for a network or classes that such a file does not hold.
    """
    if wrong := _unlike_authors(network, classes):
        raise UserError(
            f"{origin} cannot be an authors' file, which holds {'; '.join(wrong)}: train with these settings, or"
            " export it as .safetensors."
        )
    in_file = AUTHORS_CLASSES[: len(classes)]
    if set(in_file) != set(classes):
        raise UserError(
            f"{origin} cannot be an authors' file, which knows the 19 classes of Cityscapes or the 16 of SYNTHIA, not"
            f" {first_few([c for c in classes if c not in in_file])}: export it as .safetensors."
        )
    rows = [classes.index(c) for c in in_file]
    state = {
        _HEAD.get(key, key): (value[rows] if key in _HEAD else value).cpu().contiguous()
        for key, value in network.state_dict().items()
    }
    file = io.BytesIO()
    torch.save({"weights": state}, file)
    return file.getvalue()


def _state(payload: Any, origin: str) -> dict[str, Tensor]:
    if not isinstance(payload, Mapping) or "weights" not in payload:
        raise UserError(
            f"{origin} has no entry 'weights', so it is not one of the authors' files: check which file it is."
        )
    return state_dict_of(payload["weights"], origin)


def _count(state: Mapping[str, Tensor]) -> int:
    """K, by the rows of the head; 0 where the file has no head."""
    return next((len(state[key]) for key in _HEAD.values() if key in state and state[key].dim() == 4), 0)


def _unlike_authors(network: Network, classes: Sequence[str]) -> list[str]:
    wanted = Description(AUTHORS_BACKBONE, AUTHORS_STYLE, PAPER_RATES, tuple(classes))
    return unlike(wanted, described(network, classes), "{0}, not {1}")
