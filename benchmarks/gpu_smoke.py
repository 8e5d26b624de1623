"""The whole way on a GPU: runs of toytown over NCCL, evaluated there and on the CPU. It needs all of `make install`.

    python -m benchmarks.gpu_smoke [--steps 60] [--on-cpu]

On one GPU and, where there are two, on two: `plca train` with bfloat16 autocast and the streaming association, then
`plca evaluate` of the result on the GPU and on the CPU, whose scores must agree. Toytown's grid is so small that
without `backend=streaming` no kernel would run. `--on-cpu` tries this script where there is no GPU, and saves nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import save

#: Points of mIoU between the GPU and the CPU: float32 on both, but convolutions add up in another order.
_AGREEMENT = 0.2


def plca(*arguments: str) -> str:
    command = [sys.executable, "-m", "plca_dist.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"plca {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def scored(folder: Path, run: Path, *more: str) -> list[float]:
    file = folder / f"scores{len(more)}.json"
    plca("evaluate", str(run), "--data", f"{folder}/data/toytown/val", "--json", str(file), *more)
    return [score["miou"] for score in json.loads(file.read_text())["scores"]]


def smoke(folder: Path, gpus: int, steps: int, *, on_cpu: bool) -> dict[str, Any]:
    settings = [
        f"data={folder}/data", f"storage.uri={folder}/runs", f"cluster.gpu={str(not on_cpu).lower()}",
        f"cluster.workers={gpus}",
        "objective.backend=streaming", "objective.products=bf16", "precision=bfloat16", f"schedule.steps={steps}",
        f"checkpoint.every={steps // 4}", "log.every=5", "batch.pairs=4",
    ]  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    began = time.perf_counter()
    plca("train", "toytown", "--name", f"on-{gpus}", *sets)
    seconds = time.perf_counter() - began
    run = folder / "runs" / f"on-{gpus}"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [r for r in records if "pairs_per_second" in r]
    of_gpu, of_cpu = scored(folder, run, *([] if on_cpu else ["--gpu"])), scored(folder, run)
    worst = max(abs(a - b) for a, b in zip(of_gpu, of_cpu, strict=True))
    if worst > _AGREEMENT:
        raise SystemExit(f"the GPU's scores {of_gpu} and the CPU's {of_cpu} differ by {worst:.2f}: nothing is reported")
    return {
        "gpus": gpus,
        "steps": steps,
        "seconds": round(seconds, 1),
        "pairs_per_second": rates[-1]["pairs_per_second"],
        "gpu_memory_gb": max(r.get("gpu_memory_gb", 0.0) for r in rates),
        "miou": of_gpu,
        "gpu_against_cpu": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--on-cpu", action="store_true")
    options = parser.parse_args()
    if not options.on_cpu and not torch.cuda.is_available():
        raise SystemExit("there is no GPU that torch can use here; `plca doctor --gpu` says why")
    with tempfile.TemporaryDirectory(prefix="plca-gpu-") as made:
        folder = Path(made)
        plca("shards", "toytown", "--out", f"{folder}/data/toytown")
        most = 1 if options.on_cpu else min(torch.cuda.device_count(), 2)
        rows = [smoke(folder, gpus + 1, options.steps, on_cpu=options.on_cpu) for gpus in range(most)]
    print(f"{'GPUs':>4s} {'seconds':>8s} {'pairs/s':>8s} {'GB':>6s} {'mIoU':>13s} {'GPU - CPU':>10s}")
    for row in rows:
        miou = " ".join(f"{value:6.2f}" for value in row["miou"])
        print(f"{row['gpus']:4d} {row['seconds']:8.1f} {row['pairs_per_second']:8.1f} {row['gpu_memory_gb']:6.2f} "
              f"{miou} {row['gpu_against_cpu']:10.3f}")  # fmt: skip
    if not options.on_cpu:
        print(save("gpu_smoke", {"rows": rows}))


if __name__ == "__main__":
    main()
