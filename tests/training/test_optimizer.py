"""Groups of parameters, what decays and at which rate, warm-up, and a step of AdamW against its definition."""

from collections.abc import Callable

import pytest
import torch

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.models.frozen import freeze
from plca_dist.training.build import check_network, empty_network
from plca_dist.training.optimizer import build_optimizer, parameter_groups, poly_lr

MakeConfig = Callable[..., Config]
ADAMW = ("optimizer.kind=adamw", "optimizer.weight_decay=0.05", "optimizer.head_lr_multiplier=10")
VIT = ("model.backbone=timm/test_vit", "model.stride=16")


def test_sgd_has_a_group_for_the_backbone_and_one_for_the_head(make_config: MakeConfig) -> None:
    """Also where both have one rate: checkpoints of before are laid out so."""
    config = make_config("optimizer.weight_decay=0.25")
    network = empty_network(config)
    backbone, head = parameter_groups(network, config)
    assert list(backbone.names) == [f"backbone.{n}" for n, _ in network.backbone.named_parameters()]
    assert list(head.names) == [f"classifier.{n}" for n, _ in network.classifier.named_parameters()]
    assert (backbone[1:], head[1:]) == ((1.0, 0.25), (1.0, 0.25)), "everything decays"


def test_under_adamw_norms_biases_and_embeddings_do_not_decay(make_config: MakeConfig) -> None:
    config = make_config(*ADAMW, *VIT, "model.head=multilevel")
    network = empty_network(config)
    groups = parameter_groups(network, config)
    assert sorted(n for g in groups for n in g.names) == sorted(n for n, _ in network.named_parameters())
    decays = {name: group.weight_decay for group in groups for name in group.names}
    assert {decays[n] for n in decays if n.endswith(("norm1.weight", "bias", "pos_embed", "cls_token"))} == {0.0}
    assert decays["fusion.norm.weight"] == 0.0
    assert {decays[n] for n in decays if n.endswith(("qkv.weight", "proj.weight", "mix.weight"))} == {0.05}
    assert decays["classifier.weight"] == 0.05
    rates = {name: group.lr_multiplier for group in groups for name in group.names}
    assert {rate for name, rate in rates.items() if name.startswith("backbone.")} == {1.0}
    assert {rate for name, rate in rates.items() if not name.startswith("backbone.")} == {10.0}


def test_rates_fall_from_layer_to_layer(make_config: MakeConfig) -> None:
    config = make_config(*ADAMW, *VIT, "optimizer.layer_decay=0.5")
    groups = parameter_groups(empty_network(config), config)
    rates = {name: group.lr_multiplier for group in groups for name in group.names}
    assert rates["backbone.norm.weight"] == rates["backbone.blocks.5.mlp.fc1.weight"] == 0.5
    assert rates["backbone.blocks.0.mlp.fc1.weight"] == 0.5**6
    assert rates["backbone.pos_embed"] == rates["backbone.patch_embed.proj.weight"] == 0.5**7
    assert rates["classifier.convs.0.weight"] == 10
    assert len({(g.lr_multiplier, g.weight_decay) for g in groups}) == len(groups)


def test_what_is_frozen_is_in_no_group(make_config: MakeConfig) -> None:
    config = make_config(*ADAMW, *VIT)
    network = empty_network(config)
    freeze(network, ["all"])
    names = [name for group in parameter_groups(network, config) for name in group.names]
    assert names == [f"classifier.convs.{i}.weight" for i in range(3)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["optimizer.kind=adamw", "optimizer.layer_decay=0.9"],
            r"layer_decay = 0\.9 is for timm/NAME, .* 'tiny'",
        ),
        (["model.frozen=[layer9]"], "model.frozen: tiny has no part 'layer9'"),
        ([*VIT, "model.freeze_bn=true"], "model.freeze_bn: timm/test_vit has no batch norm"),
    ],
)
def test_what_the_network_does_not_have_is_refused(make_config: MakeConfig, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_network(make_config(*settings))


def test_the_rate_rises_linearly_and_then_decays(make_config: MakeConfig) -> None:
    config = make_config("optimizer.lr=0.02", "schedule.steps=100", "schedule.power=1", "schedule.warmup=10")
    assert poly_lr(config, 0) == pytest.approx(0.02 * 1 / 10)
    assert poly_lr(config, 4) == pytest.approx(0.02 * 0.96 * 5 / 10)
    assert [poly_lr(config, step) for step in (9, 10, 60)] == pytest.approx([0.02 * f for f in (0.91, 0.9, 0.4)])


def test_a_step_of_adamw_is_the_papers(make_config: MakeConfig) -> None:
    """Loshchilov and Hutter, Algorithm 2, in the first step: m̂ = g, v̂ = g², and decay apart from both."""
    config = make_config(*ADAMW, "optimizer.lr=0.01", "optimizer.betas=[0.8, 0.9]")
    network = empty_network(config)
    before = {n: p.detach().double().clone() for n, p in network.named_parameters()}
    optimizer = build_optimizer(network, parameter_groups(network, config), config)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * group["lr_multiplier"]
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    for name, p in network.named_parameters():
        rate = 0.01 * (10 if name.startswith("classifier.") else 1)
        decay = 0.05 if p.ndim > 1 else 0.0
        g = p.grad.double()
        expected = before[name] * (1 - rate * decay) - rate * g / (g.abs() + 1e-8)
        torch.testing.assert_close(p.detach().double(), expected, rtol=1e-5, atol=1e-6, msg=name)
