"""The head against one dense kernel, and the network's promises: names, grid, classification, precision, sync BN."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plca_dist.errors import UserError
from plca_dist.models.deeplab import PAPER_RATES, DeepLabHead, Network, build_network, synchronize_batch_norm
from plca_dist.models.sync_batch_norm import SyncBatchNorm


def tiny(num_classes: int = 5, **options: object) -> Network:
    torch.manual_seed(0)
    return build_network("tiny", num_classes, rates=(1, 2, 4), **options)


def image(height: int = 48, width: int = 64, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("rates", [PAPER_RATES, (1, 2, 4), (3,), (2, 2)])
def test_head_is_one_sparse_kernel(rates: tuple[int, ...]) -> None:
    """Summed dilated convolutions are one convolution whose kernel holds all their taps."""
    torch.manual_seed(0)
    head, reach = DeepLabHead(6, 4, rates), max(rates)
    kernel = torch.zeros(4, 6, 2 * reach + 1, 2 * reach + 1)
    for conv, rate in zip(head.convs, rates, strict=True):
        taps = slice(reach - rate, reach + rate + 1, rate)
        kernel[:, :, taps, taps] += conv.weight.detach()
    features = torch.randn(2, 6, 13, 17)
    with torch.no_grad():
        torch.testing.assert_close(head(features), F.conv2d(features, kernel, padding=reach), rtol=1e-4, atol=1e-5)


def test_head_has_no_bias_and_a_small_normal_start() -> None:
    torch.manual_seed(0)
    head = DeepLabHead(256, 19, PAPER_RATES)
    assert [key for key, _ in head.named_parameters()] == [f"convs.{i}.weight" for i in range(4)]
    for conv in head.convs:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("style", ["torchvision", "caffe"])
@pytest.mark.parametrize("size", [(48, 64), (47, 61), (97, 129)])
def test_output_is_features_and_logits_on_the_grid(style: str, size: tuple[int, int]) -> None:
    network = tiny(style=style)
    features, logits = network(image(*size))
    grid = tuple(-(-edge // network.stride) for edge in size)
    assert features.shape == (2, network.feature_channels, *grid)
    assert logits.shape == (2, 5, *grid)
    assert torch.equal(network.classify(features), logits)


def test_attributes() -> None:
    network = tiny(num_classes=7, style="caffe")
    assert (network.stride, network.num_classes, network.feature_channels) == (8, 7, 256)
    assert (network.backbone_name, network.style.name, network.rates) == ("tiny", "caffe", (1, 2, 4))


def test_submodule_names() -> None:
    heads = {key for key in tiny().state_dict() if not key.startswith("backbone.")}
    assert heads == {f"classifier.convs.{i}.weight" for i in range(3)}


def test_the_image_is_normalized_inside() -> None:
    network = tiny(style="caffe").eval()
    pixels = image(batch=1)
    bgr = pixels.flip(1).float() - torch.tensor([104.00698793, 116.66876762, 122.67891434]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(network(pixels).features, network.backbone(bgr))


def test_an_image_is_judged_alone_in_eval_mode() -> None:
    network, pixels = tiny().eval(), image()
    with torch.no_grad():
        torch.testing.assert_close(network(pixels).logits[:1], network(pixels[:1]).logits, rtol=1e-4, atol=1e-6)


def test_normalization_keeps_its_precision_in_a_bfloat16_network() -> None:
    """Pixel 124 minus the mean 123.675 is 0.325: computed in bfloat16 it would be 0 or 1."""
    network, seen = tiny().to(torch.bfloat16), []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.full((1, 3, 16, 16), 124, dtype=torch.uint8))
    assert seen[0].dtype == torch.bfloat16
    assert seen[0][0, 0, 0, 0].item() == pytest.approx((124 / 255 - 0.485) / 0.229, rel=0.01)


def test_gradient_reaches_every_parameter_from_the_logits() -> None:
    network = tiny()
    logits = network(image()).logits
    (logits * torch.randn_like(logits)).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


def test_tiny_learns_to_tell_colours_apart() -> None:
    """Blocks of 16 pixels in one of three colours; untrained, a third of the cells come out right."""
    torch.manual_seed(0)
    network = build_network("tiny", 3, rates=(1, 2, 4))
    palette = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200]], dtype=torch.uint8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(25):
        label_Bhw = torch.randint(0, 3, (2, 3, 4))
        pixels = palette[label_Bhw].permute(0, 3, 1, 2).repeat_interleave(16, 2).repeat_interleave(16, 3)
        target_Bhw = label_Bhw.repeat_interleave(2, 1).repeat_interleave(2, 2)
        logits = network(pixels).logits
        optimizer.zero_grad()
        F.cross_entropy(logits, target_Bhw).backward()
        optimizer.step()
    assert (logits.argmax(1) == target_Bhw).float().mean() > 0.8


def test_channels_last_changes_no_numbers() -> None:
    network, pixels = tiny().eval(), image()
    with torch.no_grad():
        expected = network(pixels).logits
        actual = network.to(memory_format=torch.channels_last)(pixels).logits
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_synchronized_batch_norm_replaces_every_layer_and_no_number() -> None:
    network, pixels = tiny().eval(), image()
    with torch.no_grad():
        expected, before = network(pixels).logits, {k: v.clone() for k, v in network.state_dict().items()}
        count = sum(type(m) is nn.BatchNorm2d for m in network.modules())
        converted = synchronize_batch_norm(network)
        torch.testing.assert_close(converted(pixels).logits, expected)
    assert isinstance(converted, Network)
    assert sum(isinstance(m, SyncBatchNorm) for m in converted.modules()) == count > 0
    assert not any(type(m) is nn.BatchNorm2d for m in converted.modules())
    after = converted.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("rates", [(), (0,), (6, -1), (1.5,)])
def test_rates_that_are_no_dilations_are_refused(rates: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"rates .* are not dilations: .* \[6, 12, 18, 24\]"):
        build_network("tiny", 5, rates=rates)


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(UserError, match="of 0 classes"):
        build_network("tiny", 0)
