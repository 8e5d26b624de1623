"""The association losses, streaming against dense: time, peak memory, growth with N, and what rounding products does.

    python benchmarks/association.py [--rounds 3] [--only CASE]

A measurement is the forward and backward pass of both levels (features by cosine, 19 classes by KL), each with its
aggregation, for one pair of images. Every case runs in a process of its own, backends taking turns; ratios are medians
over rounds of the ratio within a round, peaks the largest growth over what the inputs take. A case first compares loss
and gradients with the dense form in the same process and reports nothing where they disagree. The dense form is plain
autograd that keeps its softmax maps and shares one matrix of scores between both directions of a cycle.

Pairs are drawn: 19 prototypes in patches, rectified, with noise and a shift between the domains, so that about half of
the cycles are consistent. `cycles` in the JSON gives the shares of consistent starts and of the targets they use: the
more, the more the backward pass of the streaming form has to do.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from typing import Any

import torch
from association_measure import (
    DEVICE,
    LEVELS,
    check,
    draw_pair,
    lower_products,
    product_rate,
    rounded_operands,
    run,
    settled,
)
from common import save
from torch import Tensor

from plca_dist.method.association import association_loss
from plca_dist.method.settings import AssociationSettings
from plca_dist.ops.settings import Pairwise

PAPER, FULL = (92, 92), (128, 256)
DENSE = Pairwise(backend="dense")


def against_dense(
    channels: int, grid: tuple[int, int], levels: list[str], others: list[str], rounds: int
) -> dict[str, Any]:
    """Dense in float32 and streaming with each of `others`, taking turns."""
    maps = draw_pair(channels, *grid)
    times: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    agreement = {}
    for _ in range(rounds):
        dense = run(maps, levels, DENSE)
        times.setdefault("dense", []).append(dense["seconds"])
        peaks["dense"] = max(peaks.get("dense", 0), dense["peak_mb"])
        for products in others:
            found = run(maps, levels, Pairwise(products, "streaming"))
            agreement[products] = check(found, dense, products)
            times.setdefault(products, []).append(found["seconds"])
            peaks[products] = max(peaks.get(products, 0), found["peak_mb"])
            print(f"  {products} {found['seconds']:.2f} s, dense {dense['seconds']:.2f} s", file=sys.stderr, flush=True)
            cycles = found["cycles"]
            del found
        del dense
    return {
        "seconds": {name: statistics.median(of) for name, of in times.items()},
        "peak_mb": peaks,
        "cycles": cycles,
        "difference": agreement,
        "time_ratio": {
            p: statistics.median(a / b for a, b in zip(times[p], times["dense"], strict=True)) for p in others
        },
        "memory_ratio": {p: peaks[p] / peaks["dense"] for p in others},
    }


def alone(channels: int, grid: tuple[int, int], products: str) -> dict[str, Any]:
    """Where the dense form does not fit: streaming only, after a comparison on a sixteenth of the positions."""
    small = draw_pair(channels, grid[0] // 4, grid[1] // 4)
    streaming = Pairwise(products, "streaming")
    check(run(small, list(LEVELS), streaming), run(small, list(LEVELS), DENSE), products)
    found = run(draw_pair(channels, *grid), list(LEVELS), streaming)
    return {name: found[name] for name in ("seconds", "peak_mb", "cycles")}


def growth(backend: str, sides: list[int], channels: int = 64) -> dict[str, Any]:
    """Seconds and peak of side² positions, both levels; the exponent is the slope of log peak over log N."""
    rows = []
    for side in sides:
        found = run(draw_pair(channels, side, side), list(LEVELS), Pairwise(backend=backend))
        rows.append({"positions": side**2, "seconds": found["seconds"], "peak_mb": found["peak_mb"]})
        print(f"  {backend} {side} x {side}: {found['seconds']:.2f} s, {found['peak_mb']:.0f} MB", file=sys.stderr)
    x, y = ([math.log(row[name]) for row in rows] for name in ("positions", "peak_mb"))
    return {"channels": channels, "rows": rows, "exponent": statistics.linear_regression(x, y).slope}


def precision(channels: int, side: int) -> dict[str, Any]:
    """What rounding the operands of products changes, against the dense form in float32, level by level.

    Of bfloat16 at the feature level all that CUDA does is done, exact associations included. The rest is rounded in
    software, also that of the prediction level, whose products are float32 under every setting.
    """
    maps, results = draw_pair(channels, side, side), {}
    cases = {
        "feature": ("feature", 0.5),
        "feature, not aggregated": ("feature", 0.0),
        "prediction": ("prediction", 0.5),
    }
    for case, (level, ratio) in cases.items():
        similarity, kind = LEVELS[level]
        pair = [maps[f"{domain} {kind}"].requires_grad_() for domain in ("source", "target")]

        def outcome(
            pairwise: Pairwise, pair: list[Tensor] = pair, similarity: str = similarity, ratio: float = ratio
        ) -> tuple[Any, ...]:
            settings = AssociationSettings(similarity, aggregation=ratio, pairwise=pairwise)
            found = association_loss(*pair, maps["labels"], settings)
            return found, torch.autograd.grad(found.loss, pair)

        exact = outcome(DENSE)
        results[case] = {}
        for name, bits in (("float32", 23), ("tf32", 10), ("bf16", 7)):
            if name == "bf16" and level == "feature":
                with lower_products(), settled() as again:
                    found = outcome(Pairwise("bf16", "streaming"))
                results[case][name] = difference(found, exact) | again
            else:
                with rounded_operands(bits):
                    results[case][name] = difference(outcome(Pairwise(backend="streaming")), exact)
    return {"channels": channels, "positions": side**2, "levels": results}


def difference(found: tuple[Any, ...], exact: tuple[Any, ...]) -> dict[str, float]:
    (f, gradients), (e, exact_gradients) = found, exact
    both = zip(gradients, exact_gradients, strict=True)
    return {
        "loss": abs(f.loss.item() / e.loss.item() - 1),
        "gradient_rms": max(((f - e).norm() / e.norm()).item() for f, e in both),
        "same_target": (f.target_index == e.target_index).float().mean().item(),
        "same_source": (f.source_index == e.source_index).float().mean().item(),
        "same_consistency": (f.consistent == e.consistent).float().mean().item(),
    }


def gpu(rounds: int) -> dict[str, Any]:
    """The paper's size, and full Cityscapes resolution, on a GPU; the share of its rate at what both forms multiply."""
    both = against_dense(2048, PAPER, list(LEVELS), ["float32", "tf32", "bf16"], rounds)
    features = against_dense(2048, PAPER, ["feature"], ["bf16"], rounds)
    share = features["cycles"]["feature"]
    starts, targets = share["consistent"], share["targets used"]
    # Aggregation: 2 forward, 3.5 backward. Cycles: README.md of ops/.
    products = 2 + 3.5 + 1 + targets + 3 * (starts + (1 - starts) * targets)
    rate = product_rate(torch.bfloat16, PAPER[0], 2048)
    work = products * 2 * (PAPER[0] * PAPER[1]) ** 2 * 2048
    return {
        "both": both,
        "full": alone(2048, FULL, "bf16"),
        "share_of_rate": work / features["seconds"]["bf16"] / rate,
        "products": products,
        "rate": rate,
    }


