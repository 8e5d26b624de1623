"""What is frozen stays: its parameters, and the statistics of its batch norm; what is not frozen trains."""

import pytest
import torch
from torch import nn

from plca_dist.errors import UserError
from plca_dist.models.deeplab import Network, synchronize_batch_norm
from plca_dist.models.frozen import freeze
from tests.models.files import network_of, snapshot


def changed(network: Network) -> set[str]:
    """The first parts of the names of parameters and buffers that a step of training changes."""
    before = snapshot(network)
    trained = [p for p in network.parameters() if p.requires_grad]
    network.train()
    pixels = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    logits = network(pixels).logits
    (logits * torch.randn_like(logits)).sum().backward()
    torch.optim.SGD(trained, lr=1.0).step()
    assert all(p.grad is None for p in network.parameters() if not p.requires_grad)
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def parts(names: set[str]) -> set[str]:
    return {name.removeprefix("backbone.").split(".")[0] for name in names}


def test_named_modules_stay_with_their_statistics() -> None:
    network = network_of("tiny")
    freeze(network, ["conv1", "bn1", "layer1"])
    assert parts(changed(network)) == {"layer2", "layer3", "layer4", "classifier"}
    network.eval().train()
    assert not network.backbone.bn1.training
    assert not network.backbone.layer1[0].bn2.training
    assert network.backbone.layer2[0].bn2.training


def test_all_leaves_the_head() -> None:
    network = network_of("timm/test_convnext", head="multilevel")
    freeze(network, ["all"])
    assert parts(changed(network)) == {"classifier", "fusion"}


def test_a_parameter_has_a_name_too() -> None:
    network = network_of("timm/test_vit", stride=16)
    freeze(network, ["pos_embed", "blocks.0"])
    names = changed(network)
    assert "backbone.pos_embed" not in names
    assert "backbone.cls_token" in names
    assert not {name for name in names if name.startswith("backbone.blocks.0.")}


@pytest.mark.parametrize("backbone", ["tiny", "timm/test_efficientnet"])
def test_frozen_batch_norm_keeps_its_statistics_and_trains_scale_and_shift(backbone: str) -> None:
    network = synchronize_batch_norm(network_of(backbone))
    freeze(network, [], freeze_bn=True)
    names = changed(network)
    assert not {name for name in names if "running" in name or "num_batches" in name}
    norms = [n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert {f"{norms[0]}.weight", f"{norms[0]}.bias"} <= names


def test_names_that_are_not_there_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"tiny has no part 'layer5'; it has conv1, bn1, .* Did you mean 'layer\d'\?"):
        freeze(network_of("tiny"), ["layer5"])
    with pytest.raises(UserError, match=r"test_vit has no part 'block\.0'; .* Did you mean 'blocks\.0'\?"):
        freeze(network_of("timm/test_vit", stride=16), ["block.0"])


def test_batch_norm_that_is_not_there_cannot_be_frozen() -> None:
    with pytest.raises(UserError, match=r"model.freeze_bn: timm/test_vit has no batch norm; leave it out\."):
        freeze(network_of("timm/test_vit", stride=16), [], freeze_bn=True)
