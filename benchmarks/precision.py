"""What each choice of the recipes for GPUs changes in the numbers, at small size, on the CPU.

    python -m benchmarks.precision [--steps 100]

The toytown recipe on one process, from fresh weights and after some steps in float32: the loss and the gradient of one
batch under each choice, against float32 with images as they are. On the CPU bfloat16 autocast is torch's own;
`products: bf16` is done as CUDA does it; TF32 is put in place by rounding what convolutions and matrix products take to
10 bits of mantissa, forward and backward. Differences are relative: of the loss; of the gradient of all weights, as the
root mean square of the difference over that of the gradient; and the share of source positions with the same j*.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.association_measure import LEVELS, lower_products
from benchmarks.common import save
from plca_dist import recipe
from plca_dist.data.prepare import prepare_toytown
from plca_dist.data.stream import Batch
from plca_dist.method import objective
from plca_dist.method.association import Association, association_loss
from plca_dist.method.objective import Objective
from plca_dist.storage import resolve
from plca_dist.training.build import build_objective
from plca_dist.training.dataloading import open_stream
from plca_dist.training.engine import TrainingModule
from plca_dist.training.trained import fresh_network

#: How many of their first arguments are operands.
_OPERANDS = {"convolution": 2, "convolution_backward": 3, "mm": 2, "bmm": 2}


class TF32(TorchDispatchMode):
    """Rounds float32 operands of convolutions and matrix products to the nearest of 10 bits of mantissa."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        number = _OPERANDS.get(str(operation).split(".")[1], 0)
        return operation(*(_tf32(x) for x in args[:number]), *args[number:], **(kwargs or {}))


def _tf32(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        return x
    bits = x.view(torch.int32)
    return (((bits + 0xFFF + ((bits >> 13) & 1)) >> 13) << 13).view(torch.float32)


class Choice:
    """One way to compute a step: what is entered around it, the association's products, and the layout of images."""

    def __init__(
        self,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        products: str = "float32",
        channels_last: bool = False,
    ) -> None:
        self.around, self.products, self.channels_last = around, products, channels_last


def bfloat16() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


CHOICES = {
    "float32": Choice(),
    "channels last": Choice(channels_last=True),
    "precision: tf32": Choice(TF32),
    "precision: bfloat16": Choice(bfloat16),
    "products: bf16": Choice(products="bf16"),
    "the GPU recipes: bfloat16, bf16, channels last": Choice(bfloat16, "bf16", True),
}


def outcome(module: TrainingModule, batch: Batch, choice: Choice) -> tuple[float, Tensor, list[Tensor]]:
    """The loss of a batch, the gradient of all weights in one row, and j* of either level."""
    layout = torch.channels_last if choice.channels_last else torch.contiguous_format
    network = copy.deepcopy(module.network).to(memory_format=layout)
    settings = replace(module.objective.settings, backend="streaming", products=choice.products)
    step = TrainingModule(network, Objective(settings))
    images = {name: getattr(batch, name).contiguous(memory_format=layout) for name in ("source_image", "target_image")}
    targets: list[Tensor] = []

    def noted(*arguments: Any) -> Association:
        found = association_loss(*arguments)
        targets.append(found.target_index)
        return found

    with mock.patch.object(objective, "association_loss", noted), lower_products():
        with choice.around():
            total = step(batch._replace(**images)).total
        with choice.around() if choice.around is TF32 else nullcontext():
            gradients = torch.autograd.grad(total, list(network.parameters()))
    return total.item(), torch.cat([g.flatten() for g in gradients]), targets


def compared(module: TrainingModule, batch: Batch) -> dict[str, dict[str, float]]:
    loss, gradient, targets = outcome(module, batch, CHOICES["float32"])
    rows = {}
    for name, choice in CHOICES.items():
        other, other_gradient, other_targets = outcome(module, batch, choice)
        rows[name] = {
            "loss": abs(other / loss - 1),
            "gradient": ((other_gradient - gradient).norm() / gradient.norm()).item(),
            **{
                f"same j*, {level}": (mine == theirs).float().mean().item()
                for level, mine, theirs in zip(LEVELS, other_targets, targets, strict=True)
            },
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory(prefix="plca-precision-") as folder:
        prepare_toytown(resolve(f"{folder}/data/toytown"), progress=lambda *_: None)
        places = [f"data={folder}/data", f"storage.uri={folder}/runs", f"schedule.steps={steps + 2}"]
        config = recipe.load("toytown", [*places, "cluster.workers=1"])
        module = TrainingModule(fresh_network(config), build_objective(config)).train()
        optimizer = torch.optim.SGD(module.parameters(), config.optimizer.lr, momentum=config.optimizer.momentum)
        results = {}
        with closing(open_stream(config, 0, 1, 0)) as stream:
            held = next(stream)  # not trained on
            results["fresh weights"] = compared(module, held)
            for _ in range(steps):
                optimizer.zero_grad()
                module(next(stream)).total.backward()
                optimizer.step()
            results[f"after {steps} steps"] = compared(module, held)
    for when, rows in results.items():
        for name, row in rows.items():
            print(f"{when:16} {name:48}", *(f"{what} {value:.2g}  " for what, value in row.items()))
    print(save("precision", results))


if __name__ == "__main__":
    main()
