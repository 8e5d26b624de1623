"""Our own weight files: whole round trips, and every way a file can be the wrong one."""

import hashlib
import io
import json
from random import Random

import pytest
import safetensors.torch
import torch

from plca_dist.data.labels import LABEL_SETS
from plca_dist.errors import UserError
from plca_dist.models.description import Description
from plca_dist.models.weights import describe, label_record, load_into, load_pretrained, load_weights, to_bytes
from tests.models.files import TOYTOWN, distinct, network_of, same, snapshot

SYNTHIA = LABEL_SETS["synthia"].classes


def test_more_about_the_classes_travels_with_the_weights() -> None:
    network, labels = network_of("tiny"), {"name": "mine", "classes": [{"name": "a", "colour": [1, 2, 3]}]}
    data = to_bytes(network, TOYTOWN, labels)
    assert label_record(data) == labels
    assert label_record(to_bytes(network, TOYTOWN)) is None
    assert describe(data) == describe(to_bytes(network, TOYTOWN))
    with pytest.raises(UserError, match="is damaged"):
        load_weights(data.replace(b"[1, 2, 3]", b"[1, 2, 4]"))
    assert same(load_weights(data).state_dict(), network.state_dict())


@pytest.mark.parametrize(
    ("backbone", "style", "rates"), [("tiny", "torchvision", (1, 2, 4)), ("resnet18", "caffe", (6, 12))]
)
def test_own_weights_round_trip(backbone: str, style: str, rates: tuple[int, ...]) -> None:
    network = distinct(network_of(backbone, style=style, rates=rates))
    data = to_bytes(network, TOYTOWN)
    assert describe(data) == Description(backbone, style, rates, TOYTOWN)

    rebuilt = load_weights(data)
    assert same(rebuilt.state_dict(), network.state_dict())
    assert (rebuilt.backbone_name, rebuilt.style.name, rebuilt.rates, rebuilt.num_classes) == (
        backbone,
        style,
        rates,
        9,
    )

    for load in (load_into, load_pretrained):
        other = network_of(backbone, seed=5, style=style, rates=rates)
        load(other, data, TOYTOWN)
        assert same(other.state_dict(), network.state_dict())


def test_own_weights_of_a_channels_last_network_round_trip() -> None:
    network = distinct(network_of("tiny")).to(memory_format=torch.channels_last)
    assert same(load_weights(to_bytes(network, TOYTOWN)).state_dict(), network.state_dict())


def test_the_same_network_gives_the_same_bytes() -> None:
    assert to_bytes(network_of("tiny"), TOYTOWN) == to_bytes(network_of("tiny"), TOYTOWN)


def test_weights_of_another_network_are_refused_by_what_differs() -> None:
    data = to_bytes(network_of("tiny", rates=(1, 2)), TOYTOWN)
    network = network_of("resnet18", SYNTHIA, style="caffe")
    before = snapshot(network)
    with pytest.raises(UserError) as caught:
        load_into(network, data, SYNTHIA, origin="runs/a/weights")
    message = str(caught.value)
    assert message.startswith(
        "runs/a/weights holds another network: backbone 'tiny' in the file, 'resnet18' here; style 'torchvision' in the"
        " file, 'caffe' here; rates (1, 2) in the file, (6, 12, 18, 24) here; classes (road, sidewalk,"
    )
    assert message.endswith(": build the network as the file says.")
    assert same(network.state_dict(), before)


def test_the_same_classes_in_another_order_are_another_network() -> None:
    data = to_bytes(network_of("tiny"), TOYTOWN)
    with pytest.raises(UserError, match=r"holds another network: classes \(road, .*\) in the file, \(car, .*\) here"):
        load_into(network_of("tiny"), data, TOYTOWN[::-1])


def test_foreign_damaged_and_inconsistent_files_are_refused() -> None:
    network = network_of("tiny", rates=(1, 2, 4))
    data = to_bytes(network, TOYTOWN)
    pickled = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, pickled)
    foreign = safetensors.torch.save({"a": torch.zeros(1)})
    for other in (b"", b"1234567", b"not safetensors, but text", pickled.getvalue(), foreign):
        with pytest.raises(UserError, match="was not written by plca_dist"):
            load_weights(other)
    with pytest.raises(UserError, match="w is damaged or cut short: restore it from a copy; or, if a run"):
        load_weights(data[:-100], origin="w")

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    written = json.loads(header["__metadata__"]["plca_dist"])
    del written["sha256"]

    def rewritten(**changes: object) -> bytes:
        return safetensors.torch.save(state, {"plca_dist": json.dumps(written | changes)})

    state = snapshot(network)
    with pytest.raises(
        UserError, match="is not in the format 'weights-1' that this version reads: use the version that"
    ):
        load_weights(rewritten(format="weights-9"))
    with pytest.raises(UserError, match="was not written by plca_dist"):
        load_weights(rewritten(colour="red"))
    with pytest.raises(UserError, match=r"contradicts its own metadata: 3 of another shape: classifier\.convs\.0"):
        load_weights(rewritten(classes=TOYTOWN[:5]))
    del state["backbone.bn1.weight"]
    with pytest.raises(
        UserError, match=r"contradicts its own metadata: 1 missing: backbone\.bn1\.weight: copy it again"
    ):
        load_into(network, rewritten(), TOYTOWN)


def test_a_bit_that_flips_anywhere_is_refused_in_one_line() -> None:
    """Among them exponents, names, rates and the hash itself."""
    data = to_bytes(distinct(network_of("tiny", rates=(1, 2, 4))), TOYTOWN)
    start, random = 8 + int.from_bytes(data[:8], "little"), Random(0)
    description = data.index(b"weights-1")
    places = [*(random.randrange(start, len(data)) for _ in range(150)), *(random.randrange(start) for _ in range(150)),
              *range(description, description + 250)]  # fmt: skip
    network, other = network_of("tiny", rates=(1, 2, 4)), snapshot(network_of("tiny", rates=(1, 2, 4)))
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << random.randrange(8)
        for load in (load_weights, lambda d, **kw: load_pretrained(network, d, TOYTOWN, **kw)):
            with pytest.raises(UserError, match="runs/a/weights") as caught:
                load(bytes(flipped), origin="runs/a/weights")
            assert "\n" not in str(caught.value)
    assert same(network.state_dict(), other)


def test_a_file_of_an_earlier_version_has_no_hash_and_loads() -> None:
    network = distinct(network_of("tiny"))
    data = to_bytes(network, TOYTOWN)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    written = json.loads(header["__metadata__"]["plca_dist"])
    assert len(written.pop("sha256")) == 64
    earlier = safetensors.torch.save(snapshot(network), {"plca_dist": json.dumps(written)})
    assert same(load_weights(earlier).state_dict(), network.state_dict())


def test_class_names_must_match_the_head() -> None:
    with pytest.raises(AssertionError, match="3 class names for 9 classes"):
        to_bytes(network_of("tiny"), TOYTOWN[:3])


def test_files_of_resnets_are_those_of_earlier_versions_byte_by_byte() -> None:
    network = network_of("tiny", ("a", "b"), style="caffe", rates=(1, 2))
    with torch.no_grad():
        for number, value in enumerate(network.state_dict().values()):
            value.fill_(number)
    digest = hashlib.sha256(to_bytes(network, ("a", "b"))).hexdigest()
    assert digest == "930a5210a8298db3aca3c63fc94babc10fe4bb9eed80eaf5cfe91d7c0364f7ec"
