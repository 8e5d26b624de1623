"""How many operations the association of a pair gives a GPU, counted on the CPU.

    python -m benchmarks.launches

Both levels with their aggregation at 92 x 92, forward and backward, with `products: bf16` and the block plan of an H100
(132 processors). An operation of torch that computes something counts as one launch, though some are more; a Triton
kernel counts as one; views and memory without contents count as none. To be quick, the maps are small and cut into as
many blocks as the large ones: a count does not depend on how large a block is.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.association_measure import LEVELS, draw_pair, lower_products
from benchmarks.common import save
from plca_dist.method.association import association_loss
from plca_dist.method.settings import AssociationSettings
from plca_dist.ops import autograd, blocks, epilogue, multiply
from plca_dist.ops.epilogue import Pull, Softmax
from plca_dist.ops.settings import Pairwise
from plca_dist.ops.triton import few_channels

PROCESSORS, POSITIONS, CHANNELS = 132, 92 * 92, 2048
#: Operations that compute nothing.
_FREE = {
    "view", "_unsafe_view", "reshape", "alias", "slice", "select", "t", "transpose", "permute", "expand", "unsqueeze",
    "squeeze", "detach", "as_strided", "unbind", "split", "empty", "new_empty", "empty_like", "empty_strided",
    "lift_fresh", "_local_scalar_dense", "promote_types", "scalar_tensor",
}  # fmt: skip
KERNELS = ("softmax_", "column_best_", "settle", "match_gradient_", "attend_gradient_", "attend_gradient_both_")


class Launches(TorchDispatchMode):
    """`counts`: the operations and kernels by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._within = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(operation).split(".")[1]
        if not self._within and name not in _FREE:
            self.counts[name] += 1
        return operation(*args, **(kwargs or {}))

    def kernel(self, name: str, function: Callable[..., Any], launches: int = 1) -> Callable[..., Any]:
        """The function, standing in for so many launches."""

        def standing_in(*args: Any, **kwargs: Any) -> Any:
            self.counts[name] += launches
            self._within += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._within -= 1

        return standing_in


@contextmanager
def counted() -> Iterator[Launches]:
    """Within it the streaming form does on the CPU what it does on a GPU, kernels as torch has them."""
    launches = Launches()
    kernels = SimpleNamespace(**{name: launches.kernel(name, getattr(epilogue, name)) for name in KERNELS})
    fused = SimpleNamespace(
        best=launches.kernel("fused best", lambda q, k, products: (q @ k.mT).max(1).indices),
        match=launches.kernel("fused match", lambda q, k, products: epilogue.softmax_(q @ k.mT, True, None)[:2]),
        match_gradient=launches.kernel("fused match gradient", _match_gradient, 2),
        attend=launches.kernel("fused attend", _attend),
        attend_gradient=launches.kernel("fused attend gradient", _attend_gradient, 2),
    )
    number = -(-POSITIONS // blocks.gpu_rows(POSITIONS, POSITIONS, CHANNELS, PROCESSORS))
    with ExitStack() as stack:
        stack.enter_context(lower_products())
        for owner, name, value in (
            (multiply, "_low_mm", launches.kernel("mm", multiply._low_mm)),
            (multiply, "_low_addmm_", launches.kernel("addmm", multiply._low_addmm_)),
            (blocks, "epilogue_of", lambda _: kernels),
            (blocks, "gpu_rows", lambda N, *_: -(-N // number)),
            (blocks.Blocks, "on_gpu", True),
            (autograd, "_few", lambda like, channels: channels <= autograd.FEW_CHANNELS),
            (few_channels, "fused", fused),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield stack.enter_context(launches)


def association() -> Counter[str]:
    """The counts of both levels of a pair, forward and backward."""
    maps = draw_pair(autograd.FEW_CHANNELS + 2, 20, 20)
    with counted() as launches:
        for similarity, kind in LEVELS.values():
            pair = [maps[f"{domain} {kind}"].requires_grad_() for domain in ("source", "target")]
            settings = AssociationSettings(similarity, pairwise=Pairwise("bf16", "streaming"))
            torch.autograd.grad(association_loss(*pair, maps["labels"], settings).loss, pair)
    return launches.counts


def _match_gradient(query: Tensor, key: Tensor, pull: Pull, products: str) -> tuple[Tensor, Tensor]:
    gradient = epilogue.match_gradient_(query @ key.mT, pull, None, torch.float32)
    return gradient @ key, gradient.mT @ query


def _attend(query: Tensor, key: Tensor, value: Tensor, contrast: bool, products: str) -> tuple[Tensor, Softmax]:
    _, softmax, odds = epilogue.softmax_(query @ key.mT, contrast, torch.float32)
    return odds @ value / odds.sum(1, keepdim=True), softmax


def _attend_gradient(
    query: Tensor, key: Tensor, value: Tensor, daverage: Tensor, delta: Tensor, softmax: Softmax, products: str
) -> tuple[Tensor, Tensor, Tensor]:
    found = epilogue.attend_gradient_(query @ key.mT, daverage @ value.mT, softmax, delta, torch.float32)
    weight, gradient = found
    return gradient @ key, gradient.mT @ query, weight.mT @ daverage


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    counts = association()
    for name, count in counts.most_common():
        print(f"{count:5}  {name}")
    print(f"{counts.total():5}  in all")
    print(save("launches", {"launches": counts.total(), "by operation": dict(counts.most_common())}))


if __name__ == "__main__":
    main()
