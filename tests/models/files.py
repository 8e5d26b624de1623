"""What the tests of weight files share: files, networks with nothing of their initialization left, comparisons."""

import io

import torch
from torch import Tensor, nn

from plca_dist.data.labels import LABEL_SETS
from plca_dist.models.deeplab import Network, build_network

TOYTOWN = LABEL_SETS["toytown"].classes


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def network_of(backbone: str, classes: tuple[str, ...] = TOYTOWN, seed: int = 0, **options: object) -> Network:
    torch.manual_seed(seed)
    return build_network(backbone, len(classes), **options)


def distinct(module: nn.Module) -> nn.Module:
    """Every entry random, BN statistics and counters included."""
    with torch.no_grad():
        for value in module.state_dict().values():
            value.copy_(torch.rand(value.shape) + 0.5 if value.is_floating_point() else torch.randint(1, 9, ()))
    return module
