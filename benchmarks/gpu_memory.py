"""What a training step holds on a GPU, counted from shapes: nothing is computed, and no GPU is needed.

    python -m benchmarks.gpu_memory

The association: the largest sum of all tensors' sizes during both levels of a pair with their aggregation, forward and
backward, beyond its inputs and their gradients, as the streaming form does it on an H100 with `products: bf16`. A share
of 0.45 of the starts is consistent, and of the targets used. The network: what autograd keeps of an image of 730 x 730.
Not counted: what cuDNN, cuBLAS and CUDA themselves take, and what the allocator cannot use. A gigabyte stands for them.
"""

import argparse
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from benchmarks.association_measure import LEVELS
from benchmarks.common import save
from benchmarks.launches import PROCESSORS, counted
from plca_dist.method.association import association_loss
from plca_dist.method.settings import AssociationSettings
from plca_dist.models.deeplab import build_network
from plca_dist.ops import blocks, multiply, streaming_cycle
from plca_dist.ops.blocks import gpu_rows
from plca_dist.ops.epilogue import Softmax
from plca_dist.ops.settings import Pairwise
from plca_dist.ops.triton import few_channels

CLASSES, CHANNELS, SHARE = 19, 2048, 0.45
GRIDS = {(365, 365): (46, 46), (512, 512): (64, 64), (730, 730): (92, 92), (1024, 2048): (128, 256)}
#: Parameters of the network with ResNet-101; GB of weights, gradients, momentum, a buffer to reduce them, and of CUDA.
WEIGHTS = 44e6
FIXED_GB = 4 * 4 * WEIGHTS / 1e9 + 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Kernels:
    """The results of the kernels, without contents."""

    @staticmethod
    def softmax_(score: Tensor, contrast: bool, dtype: torch.dtype | None) -> tuple[Any, ...]:
        index, *softmax = torch.empty(len(score), dtype=torch.int64), *(torch.empty(len(score)) for _ in range(3))
        return index, Softmax(*softmax), None if dtype is None else _result(score, dtype)

    @staticmethod
    def settle(*_: Any) -> None:
        """Allocates nothing."""

    @staticmethod
    def column_best_(*_: Any) -> None:
        """Allocates nothing."""

    @staticmethod
    def match_gradient_(score: Tensor, rows: Any, columns: Any, dtype: torch.dtype) -> Tensor:
        return _result(score, dtype)

    @staticmethod
    def attend_gradient_(score: Tensor, dweight: Tensor, softmax: Any, delta: Any, dtype: torch.dtype) -> Any:
        return _result(score, dtype), _result(dweight, dtype)

    @staticmethod
    def attend_gradient_both_(*inputs: Any) -> Any:
        return tuple(_result(block, inputs[-1]) for block in inputs[:3])


class Fused:
    """The same of few channels."""

    @staticmethod
    def best(query: Tensor, key: Tensor, products: str) -> Tensor:
        return torch.empty(len(query), dtype=torch.int64)

    @staticmethod
    def match(query: Tensor, key: Tensor, products: str) -> Any:
        return Kernels.softmax_(query, True, None)[:2]

    @staticmethod
    def match_gradient(query: Tensor, key: Tensor, pull: Any, products: str) -> Any:
        return torch.empty_like(query), torch.empty_like(key)

    @staticmethod
    def attend(query: Tensor, key: Tensor, value: Tensor, contrast: bool, products: str) -> Any:
        return torch.empty(len(query), value.shape[1]), Kernels.softmax_(query, contrast, None)[1]

    @staticmethod
    def attend_gradient(query: Tensor, key: Tensor, value: Tensor, *_: Any, products: str) -> Any:
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def association(grid: tuple[int, int], dtype: torch.dtype) -> float:
    """GB of one pair's association, both levels."""
    with ExitStack() as stack:
        stack.enter_context(counted())
        for owner, name, value in (
            (blocks, "epilogue_of", lambda _: Kernels),
            (few_channels, "fused", Fused),
            (blocks, "gpu_rows", lambda N, M, C, _: gpu_rows(N, M, C, PROCESSORS)),
            (multiply, "_low_mm", lambda a, b, out=None: torch.empty(len(a), b.shape[1]) if out is None else out),
            (multiply, "_low_addmm_", lambda total, a, b: None),
            (streaming_cycle, "_counts", lambda *chosen: tuple(round(SHARE * len(of_N)) for of_N in chosen)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(FakeTensorMode())
        labels = torch.zeros(1, *grid, dtype=torch.int64)
        features, probabilities = (
            [_map(channels, grid, of_dtype) for _ in range(2)]
            for channels, of_dtype in ((CHANNELS, dtype), (CLASSES, torch.float32))
        )
        pairs = dict(zip(LEVELS, (features, probabilities), strict=True))
        tracker = MemTracker()
        tracker.track_external(labels, *features, *probabilities)
        with tracker:
            losses = [
                association_loss(
                    *pairs[level], labels, AssociationSettings(similarity, pairwise=Pairwise("bf16", "streaming"))
                ).loss
                for level, (similarity, _) in LEVELS.items()
            ]
            gradients = torch.autograd.grad(sum(losses), features + probabilities)
        most = max(of_device["Total"] for of_device in tracker.get_tracker_snapshot("peak").values())
        return (most - 2 * sum(x.nbytes for x in gradients)) / 1e9


def network(dtype: torch.dtype, backbone: str = "resnet101", side: int = 730) -> float:
    """kB that autograd keeps of an image's pixel, training weights and their copies aside."""
    with FakeTensorMode():
        module = build_network(backbone, CLASSES).train()
        weights = {x.untyped_storage()._cdata for x in module.parameters()}
        kept: dict[int, tuple[Tensor, int]] = {}

        def keep(x: Tensor) -> Tensor:
            if x.untyped_storage()._cdata not in weights and x.ndim == 4 and len(x) == 1:
                kept[x.untyped_storage()._cdata] = (x, x.untyped_storage().nbytes())
            return x

        image = torch.empty(1, 3, side, side)
        keeping = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
        with keeping, torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            module(image)
        return sum(size for _, size in kept.values()) / side**2 / 1e3


def _map(channels: int, grid: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return torch.empty(1, channels, *grid, dtype=dtype, requires_grad=True).detach().requires_grad_()


def _result(block: Tensor, dtype: torch.dtype) -> Tensor:
    return block if block.dtype == dtype else torch.empty_like(block, dtype=dtype)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    pixel = {name: network(dtype) for name, dtype in DTYPES.items()}
    print("kB a pixel of an image:", {name: round(kb, 2) for name, kb in pixel.items()})
    rows = []
    for crop, grid in GRIDS.items():
        for name, dtype in DTYPES.items():
            of_network, of_pair = 2 * pixel[name] * crop[0] * crop[1] / 1e6, association(grid, dtype)
            fixed = FIXED_GB + (WEIGHTS / 1e9 * 2 if name == "bfloat16" else 0)
            most = [int((0.9 * gb - fixed) // (of_network + of_pair)) for gb in (24, 40, 80)]
            rows.append(
                {
                    "crop": crop, "grid": grid, "precision": name, "network_gb": of_network, "association_gb": of_pair,
                    "rank_gb": fixed + of_network + of_pair, "micro": most,
                }
            )  # fmt: skip
            print(f"{crop} {grid} {name}: network {of_network:.1f}, association {of_pair:.2f}, "
                  f"rank {rows[-1]['rank_gb']:.1f} GB, micro {most}")  # fmt: skip
    print(save("gpu_memory", {"kb_a_pixel": pixel, "rows": rows}))


if __name__ == "__main__":
    main()
