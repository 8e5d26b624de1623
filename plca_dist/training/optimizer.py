"""The recipe's optimizer: which parameters train, in groups of one rate and one decay, and the rate at each step.

SGD is the paper's: one rate for the backbone and one for the head, and everything decays. AdamW (Loshchilov and Hutter
2019, arXiv 1711.05101) is what transformers are trained with. Under it only weights of two dimensions and more decay,
and no embeddings: not the scales and shifts of norms, not biases. Layer-wise decay (Bao et al. 2021, arXiv 2106.08254)
lowers the rate of a pretrained network's early layers: layer l of L has the rate lr · layer_decay^(L + 1 − l), where
the stem is layer 0, and the head, with its own rate, comes after the last.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.models.architecture import TIMM
from plca_dist.models.deeplab import Network
from plca_dist.models.timm_backbone import timm_layers, timm_undecayed

_BACKBONE = "backbone."
#: AdamW's, where the recipe has none.
_BETAS = (0.9, 0.999)


class Group(NamedTuple):
    """Parameters that are trained alike.

    Attributes:
        names: as `Network.named_parameters` has them, in that order.
        lr_multiplier: their rate is this times `poly_lr`.
        weight_decay: L2 penalty under SGD, decoupled under AdamW.
    """

    names: tuple[str, ...]
    lr_multiplier: float
    weight_decay: float


def parameter_groups(network: Network, config: Config) -> list[Group]:
    """The groups of all parameters that train, the backbone's first. Their order is that of the optimizer's state.

    Raises UserError for layer-wise decay in a network whose layers are not known.
    """
    settings = config.optimizer
    adamw = settings.kind == "adamw"
    depths, undecayed = _depths(network, settings.layer_decay), _undecayed(network) if adamw else frozenset()
    last = max(depths.values(), default=0)
    found: dict[tuple[bool, float, float], list[str]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        of_head = not name.startswith(_BACKBONE)
        multiplier = settings.head_lr_multiplier if of_head else 1.0
        if name in depths:
            multiplier = settings.layer_decay ** (last + 1 - depths[name])
        spared = adamw and (parameter.ndim <= 1 or name in undecayed)
        found.setdefault((of_head, multiplier, 0.0 if spared else settings.weight_decay), []).append(name)
    return [Group(tuple(names), multiplier, decay) for (_, multiplier, decay), names in found.items()]


def build_optimizer(network: Network, groups: Sequence[Group], config: Config) -> torch.optim.Optimizer:
    """The optimizer of the recipe for these `parameter_groups` of the network."""
    settings, parameters = config.optimizer, dict(network.named_parameters())

    def of(group: Group) -> list[nn.Parameter]:
        return [parameters[name] for name in group.names]

    if settings.kind == "adamw":
        return torch.optim.AdamW(
            [{"params": of(g), "lr_multiplier": g.lr_multiplier, "weight_decay": g.weight_decay} for g in groups],
            lr=settings.lr,
            betas=settings.betas or _BETAS,
        )
    return torch.optim.SGD(
        [{"params": of(g), "lr_multiplier": g.lr_multiplier} for g in groups],
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def poly_lr(config: Config, step: int) -> float:
    """Learning rate of optimizer step `step` (from 0): lr · (1 − step / poly_steps)^power.

    During warm-up it is multiplied by (step + 1) / warmup, which is 1 in the last step of it.
    """
    lr = config.optimizer.lr * poly(config, step)
    warmup = config.schedule.warmup
    return lr * (step + 1) / warmup if step < warmup else lr


def poly(config: Config, step: int) -> float:
    """The decay at optimizer step `step` (from 0): (1 − step / poly_steps)^power."""
    length = config.schedule.poly_steps or config.schedule.steps
    return (1 - step / length) ** config.schedule.power


def _depths(network: Network, layer_decay: float) -> dict[str, int]:
    """The backbone's parameters -> their layers; empty where all layers have one rate."""
    if layer_decay == 1:
        return {}
    if not network.backbone_name.startswith(TIMM):
        raise UserError(
            f"optimizer.layer_decay = {layer_decay:g} is for {TIMM}NAME, whose layers timm counts; backbone "
            f"{network.backbone_name!r} takes 1."
        )
    return {f"{_BACKBONE}{name}": depth for name, depth in timm_layers(network.backbone).items()}


def _undecayed(network: Network) -> frozenset[str]:
    if not network.backbone_name.startswith(TIMM):
        return frozenset()
    return frozenset(f"{_BACKBONE}{name}" for name in timm_undecayed(network.backbone))
