"""One pair, one forward and backward pass of the association losses: its time, its peak memory, what came out."""

import ctypes
import gc
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from plca_dist.method.association import association_loss
from plca_dist.method.settings import AssociationSettings
from plca_dist.ops import blocks, epilogue, multiply
from plca_dist.ops.settings import Pairwise

CLASSES = 19
#: By what multiplies: the largest difference of a streaming gradient to the dense one, relative in the Euclidean norm,
#: and the largest share of cycles that go another way because their two best scores are that close. A cycle that does
#: so changes the whole gradient of its start: n of N of them change the sum by about sqrt(2 n / N).
AGREEMENT = {"float32": (1e-4, 2e-3), "tf32": (5e-3, 1e-2), "bf16": (4e-2, 1e-1)}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LEVELS = {"feature": ("cosine", "features"), "prediction": ("kl", "probabilities")}

Maps = dict[str, Tensor]


class Peak:
    """`mb`: the most memory held within the block beyond what was held before it; resident memory on the CPU."""

    mb = 0.0

    def __enter__(self) -> "Peak":
        gc.collect()
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 1e6
            return self
        # What earlier passes freed goes back to the system, or this one would seem to need less than it does.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        most = torch.cuda.max_memory_allocated() / 1e6 if DEVICE == "cuda" else _status("VmHWM")
        self.mb = most - self._before


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1e3


