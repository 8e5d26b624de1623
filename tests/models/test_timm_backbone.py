"""Networks of timm: timm's own features, names, input and weights; and which are refused, in which words."""

import json
import sys
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from plca_dist.errors import UserError
from plca_dist.models import timm_backbone
from plca_dist.models.timm_backbone import build_timm, timm_facts, timm_layers, timm_undecayed
from plca_dist.models.weights import describe, load_into, load_pretrained, load_timm, load_weights, to_bytes
from tests.models.files import TOYTOWN, distinct, network_of, same, saved, snapshot

#: timm's smallest: a plain ViT with patches of 16, a ConvNeXt that rounds sizes down, an EfficientNet with batch norm.
VIT, CONVNEXT, EFFICIENTNET = "timm/test_vit", "timm/test_convnext", "timm/test_efficientnet"
KINDS = [
    (VIT, "deeplab", 16),
    (VIT, "multilevel", 16),
    (CONVNEXT, "deeplab", 8),
    (CONVNEXT, "deeplab", 16),
    (CONVNEXT, "multilevel", 8),
    (EFFICIENTNET, "deeplab", 8),
    (EFFICIENTNET, "multilevel", 8),
]


def image(height: int = 64, width: int = 96, batch: int = 2) -> Tensor:
    return torch.randint(
        0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def whole(name: str, seed: int = 3) -> nn.Module:
    """The network with its classifier, as timm makes it."""
    torch.manual_seed(seed)
    return timm.create_model(name.removeprefix("timm/"))


@pytest.mark.parametrize(("backbone", "head", "stride"), KINDS)
def test_features_lie_on_the_grid_and_every_trained_parameter_has_a_gradient(
    backbone: str, head: str, stride: int
) -> None:
    network = network_of(backbone, head=head, stride=stride)
    features, logits = network(image())
    assert features.shape == (2, network.feature_channels, 64 // stride, 96 // stride)
    assert logits.shape == (2, len(TOYTOWN), 64 // stride, 96 // stride)
    assert torch.equal(network.classify(features), logits)
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name


@pytest.mark.parametrize(("backbone", "head", "stride"), KINDS)
def test_autocast_to_bfloat16_rounds_and_keeps_weights_and_gradients_in_float32(
    backbone: str, head: str, stride: int
) -> None:
    network = network_of(backbone, head=head, stride=stride)
    exact = network(image()).features
    with torch.autocast("cpu", torch.bfloat16):
        features, logits = network(image())
    assert 0 < (features - exact).abs().max() < 0.1 * exact.abs().max()
    logits.float().square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(("backbone", "stride"), [(VIT, 16), (CONVNEXT, 8), (EFFICIENTNET, 8), (EFFICIENTNET, 16)])
def test_names_and_last_features_are_timms(backbone: str, stride: int) -> None:
    theirs = distinct(whole(backbone)).eval()
    network = network_of(backbone, stride=stride).eval()
    own = network.backbone.state_dict()
    network.backbone.load_state_dict({name: theirs.state_dict()[name] for name in own})
    options = {"dynamic_img_size": True} if backbone == VIT else {"output_stride": stride}
    reference = timm.create_model(backbone.removeprefix("timm/"), num_classes=0, **options).eval()
    reference.load_state_dict({**reference.state_dict(), **network.backbone.state_dict()})
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = reference.forward_intermediates(x, norm=True, intermediates_only=True, output_fmt="NCHW")[-1]
        torch.testing.assert_close(network.backbone(x)[-1], expected)


def test_a_vit_interpolates_its_position_embeddings() -> None:
    """On its own size the embeddings are taken as they are; on another, two positions still differ by theirs."""
    network = network_of(VIT, stride=16).eval()
    blank = torch.full((1, 3, 96, 64), 127, dtype=torch.uint8)
    with torch.no_grad():
        features_1C64 = network(blank).features
        network.backbone.pos_embed.zero_()
        same_everywhere = network(blank).features
    assert features_1C64.flatten(2).std(2).max() > 1e-3
    assert same_everywhere.flatten(2).std(2).max() < 1e-4


@pytest.mark.parametrize("backbone", [VIT, CONVNEXT, "timm/resnet18", "timm/vit_tiny_patch16_224.augreg_in21k"])
def test_the_image_is_normalized_as_timm_says(backbone: str) -> None:
    network = network_of(backbone, stride=16).eval()
    config = timm.create_model(backbone.removeprefix("timm/")).pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = image(batch=1)
    with torch.no_grad():
        expected = network.backbone((pixels / 255 - mean) / std)[-1]
        torch.testing.assert_close(network(pixels).features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "head", "multiple", "size", "fitted"),
    [
        (VIT, "deeplab", 16, (97, 129), (96, 128)),
        (VIT, "deeplab", 16, (7, 200), (16, 208)),
        (CONVNEXT, "deeplab", 8, (97, 132), (96, 136)),
        (CONVNEXT, "multilevel", 32, (97, 129), (96, 128)),
        (EFFICIENTNET, "deeplab", 1, (97, 129), (97, 129)),
    ],
)
def test_what_a_patch_does_not_divide_is_resized_and_not_cut_off(
    backbone: str, head: str, multiple: int, size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    network, seen = network_of(backbone, head=head, stride=16 if backbone == VIT else 8).eval(), []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    assert network.multiple == multiple
    grid = network(image(*size)).logits.shape[2:]
    assert seen == [fitted]
    assert tuple(grid) == tuple(-(-side // network.stride) for side in fitted)


def test_a_network_of_dinov2_has_its_patchs_stride() -> None:
    with torch.device("meta"):
        network = network_of("timm/vit_small_patch14_dinov2", stride=14)
        assert network(torch.empty(1, 3, 98, 140)).features.shape == (1, 384, 7, 10)
        assert network_of("timm/vit_small_patch16_dinov3", stride=16).multiple == 16


def test_parameters_that_the_features_do_not_depend_on_are_found() -> None:
    """An optimizer would have a state for the others alone."""

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1, bias=False)

        def forward_intermediates(self, x: Tensor, **options: Any) -> list[Tensor]:
            return [self.used(x)]

    with torch.device("meta"):
        assert timm_backbone._unused(Idle(), (0,), True) == ("idle.weight",)


def test_nothing_is_dropped_at_random() -> None:
    with torch.device("meta"):
        by_timm = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
        module, _ = build_timm("timm/swin_tiny_patch4_window7_224", "multilevel", 8)
    chances = [m.drop_prob for m in by_timm.modules() if type(m).__name__ == "DropPath"]
    assert max(chances) > 0, "timm's own default"
    assert {m.drop_prob for m in module.modules() if type(m).__name__ == "DropPath"} == {0.0}
    assert {m.p for m in module.modules() if isinstance(m, nn.Dropout)} == {0.0}


# Weights


@pytest.mark.parametrize(("backbone", "head", "stride"), KINDS)
def test_own_weight_files_rebuild_the_network(backbone: str, head: str, stride: int) -> None:
    network = distinct(network_of(backbone, head=head, stride=stride))
    data = to_bytes(network, TOYTOWN)
    rebuilt = load_weights(data)
    assert same(rebuilt.state_dict(), network.state_dict())
    assert (rebuilt.backbone_name, rebuilt.head, rebuilt.stride, rebuilt.style) == (
        backbone,
        head,
        stride,
        network.style,
    )
    other = network_of(backbone, seed=5, head=head, stride=stride)
    load_pretrained(other, data, TOYTOWN)
    assert same(other.state_dict(), network.state_dict())


def test_a_weight_file_keeps_the_input_it_was_trained_with() -> None:
    """A later timm, or another tag of the name, may have other constants."""
    network = network_of(VIT, stride=16)
    network.style = network.style.__class__("timm", False, False, (0, 1, 2), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    data = to_bytes(network, TOYTOWN)
    assert load_weights(data).style == network.style
    with pytest.raises(
        UserError, match=r"another network: mean \(1.0, 2.0, 3.0\) in the file, \(127.5, 127.5, 127.5\) here"
    ):
        load_into(network_of(VIT, stride=16), data, TOYTOWN)


@pytest.mark.parametrize(
    "changed",
    [
        {"backbone": "timm/resnet999"}, {"backbone": "timm/hf-hub:x/y"}, {"backbone": "timm/../x"}, {"stride": 8.0},
        {"stride": 3}, {"head": "other"}, {"mean": [1.0, 2.0]}, {"std": [0.0, 1.0, 1.0]}, {"std": [1.0, "x", 1.0]},
        {"mean": []},
    ],
)  # fmt: skip
def test_a_file_that_describes_no_network_is_refused(changed: dict[str, Any]) -> None:
    network = network_of(VIT, stride=16)
    written = {"format": "weights-1", **describe(to_bytes(network, TOYTOWN)).written(), **changed}
    data = safetensors.torch.save(snapshot(network), {"plca_dist": json.dumps(written)})
    with pytest.raises(UserError, match=r"was not written by plca_dist|is unknown to timm"):
        load_weights(data)


@pytest.mark.parametrize("form", ["safetensors", "pth", "state_dict", "model"])
@pytest.mark.parametrize("backbone", [VIT, CONVNEXT, EFFICIENTNET])
def test_files_that_timm_publishes_fill_the_backbone_and_leave_the_head(backbone: str, form: str) -> None:
    state = snapshot(distinct(whole(backbone)))
    data = safetensors.torch.save(state) if form == "safetensors" else saved({form: state} if form != "pth" else state)
    network = network_of(backbone, stride=16)
    head = snapshot(network.classifier)
    load_pretrained(network, data, TOYTOWN)
    own = network.backbone.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own)
    assert same(network.classifier.state_dict(), head)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_an_efficientnet_under_the_names_of_its_pytorch_port_fits(name: str) -> None:
    model = distinct(whole(f"timm/{name}"))
    state = {
        f"{there}.{key}": value.clone()
        for there, module in _named_as_in_the_port(model).items()
        for key, value in module.state_dict().items()
    }
    assert {"_blocks.1._expand_conv.weight", "_blocks.15._bn2.running_mean", "_fc.bias"} < set(state)
    network = network_of(f"timm/{name}", stride=16)
    load_pretrained(network, saved(state), TOYTOWN)
    own, expected = network.backbone.state_dict(), model.state_dict()
    assert len(own) > 250
    assert all(torch.equal(own[key], expected[key]) for key in own)
    del state["_blocks.3._bn1.weight"]
    state["_blocks.99._bn1.weight"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"1 missing: blocks\.2\.0\.bn2\.weight; 1 unexpected: _blocks\.99"):
        load_pretrained(network, saved(state), TOYTOWN)


def _named_as_in_the_port(model: Any) -> dict[str, nn.Module]:
    layers = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"]
    found = {"_conv_stem": model.conv_stem, "_bn0": model.bn1, "_conv_head": model.conv_head, "_bn1": model.bn2}
    found["_fc"] = model.classifier
    for number, block in enumerate(block for stage in model.blocks for block in stage):
        modules = [module for module in block.modules() if list(module.parameters(recurse=False))]
        names = [name for name in layers if "_se_" not in name or hasattr(block.se, "conv_reduce")]
        names = names[len(names) - len(modules) :]  # the first block does not expand
        found |= {f"_blocks.{number}.{name}": module for name, module in zip(names, modules, strict=True)}
    return found


def test_a_file_with_another_classifier_or_none_fits_and_embeddings_of_another_size_are_resized() -> None:
    state = snapshot(distinct(whole(VIT)))
    network = network_of(VIT, stride=16)
    load_pretrained(network, saved({**state, "head.weight": torch.zeros(7, 64), "head.bias": torch.zeros(7)}), TOYTOWN)
    assert torch.equal(network.backbone.cls_token, state["cls_token"])
    state = {k: v + 1 for k, v in state.items() if not k.startswith("head.")}
    load_pretrained(network, saved(state), TOYTOWN)
    assert torch.equal(network.backbone.cls_token, state["cls_token"])
    prefix, grid = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    load_pretrained(network, saved({**state, "pos_embed": torch.cat([prefix, grid[:, :49]], 1)}), TOYTOWN)
    assert network.backbone.pos_embed.shape == state["pos_embed"].shape
    assert not torch.equal(network.backbone.pos_embed, state["pos_embed"])


def test_weights_of_another_network_are_refused_by_the_first_keys_and_change_nothing() -> None:
    network = network_of(VIT, stride=16)
    before = snapshot(network)
    for other in (CONVNEXT, "timm/test_vit2"):
        with pytest.raises(
            UserError, match=rf"f.pth does not fit backbone '{VIT}': \d+ (missing|unexpected): \w+"
        ) as caught:
            load_pretrained(network, saved(snapshot(whole(other))), TOYTOWN, origin="f.pth")
        assert len(str(caught.value)) < 600
    state = snapshot(whole(VIT))
    state["blocks.0.attn.qkv.weight"] = torch.zeros(3, 3)
    with pytest.raises(UserError, match=r"1 of another shape: blocks\.0\.attn\.qkv\.weight 3x3 where 192x64"):
        load_pretrained(network, saved(state), TOYTOWN)
    with pytest.raises(UserError, match="holds no state dict"):
        load_pretrained(network, saved([1, 2]), TOYTOWN)
    with pytest.raises(UserError, match="there are no ImageNet weights for backbone 'tiny'"):
        load_pretrained(network_of("tiny"), saved(state), TOYTOWN)
    assert same(network.state_dict(), before)


def test_the_hub_is_asked_only_when_named_and_an_outage_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    state, asked = snapshot(distinct(whole(EFFICIENTNET))), []

    def fetched(model_id: str, **options: Any) -> dict[str, Tensor]:
        asked.append(model_id)
        return dict(state)

    def out_of_reach(model_id: str, **options: Any) -> dict[str, Tensor]:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fetched)
    network = network_of(EFFICIENTNET)
    assert not asked
    load_timm(network, None)
    assert asked == ["timm/test_efficientnet.r160_in1k"]
    own = network.backbone.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", out_of_reach)
    with pytest.raises(
        UserError, match=r"model.weights = hub: .* of timm/test_efficientnet \(OSError: no route to host\); check"
    ):
        load_timm(network, None)


# Refusals


@pytest.mark.parametrize(
    ("backbone", "head", "stride", "message"),
    [
        ("timm/vit_tiny_patch16_22", "deeplab", 16, r"to timm [\d.]+\. Did you mean 'timm/vit_tiny_patch16_224'\?"),
        ("timm/hf-hub:x/y", "deeplab", 8, "'timm/hf-hub:x/y' is unknown to timm"),
        ("timm/", "deeplab", 8, "'timm/' is unknown to timm"),
        ("timm/resnet18.nothing", "deeplab", 8, "has no weights 'nothing'; its weights are called a1_in1k, a2_in1k"),
        (VIT, "deeplab", 8, r"model.stride = 8: timm/test_vit cannot give features at it; set model.stride=16\.$"),
        (VIT, "multilevel", 8, "its finest have stride 16: set model.stride=16"),
        (
            "timm/mobilenetv3_small_050", "deeplab", 8,
            "set model.stride=32, or model.head=multilevel, which takes any stride from 4",
        ),
        ("timm/beit_base_patch16_224", "deeplab", 16, r"does not take images of 448 x 896 \(Input height"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_in_one_line(backbone: str, head: str, stride: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        timm_facts(backbone, head, stride)


def test_without_timm_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network_of("tiny")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"timm/NAME need timm, which is not installed .*: pip install 'plca-dist\[timm\]'"
    ):
        network_of("timm/test_resnet", stride=8)


# What optimizers ask


def test_depths_of_parameters_are_timms() -> None:
    vit = network_of(VIT, stride=16).backbone
    depths = timm_layers(vit)
    assert depths.keys() == {name for name, _ in vit.named_parameters()}
    assert {depths[n] for n in ("cls_token", "pos_embed", "patch_embed.proj.weight")} == {0}
    assert [depths[f"blocks.{k}.attn.qkv.weight"] for k in (0, 3, 5)] == [1, 4, 6]
    assert depths["norm.weight"] == 6, "of the last block"
    assert timm_undecayed(vit) >= {"pos_embed", "cls_token"}
