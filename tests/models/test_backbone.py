"""Backbones against torchvision's own, against the stride-32 networks they come from, and against plain conv calls."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from plca_dist.errors import UserError
from plca_dist.models.architecture import BACKBONES, STYLES
from plca_dist.models.backbone import build_backbone, normalize

RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101"]


def randomize_batch_norm(module: nn.Module) -> None:
    """Statistics and affine parameters that are neither 0 nor 1, so that no BN layer can hide in an eval comparison."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.3, 0.9)
            nn.init.uniform_(layer.bias, -0.2, 0.2)


def torchvision_features(name: str, **options: object) -> tuple[nn.Module, nn.Module]:
    """torchvision's network, randomized, and the part of it that comes before pooling."""
    network = getattr(torchvision.models, name)(weights=None, **options)
    randomize_batch_norm(network)
    return network, nn.Sequential(*list(network.children())[:-2])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_bottlenecks_equal_torchvisions_dilated_networks_in_eval_and_in_training(name: str) -> None:
    theirs, features = torchvision_features(name, replace_stride_with_dilation=[False, True, True])
    ours = build_backbone(name)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(2, 3, 49, 65)

    theirs.eval(), ours.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), features(x), rtol=1e-5, atol=1e-5)

    theirs.train(), ours.train()
    torch.testing.assert_close(ours(x), features(x), rtol=1e-5, atol=1e-5)
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[key], rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_every_fourth_position_equals_torchvisions_stride_32_network(name: str) -> None:
    theirs, features = torchvision_features(name)
    ours = build_backbone(name)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    theirs.eval(), ours.eval()
    x = torch.randn(1, 3, 97, 129)
    with torch.no_grad():
        dense, sparse = ours(x), features(x)
    assert sparse.shape[2:] == (4, 5)
    torch.testing.assert_close(dense[:, :, ::4, ::4], sparse, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("style", STYLES)
def test_names_shapes_and_order_are_torchvisions(name: str, style: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
        ours = build_backbone(name, style).state_dict()
    expected = [(k, v.shape) for k, v in theirs.items() if not k.startswith("fc.")]
    assert [(k, v.shape) for k, v in ours.items()] == expected


def caffe_resnet50(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The caffe-style network at stride 8, in eval mode, spelled out from the weights alone."""

    def norm(prefix: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{prefix}.{p}"][:, None, None] for p in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = norm("bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3)).relu()
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    for layer, depth, stride, dilation in ((1, 3, 1, 1), (2, 4, 2, 1), (3, 6, 1, 2), (4, 3, 1, 4)):
        for i in range(depth):
            block, s = f"layer{layer}.{i}", stride if i == 0 else 1
            y = norm(f"{block}.bn1", F.conv2d(x, state[f"{block}.conv1.weight"], stride=s)).relu()
            y = F.conv2d(y, state[f"{block}.conv2.weight"], padding=dilation, dilation=dilation)
            y = norm(f"{block}.bn2", y).relu()
            y = norm(f"{block}.bn3", F.conv2d(y, state[f"{block}.conv3.weight"]))
            if i == 0:
                x = norm(f"{block}.downsample.1", F.conv2d(x, state[f"{block}.downsample.0.weight"], stride=s))
            x = (x + y).relu()
    return x


@pytest.mark.parametrize("size", [(97, 129), (64, 80)])
def test_caffe_style_equals_the_network_spelled_out(size: tuple[int, int]) -> None:
    network = build_backbone("resnet50", "caffe")
    randomize_batch_norm(network)
    network.eval()
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(network(x), caffe_resnet50(network.state_dict(), x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "style", "size", "grid"),
    [
        ("resnet101", "caffe", (97, 129), (13, 17)),  # the authors' network
        ("resnet101", "caffe", (730, 730), (92, 92)),  # the paper's association grid
        ("resnet101", "caffe", (96, 192), (13, 25)),  # ceil mode gains a row on an even half-size grid
        ("resnet101", "torchvision", (97, 129), (13, 17)),
        ("resnet101", "torchvision", (96, 192), (12, 24)),
        ("resnet18", "torchvision", (1, 9), (1, 2)),
        ("tiny", "torchvision", (96, 192), (12, 24)),
        ("tiny", "torchvision", (97, 129), (13, 17)),
        ("tiny", "caffe", (96, 192), (12, 24)),
    ],
)
def test_grid_at_output_stride_8(name: str, style: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = build_backbone(name, style)
        features = network(torch.empty(1, 3, *size))
    assert features.shape == (1, network.out_channels, *grid)


@pytest.mark.parametrize(
    ("name", "channels"), [("tiny", 256), ("resnet18", 512), ("resnet34", 512), ("resnet50", 2048), ("resnet101", 2048)]
)
def test_feature_channels(name: str, channels: int) -> None:
    with torch.device("meta"):
        assert build_backbone(name).out_channels == channels


def test_caffe_and_torchvision_styles_move_stride_and_dilation_of_bottlenecks() -> None:
    with torch.device("meta"):
        torchvision_style, caffe = build_backbone("resnet50"), build_backbone("resnet50", "caffe")
    first = {"torchvision": torchvision_style.layer2[0], "caffe": caffe.layer2[0]}
    assert (first["torchvision"].conv1.stride, first["torchvision"].conv2.stride) == ((1, 1), (2, 2))
    assert (first["caffe"].conv1.stride, first["caffe"].conv2.stride) == ((2, 2), (1, 1))
    dilations = [
        [block.conv2.dilation[0] for block in (*network.layer3[:2], *network.layer4[:2])]
        for network in (torchvision_style, caffe)
    ]
    assert dilations == [[1, 2, 2, 4], [2, 2, 4, 4]]


def test_torchvision_style_normalizes_as_torchvision_does() -> None:
    image = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    expected = torchvision.transforms.functional.normalize(
        image / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(normalize(image, STYLES["torchvision"]), expected, rtol=1e-5, atol=1e-6)


def test_caffe_style_turns_rgb_into_bgr_minus_the_mean() -> None:
    red, green, blue = 200, 100, 50
    image = torch.tensor([red, green, blue], dtype=torch.uint8).reshape(1, 3, 1, 1)
    expected = [blue - 104.00698793, green - 116.66876762, red - 122.67891434]
    assert normalize(image, STYLES["caffe"]).flatten().tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("style", STYLES)
def test_uint8_and_float_images_are_the_same_input(style: str) -> None:
    image = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    from_uint8, from_float = (normalize(x, STYLES[style]) for x in (image, image.float()))
    assert torch.equal(from_uint8, from_float)
    assert normalize(image.double(), STYLES[style]).dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "style"),
    [("tiny", "torchvision"), ("resnet18", "caffe"), ("resnet50", "torchvision"), ("resnet50", "caffe")],
)
def test_gradient_reaches_every_parameter(name: str, style: str) -> None:
    network = build_backbone(name, style)
    features = network(torch.randn(2, 3, 64, 64))
    (features * torch.randn_like(features)).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


def test_initialization_is_kaiming_fan_out_and_follows_the_seed() -> None:
    network = build_backbone("resnet18")
    weight = network.layer4[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert torch.equal(network.bn1.weight, torch.ones(64))
    torch.manual_seed(0)
    assert torch.equal(build_backbone("resnet18").layer4[1].conv2.weight, weight)
    assert not torch.equal(build_backbone("resnet18").layer4[1].conv2.weight, weight)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'resnet51' is unknown; known: tiny, .* Did you mean 'resnet5?0?1?\w*'"):
        build_backbone("resnet51")
    with pytest.raises(UserError, match=r"style 'cafe' is unknown; known: torchvision, caffe. Did you mean 'caffe'"):
        build_backbone("tiny", "cafe")


def test_only_tiny_lacks_imagenet_weights() -> None:
    assert [name for name, architecture in BACKBONES.items() if not architecture.imagenet] == ["tiny"]