def draw_pair(channels: int, height: int, width: int, seed: int = 0) -> Maps:
    """Labels (1, H, W) of the source, and features (1, C, H, W) and probabilities (1, 19, H, W) of both domains."""
    generator = torch.Generator().manual_seed(seed)
    prototype_KC = torch.randn(CLASSES, channels, generator=generator)
    maps: Maps = {}
    for domain, shift in (("source", 0.0), ("target", 0.3)):
        patches = torch.randint(0, CLASSES, (-(-height // 8), -(-width // 8)), generator=generator)
        labels_HW = patches.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width]
        noise = torch.randn(channels, height, width, generator=generator).mul_(0.17 * channels**0.5)
        features = (prototype_KC[labels_HW].permute(2, 0, 1) + noise + shift).relu_()
        logits = torch.einsum("kc,chw->khw", prototype_KC / channels**0.5, features)
        # As sharp as predictions are, but short of equal ones: between those rounding alone would choose.
        logits *= 3 / logits.std()
        maps |= {f"{domain} features": features[None], f"{domain} probabilities": logits.softmax(0)[None]}
        maps.setdefault("labels", labels_HW[None])
    return {name: x.contiguous().to(DEVICE) for name, x in maps.items()}


def run(maps: Maps, levels: list[str], pairwise: Pairwise) -> dict[str, Any]:
    """One forward and backward pass: its seconds, its peak in MB, and what came out."""
    names = [f"{domain} {LEVELS[level][1]}" for level in levels for domain in ("source", "target")]
    leaves = {name: maps[name].detach().requires_grad_() for name in names}
    with Peak() as peak:
        began = time.perf_counter()
        found = []
        for level in levels:
            similarity, kind = LEVELS[level]
            pair = leaves[f"source {kind}"], leaves[f"target {kind}"]
            settings = AssociationSettings(similarity, pairwise=pairwise)
            found.append(association_loss(*pair, maps["labels"], settings))
        total = sum(f.loss for f in found)
        gradients = torch.autograd.grad(total, list(leaves.values()))
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    cycles = {
        level: {
            "consistent": f.consistent.float().mean().item(),
            "targets used": len(f.target_index[f.consistent].unique()) / f.target_index.numel(),
        }
        for level, f in zip(levels, found, strict=True)
    }
    return {"seconds": seconds, "peak_mb": peak.mb, "cycles": cycles, "found": found, "gradients": gradients}


def check(found: dict[str, Any], dense: dict[str, Any], products: str) -> dict[str, float]:
    """How far streaming is from dense; ends the benchmark where that is more than `AGREEMENT` allows."""
    pairs = zip(found["found"], dense["found"], strict=True)
    shares = []
    for f, d in pairs:
        turned_BN = (f.target_index != d.target_index) | (f.source_index != d.source_index)
        shares.append(((turned_BN & d.consistent).sum() / d.consistent.sum()).item())
    turned = max(shares)
    gradients = zip(found["gradients"], dense["gradients"], strict=True)
    worst = max(((f - d).norm() / d.norm()).item() for f, d in gradients)
    most, most_turned = AGREEMENT[products]
    if not worst <= most + 2 * math.sqrt(turned) or turned > most_turned:
        raise SystemExit(
            f"streaming with {products} products differs by {worst:.1e} in a gradient and sends {turned:.1e} of the "
            f"consistent cycles another way: nothing is reported"
        )
    return {"gradient": worst, "turned_cycles": turned}


@contextmanager
def rounded_operands(bits: int) -> Iterator[None]:
    """Operands of every product rounded to `bits` of mantissa, the product itself in float32, as tensor cores do it."""

    def rounded(x: Tensor) -> Tensor:
        if (cut := 23 - bits) == 0:
            return x
        as_int = x.contiguous().view(torch.int32)
        to_even = (1 << (cut - 1)) - 1 + ((as_int >> cut) & 1)
        return ((as_int + to_even) >> cut << cut).view(torch.float32)

    with ExitStack() as stack:
        for owner, name, value in (
            (multiply, "mm", lambda a, b: rounded(a) @ rounded(b)),
            (multiply, "mm_", lambda out, a, b: torch.mm(rounded(a), rounded(b), out=out)),
            (multiply, "add_mm_", lambda total, a, b: total.addmm_(rounded(a), rounded(b))),
            (blocks.Blocks, "_product", lambda self, a, b, name="score": rounded(a) @ rounded(b)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


@contextmanager
def lower_products() -> Iterator[None]:
    """`products="bf16"` on the CPU as it is on CUDA: operands in bfloat16, the product in float32, exact associations.

    Float32 operands stay so, as those of the prediction level do.
    """
    dtype = multiply.operand_dtype

    def operand_dtype(x: Tensor, products: str) -> torch.dtype:
        return torch.bfloat16 if products == "bf16" else dtype(x, products)

    def mm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mm(a.float(), b.float(), out=out)

    with ExitStack() as stack:
        for name, value in (
            ("operand_dtype", operand_dtype),
            ("_low_mm", mm),
            ("_low_addmm_", lambda total, a, b: total.addmm_(a.float(), b.float())),
        ):
            stack.enter_context(mock.patch.object(multiply, name, value))
        yield


@contextmanager
def settled() -> Iterator[dict[str, float]]:
    """How many scores are made again within it, for a row and for a column, and of how many rows more than the best.

    Of a column these are all that are close to the best so far, block after block: more than close to the best of all.
    """
    settle, rows, columns = epilogue.settle, Counter[str](), Counter[str]()
    result: dict[str, float] = {}

    def counting(score_RM: Tensor, slack_R: Tensor, *rest: Any) -> None:
        settle(score_RM, slack_R, *rest)
        again_R = (score_RM >= (rest[-1].score - slack_R)[:, None]).sum(1)
        counts = rows if score_RM.stride(1) == 1 else columns
        counts["lines"] += len(again_R) if rest[-2] == 0 else 0  # columns come again with every block
        counts["open"] += int((again_R > 1).sum())
        counts["scores"] += int(again_R.sum())

    with mock.patch.object(epilogue, "settle", counting):
        yield result
    result |= {
        "rows_settled_again": rows["open"] / rows["lines"],
        "scores_a_row": rows["scores"] / rows["lines"],
        "scores_a_column": columns["scores"] / columns["lines"],
    }


def product_rate(dtype: torch.dtype, grid: int, channels: int) -> float:
    """FLOP/s of the matrix library at the size of a whole map of scores."""
    a, b = (torch.randn(grid**2, channels, device=DEVICE, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(6):
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        a @ b.mT
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * grid**4 * channels / statistics.median(times[1:])
