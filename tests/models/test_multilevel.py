"""The multi-level head: which levels it sees, on which grid, and that an image is judged alone."""

import pytest
import torch
import torch.nn.functional as F

from plca_dist.errors import UserError
from plca_dist.models.multilevel import WIDTH, LevelFusion
from plca_dist.models.weights import load_weights, to_bytes
from tests.models.files import TOYTOWN, distinct, network_of, same


def test_levels_are_projected_resized_mixed_and_normalized_position_by_position() -> None:
    torch.manual_seed(0)
    fusion = LevelFusion((3, 5))
    fine, coarse = torch.randn(2, 3, 6, 10), torch.randn(2, 5, 3, 5)
    with torch.no_grad():
        found = fusion([fine, coarse], (3, 5))
        first, second = fusion.projections
        means = F.avg_pool2d(first(fine), 2)  # bilinear at half the size takes the mean of four
        mixed = fusion.mix(torch.cat([means, second(coarse)], 1))
    expected = (mixed - mixed.mean(1, keepdim=True)) / (mixed.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(found, expected.relu(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("style", ["torchvision", "caffe"])
def test_on_a_resnet_it_sees_all_stages(style: str) -> None:
    network = network_of("tiny", head="multilevel", style=style)
    features, logits = network(torch.randint(0, 256, (2, 3, 97, 130), dtype=torch.uint8))
    assert features.shape == (2, WIDTH, 13, 17)
    assert logits.shape == (2, len(TOYTOWN), 13, 17)
    assert features.min() == 0
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert [p.in_channels for p in network.fusion.projections] == [32, 64, 128, 256]


def test_its_weight_file_rebuilds_it() -> None:
    network = distinct(network_of("tiny", head="multilevel"))
    assert same(load_weights(to_bytes(network, TOYTOWN)).state_dict(), network.state_dict())


def test_an_unknown_head_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"head 'multilevle' is unknown; .* Did you mean 'multilevel'\?"):
        network_of("tiny", head="multilevle")


def test_a_stride_that_a_resnet_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="stride = 16: backbone 'tiny' has stride 8 only"):
        network_of("tiny", stride=16)
