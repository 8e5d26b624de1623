"""Weight files in and out: torchvision's and timm's, and this project's own; the authors' are in `authors.py`.

Loading is strict: a file fits key by key and shape by shape, or is refused and changes nothing. The names that may
differ between a file and the network are listed here and nowhere else. Files arrive as bytes; messages call them by
their `origin`.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from plca_dist.errors import UserError
from plca_dist.models.architecture import BACKBONES, HEADS, LARGEST_RATE, MOST_RATES, STRIDES, STYLES, TIMM
from plca_dist.models.authors import fill_as_authors
from plca_dist.models.backbone import build_backbone
from plca_dist.models.deeplab import Network
from plca_dist.models.description import Description, described, unlike
from plca_dist.models.state import RESTORE, differences, load_strict, safetensors_of, state_dict_of, torch_payload
from plca_dist.models.storageless import without_storage
from plca_dist.models.timm_backbone import timm_facts
from plca_dist.models.timm_weights import timm_weights
from plca_dist.parsing import MISFITS, Unreadable, from_json, json_as

_FORMAT = "weights-1"
_KEY = "plca_dist"
#: In the metadata of files of this version; those of earlier ones have none, and nothing is compared.
_HASH = "sha256"
#: In the metadata of files whose label set is no shipped one: its record, which nothing here reads.
_LABELS = "labels"
_NOT_THE_BACKBONES = ("fc.weight", "fc.bias")


def load_pretrained(
    network: Network, data: bytes, classes: Sequence[str], *, origin: str = "the pretrained weight file"
) -> None:
    """Fill `network` from whichever of the four kinds of file `data` is, told apart by their content.

    Raises UserError as `load_into`, `load_authors`, `load_imagenet` or `load_timm` does.
    """
    of_timm = network.backbone_name.startswith(TIMM)
    if data[8:9] == b"{":  # safetensors: a header of JSON behind its length in 8 bytes
        if of_timm and json.dumps(_KEY).encode() not in _header(data):
            load_timm(network, safetensors_of(data, origin), origin=origin)
        else:
            load_into(network, data, classes, origin=origin)
        return
    payload = torch_payload(data, origin)
    if isinstance(payload, Mapping) and "weights" in payload:
        fill_as_authors(network, payload, classes, origin)
    elif of_timm:
        load_timm(network, payload, origin=origin)
    else:
        _fill_backbone(network, payload, origin)


def load_timm(network: Network, payload: Any, *, origin: str = "the file") -> None:
    """Fill `network.backbone`, one of timm's, from a state dict of timm's or of the network's authors, read already.

    Training scripts put it into an entry `state_dict` or `model`. `payload` None: from timm's hub.

    Raises UserError for a payload of another form or network, and for a hub out of reach.
    """
    inner = next((payload[k] for k in ("state_dict", "model") if k in payload), payload) if payload else payload
    state = None if payload is None else state_dict_of(inner, origin)
    facts = timm_facts(network.backbone_name, network.head, network.stride)
    wanted = network.backbone.state_dict()
    network.backbone.load_state_dict(timm_weights(network.backbone_name, facts, wanted, state, origin))


def load_imagenet(network: Network, data: bytes, *, origin: str = "the ImageNet file") -> None:
    """Fill `network.backbone` from torchvision's own ImageNet file (`resnet101-63fe2227.pth`, …).

    Names are the backbone's own; `fc.*`, the ImageNet classifier, is dropped. Files from before torch 0.4.1 lack the
    BN counters `num_batches_tracked`: where none is there, all start at 0.

    Raises UserError for a backbone or style that such files are not made for, a file that is not a state dict, and one
    that does not fit.
    """
    _fill_backbone(network, torch_payload(data, origin), origin)


def _fill_backbone(network: Network, payload: Any, origin: str) -> None:
    name = network.backbone_name
    published = [other for other, architecture in BACKBONES.items() if architecture.imagenet]
    if name not in published:
        raise UserError(
            f"{origin}: there are no ImageNet weights for backbone {name!r}: leave them out, or choose one of"
            f" {', '.join(published)}."
        )
    if network.style.name != "torchvision":
        raise UserError(
            f"{origin}: torchvision's ImageNet weights want the input and the strides of style 'torchvision', but the"
            f" network has style {network.style.name!r}: choose style 'torchvision'."
        )
    state = {k: v for k, v in state_dict_of(payload, origin).items() if k not in _NOT_THE_BACKBONES}
    own = network.backbone.state_dict()
    if not any(key.endswith("num_batches_tracked") for key in state):
        state |= {key: torch.zeros_like(value) for key, value in own.items() if key.endswith("num_batches_tracked")}
    remedy = f"give the file that torchvision publishes for {name}"
    if differences(own, state):
        parameters = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        remedy = next((f"it is for backbone {o!r}" for o in published if _parameters_fit(o, parameters)), remedy)
    load_strict(network.backbone, state, f"{origin} does not fit backbone {name!r}", remedy)


def _parameters_fit(backbone: str, parameters: Mapping[str, Tensor]) -> bool:
    with without_storage():
        own = build_backbone(backbone).state_dict()
    return not differences({k: v for k, v in own.items() if not k.endswith("num_batches_tracked")}, parameters)


def to_bytes(network: Network, classes: Sequence[str], labels: Mapping[str, Any] | None = None) -> bytes:
    """The network as a safetensors file, from which `load_weights` rebuilds it; equal networks give equal bytes.

    The metadata holds a hash of the tensors, which is compared wherever they are loaded.

    All metadata is one entry, because safetensors shuffles the order of several.

    Args:
        classes: names in train-id order.
        labels: more about the classes, as plain data that `label_record` gives back.
    """
    assert len(classes) == network.num_classes, f"{len(classes)} class names for {network.num_classes} classes"
    description = described(network, classes)
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    written: dict[str, Any] = {"format": _FORMAT, **description.written(), _HASH: _hash(description, tensors, labels)}
    if labels is not None:
        written[_LABELS] = dict(labels)
    return safetensors.torch.save(tensors, {_KEY: json.dumps(written)})


def _hash(description: Description, tensors: Mapping[str, Tensor], labels: Mapping[str, Any] | None) -> str:
    """Of the description, and of every tensor's name, dtype, shape and bytes, in the order of the names."""
    found = hashlib.sha256(json.dumps(list(description.written().values())).encode())
    if labels is not None:
        found.update(json.dumps(dict(labels)).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def describe(data: bytes, *, origin: str = "the weight file") -> Description:
    """The description in a file that `to_bytes` wrote. Raises UserError for any other file."""
    return _described(data, origin)[0]


def label_record(data: bytes, *, origin: str = "the weight file") -> dict[str, Any] | None:
    """What `to_bytes` got as `labels`; None where that was nothing. Raises UserError for a file of another form."""
    written = _written(data, origin)
    labels = written.get(_LABELS)
    if labels is not None and not isinstance(labels, dict):
        raise UserError(f"{origin} is damaged (its labels are no mapping): {RESTORE}.")
    return labels


def _written(data: bytes, origin: str) -> dict[str, Any]:
    """Raises Unreadable where the file has no metadata of this project."""
    return json_as(_header(data), lambda tree: dict(from_json(tree["__metadata__"][_KEY])), origin, "give another")


def _described(data: bytes, origin: str) -> tuple[Description, str | None]:
    """`describe`, and the hash that the file says it has."""
    try:
        written = _written(data, origin)
        written.pop(_LABELS, None)
        digest = written.pop(_HASH, None)
        if "format" not in written or written["format"] == _FORMAT:
            return _description(written), digest
    except (Unreadable, *MISFITS):
        raise UserError(
            f"{origin} was not written by plca_dist (a safetensors file with its metadata is expected): give weights"
            " that a run or an export of this project left."
        ) from None
    raise UserError(
        f"{origin} is not in the format {_FORMAT!r} that this version reads: use the version that wrote it."
    )


def _header(data: bytes) -> bytes:
    """The JSON of a safetensors file."""
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def _tensors(data: bytes, description: Description, digest: str | None, origin: str) -> dict[str, Tensor]:
    """The file's tensors. Raises UserError where they are damaged or differ from the hash in the file."""
    tensors = safetensors_of(data, origin)
    if digest is not None and _hash(description, tensors, label_record(data, origin=origin)) != digest:
        raise UserError(f"{origin} is damaged (it differs from the sha256 in its metadata): {RESTORE}.")
    return tensors


def _description(written: Mapping[str, Any]) -> Description:
    """Raises one of `MISFITS` for the description of no network that can be built."""
    fields = {key: value for key, value in written.items() if key != "format"}
    lists: dict[str, Any] = {key: tuple(fields[key]) for key in ("rates", "classes", "mean", "std") if key in fields}
    found = Description(**fields | lists)
    of_timm = found.backbone.startswith(TIMM)
    if (
        written["format"] != _FORMAT
        or not (of_timm or (found.backbone in BACKBONES and found.style in STYLES))
        or found.head not in HEADS
        or type(found.stride) is not int
        or found.stride not in STRIDES
        or [len(found.mean), len(found.std)] != ([3, 3] if of_timm else [0, 0])
        or not all(type(x) in (int, float) and math.isfinite(x) for x in (*found.mean, *found.std))
        or not all(x > 0 for x in found.std)
        or not 0 < len(found.rates) <= MOST_RATES
        or not all(type(rate) is int and 0 < rate <= LARGEST_RATE for rate in found.rates)
        or not 0 < len(found.classes) <= 255
        or not all(isinstance(name, str) for name in found.classes)
    ):
        raise ValueError("it describes no network")
    return found


def load_weights(data: bytes, *, origin: str = "the weight file") -> Network:
    """The network that `to_bytes` wrote, rebuilt from the file's own metadata, in float32 on the CPU.

    Raises UserError for a foreign, damaged or inconsistent file.
    """
    there, digest = _described(data, origin)
    tensors = _tensors(data, there, digest, origin)
    network = there.build()
    load_strict(network, tensors, f"{origin} contradicts its own metadata", "copy it again")
    return network


def load_into(network: Network, data: bytes, classes: Sequence[str], *, origin: str = "the weight file") -> None:
    """Fill `network`, whose classes are `classes`, from a file that `to_bytes` wrote for an equal one.

    Raises UserError naming what differs: backbone, style, rates and classes first, then names and shapes.
    """
    there, digest = _described(data, origin)
    tensors = _tensors(data, there, digest, origin)
    if wrong := unlike(there, described(network, classes), "{0} in the file, {1} here"):
        raise UserError(f"{origin} holds another network: {'; '.join(wrong)}: build the network as the file says.")
    load_strict(network, tensors, f"{origin} contradicts its own metadata", "copy it again")
