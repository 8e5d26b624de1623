"""Files of others: what each loader maps, and that one which does not fit is refused with reasons, changing nothing."""

import pickle

import pytest
import torch
import torchvision
from torch import Tensor, nn

from plca_dist.errors import UserError
from plca_dist.models.weights import load_imagenet, load_pretrained
from tests.models.files import TOYTOWN, distinct, network_of, same, saved, snapshot


@pytest.fixture(scope="module")
def imagenet18() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return snapshot(distinct(torchvision.models.resnet18(weights=None)))


@pytest.mark.parametrize("load", [load_imagenet, lambda n, d: load_pretrained(n, d, TOYTOWN)])
def test_imagenet_fills_the_backbone_and_leaves_the_head(load, imagenet18: dict[str, Tensor]) -> None:
    network = network_of("resnet18")
    head = snapshot(network.classifier)
    load(network, saved(imagenet18))
    assert same(network.backbone.state_dict(), {k: v for k, v in imagenet18.items() if not k.startswith("fc.")})
    assert same(network.classifier.state_dict(), head)


def test_imagenet_gives_torchvisions_dilated_features_through_the_file() -> None:
    torch.manual_seed(1)
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
    network = network_of("resnet50")
    load_imagenet(network, saved(theirs.state_dict()))
    image = torch.randint(0, 256, (1, 3, 49, 65), dtype=torch.uint8)
    normalized = torchvision.transforms.functional.normalize(image / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    theirs.eval(), network.eval()
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.children())[:-2])(normalized)
        torch.testing.assert_close(network(image).features, expected, rtol=1e-4, atol=1e-4)


def test_imagenet_files_older_than_the_bn_counters_start_them_at_zero(imagenet18: dict[str, Tensor]) -> None:
    old = {k: v for k, v in imagenet18.items() if not k.endswith("num_batches_tracked")}
    network = network_of("resnet18")
    network.backbone.bn1.num_batches_tracked.fill_(7)
    load_imagenet(network, saved(old))
    assert network.backbone.bn1.num_batches_tracked == 0
    assert torch.equal(network.backbone.bn1.running_var, imagenet18["bn1.running_var"])


def test_imagenet_file_with_only_some_bn_counters_is_refused(imagenet18: dict[str, Tensor]) -> None:
    partial = {k: v for k, v in imagenet18.items() if k != "bn1.num_batches_tracked"}
    with pytest.raises(UserError, match=r"1 missing: bn1\.num_batches_tracked"):
        load_imagenet(network_of("resnet18"), saved(partial))


def test_imagenet_refusals_name_the_first_differences_and_change_nothing(imagenet18: dict[str, Tensor]) -> None:
    broken = dict(imagenet18)
    for key in ("layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer1.1.conv1.weight", "layer1.1.conv2.weight"):
        del broken[key]
    broken["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    broken["head.weight"] = torch.zeros(1)
    network = network_of("resnet18")
    before = snapshot(network)
    with pytest.raises(UserError) as caught:
        load_imagenet(network, saved(broken), origin="s3://b/r18.pth")
    assert str(caught.value) == (
        "s3://b/r18.pth does not fit backbone 'resnet18': 4 missing: layer1.0.conv1.weight, layer1.0.conv2.weight,"
        " layer1.1.conv1.weight, …; 1 unexpected: head.weight; 1 of another shape: conv1.weight 64x3x3x3 where"
        " 64x3x7x7 is expected: give the file that torchvision publishes for resnet18."
    )
    assert same(network.state_dict(), before)


def test_imagenet_file_of_another_backbone_is_recognized(imagenet18: dict[str, Tensor]) -> None:
    with pytest.raises(
        UserError, match=r"does not fit backbone 'resnet34': .*missing.*: it is for backbone 'resnet18'"
    ):
        load_imagenet(network_of("resnet34"), saved(imagenet18))
    with pytest.raises(UserError, match=r"does not fit backbone 'resnet50': .*: it is for backbone 'resnet18'"):
        load_imagenet(network_of("resnet50"), saved(imagenet18))


def test_imagenet_is_refused_for_tiny_and_for_the_caffe_style(imagenet18: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match=r"no ImageNet weights for backbone 'tiny': .*resnet18, resnet34, resnet50"):
        load_imagenet(network_of("tiny"), saved(imagenet18))
    with pytest.raises(UserError, match="network has style 'caffe': choose style 'torchvision'"):
        load_imagenet(network_of("resnet18", style="caffe"), saved(imagenet18))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a weight file at all",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        pickle.dumps({"conv1.weight": 1}, protocol=2),
        saved({"weight": torch.zeros(2000)})[:3000],
        saved(nn.Linear(2, 2)),
    ],
    ids=["empty", "text", "image", "pickle", "cut short", "whole model"],
)
def test_files_that_torch_cannot_read_safely_are_refused(data: bytes) -> None:
    network = network_of("resnet18")
    for load in (load_imagenet, lambda *args, **kw: load_pretrained(*args, TOYTOWN, **kw)):
        with pytest.raises(UserError, match=r"f\.pth is not a file of tensors written by torch"):
            load(network, data, origin="f.pth")


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}, {"state_dict": {"a": torch.zeros(1)}}, torch.zeros(3)])
def test_torch_files_that_hold_no_state_dict_are_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"holds no state dict .*: save `model.state_dict\(\)`"):
        load_imagenet(network_of("resnet18"), saved(value))