CASES = {
    "both": lambda rounds: against_dense(2048, PAPER, list(LEVELS), ["float32", "bf16"], rounds),
    "prediction": lambda rounds: against_dense(64, PAPER, ["prediction"], ["float32"], rounds),
    "full": lambda rounds: alone(256, FULL, "float32"),
    "growth": lambda rounds: growth("streaming", [46, 65, 92, 130, 184]),
    "growth_dense": lambda rounds: growth("dense", [46, 65, 92, 130]),
    "precision": lambda rounds: {"few": precision(256, 46), "many": precision(2048, 46)},
    "gpu": gpu,
}


def table(results: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Where, what, what is to be reached and what was measured."""
    rows = []

    def row(case: str, where: str, what: str, reach: str, *path: str) -> None:
        value: Any = results.get(case)
        for key in path:
            value = None if value is None else value[key]
        rows.append((where, what, reach, "not yet run" if value is None else f"{value:.3g}"))

    cpu = "CPU, 92 x 92, 2048 channels"
    row("both", f"{cpu}, float32", "time / dense", "<= 1.0", "time_ratio", "float32")
    row("both", f"{cpu}, bf16 products", "time / dense float32", "<= 0.7", "time_ratio", "bf16")
    row("both", f"{cpu}, float32", "peak memory / dense", "<= 0.25", "memory_ratio", "float32")
    row("both", f"{cpu}, bf16 products", "peak memory / dense", "<= 0.25", "memory_ratio", "bf16")
    row("full", "CPU, 128 x 256, 256 channels", "peak memory, MB", "<= 1000", "peak_mb")
    row("prediction", "CPU, prediction level, 92 x 92", "time / dense", "<= 0.5", "time_ratio", "float32")
    row("prediction", "CPU, prediction level, 92 x 92", "peak memory / dense", "<= 0.25", "memory_ratio", "float32")
    row("growth", "CPU, 46 x 46 to 184 x 184", "exponent of peak in N", "<= 1.1", "exponent")
    one = "one GPU, 92 x 92, 2048 channels"
    row("gpu", f"{one}, bf16 products", "time / dense float32", "<= 0.1", "both", "time_ratio", "bf16")
    row("gpu", f"{one}, TF32 products", "time / dense float32", "<= 0.167", "both", "time_ratio", "tf32")
    row("gpu", "one GPU, 128 x 256, 2048 channels", "peak memory, MB", "<= 8000", "full", "peak_mb")
    row("gpu", f"{one}, bf16 products", "share of the product rate", ">= 0.6", "share_of_rate")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=CASES, help="one case, printed as JSON and not saved")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(CASES[arguments.only](arguments.rounds)))
        return
    results = {}
    for case in CASES:
        if (case == "gpu") == (DEVICE == "cuda"):
            print(f"{case}:", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, "--only", case, "--rounds", str(arguments.rounds)]
            results[case] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    rows = table(results)
    for cells in rows:
        print(" | ".join(f"{cell:{width}}" for cell, width in zip(cells, (46, 26, 9, 12), strict=True)))
    if DEVICE == "cpu":
        print(save("association_precision", results.pop("precision")))
    name = "association" if DEVICE == "cpu" else "association_gpu"
    print(save(name, {"threads": torch.get_num_threads(), "table": rows, **results}))


if __name__ == "__main__":
    main()
