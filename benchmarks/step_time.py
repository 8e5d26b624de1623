"""What the stack costs: a step of `plca train` against a bare torch loop on the same batches and threads.

    python benchmarks/step_time.py [--steps 60] [--repeats 3]

The bare loop is network, objective, SGD and nothing else (with DistributedDataParallel where there are two ranks), on
batches that were decoded and augmented beforehand and wait in memory. The stack streams, decodes and augments as it
goes, through Ray Train and DeepSpeed. Both train the toytown recipe from the same weights; before anything is
reported, their weights after the last step must agree. Ratios of median step times, alternating, median of repeats.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import safetensors.torch
import torch
import torch.distributed as dist
from common import save
from torch.nn.parallel import DistributedDataParallel

from plca_dist import recipe
from plca_dist.config import Config
from plca_dist.data.prepare import prepare_toytown
from plca_dist.run_files import WEIGHTS
from plca_dist.storage import resolve
from plca_dist.training.build import build_objective
from plca_dist.training.dataloading import open_stream
from plca_dist.training.engine import TrainingModule, average_buffers
from plca_dist.training.loop import prepare_torch
from plca_dist.training.metrics import PAIRS_PER_SECOND
from plca_dist.training.metrics_log import read_records
from plca_dist.training.optimizer import poly_lr
from plca_dist.training.trained import fresh_network

#: Records at the start (allocator, caches) that are left out of both sides.
_WARM_RECORDS = 2
_LOG_EVERY = 5


def warm_median(seconds: list[float], cold: int) -> float:
    """The median without the first `cold`; the short runs that compare weights have nothing else, and are not timed."""
    return statistics.median(seconds[cold:] or seconds)


def config_for(folder: Path, workers: int, steps: int) -> Config:
    overrides = [
        f"data={folder}/data", f"storage.uri={folder}/runs", "source.uri=source", "target.uri=target",
        "evaluation.uri=null", f"cluster.workers={workers}", f"schedule.steps={steps}", f"log.every={_LOG_EVERY}",
        "checkpoint.every=1000000",
    ]  # fmt: skip
    return recipe.load("toytown", overrides)


def bare(folder: Path, workers: int, steps: int, rank: int) -> None:
    """One rank of the bare loop; prints its median step time and leaves its weights."""
    config = config_for(folder, workers, steps)
    os.environ["USE_LIBUV"] = "0"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    prepare_torch(config)
    stream = open_stream(config, rank, workers, 0)
    batches = [next(stream) for _ in range(steps)]
    stream.close()
    network = fresh_network(config)
    module = TrainingModule(network, build_objective(config)).train()
    # Batch norm's running statistics are averaged as the stack does; everything else is torch's own.
    wrapped = DistributedDataParallel(module, broadcast_buffers=False) if workers > 1 else module
    settings = config.optimizer
    optimizer = torch.optim.SGD(
        network.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    times = []
    for step, batch in enumerate(batches):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = poly_lr(config, step)
        optimizer.zero_grad(set_to_none=True)
        wrapped(batch).total.backward()
        optimizer.step()
        average_buffers(module)
        times.append(time.perf_counter() - began)
    if rank == 0:
        torch.save(network.state_dict(), folder / "bare.pt")
        print(warm_median(times, _WARM_RECORDS * _LOG_EVERY))
    dist.destroy_process_group()


def run_bare(folder: Path, workers: int, steps: int) -> float:
    (folder / "rendezvous").unlink(missing_ok=True)
    command = [sys.executable, __file__, "--bare", str(folder), str(workers), str(steps)]
    ranks = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for rank in range(workers)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in ranks]
    if any(process.returncode for process in ranks):
        raise SystemExit("the bare loop failed; run it with --bare to see why")
    return float(outputs[0].split()[-1])


def run_stack(folder: Path, workers: int, steps: int, repeat: int) -> tuple[float, dict[str, torch.Tensor]]:
    from plca_dist.run.train import train

    config = config_for(folder, workers, steps)
    run = train(config, f"stack-{workers}-{repeat}", lambda record: None)
    rates = [r[PAIRS_PER_SECOND] for r in read_records(run.store) if PAIRS_PER_SECOND in r]
    seconds = warm_median([config.batch.pairs / rate for rate in rates], _WARM_RECORDS)
    return seconds, safetensors.torch.load(run.store.read(WEIGHTS))


def largest_difference(bare: dict[str, torch.Tensor], stack: dict[str, torch.Tensor]) -> float:
    floats = [name for name in bare if bare[name].is_floating_point()]
    return max(float((bare[n] - stack[n]).abs().max() / bare[n].abs().max().clamp(min=1e-3)) for n in floats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bare", nargs=4, metavar=("FOLDER", "WORKERS", "STEPS", "RANK"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.bare:
        folder, *numbers = parsed.bare
        return bare(Path(folder), *map(int, numbers))
    rows = []
    with tempfile.TemporaryDirectory(prefix="plca-step-time-") as scratch:
        folder = Path(scratch)
        prepare_toytown(resolve(str(folder / "data")), progress=lambda *_: None)
        for workers in (1, 2):
            # Correctness first: after few steps, before rounding has grown along the training trajectory.
            run_bare(folder, workers, 5)
            difference = largest_difference(torch.load(folder / "bare.pt"), run_stack(folder, workers, 5, -1)[1])
            if difference > 1e-4:
                raise SystemExit(f"{workers} workers: the two loops disagree by {difference:.2g} after 5 steps")
            stack, plain = [], []
            for repeat in range(parsed.repeats):
                plain.append(run_bare(folder, workers, parsed.steps))
                stack.append(run_stack(folder, workers, parsed.steps, repeat)[0])
                print(f"{workers} workers: stack {stack[-1]:.4f} s, bare {plain[-1]:.4f} s a step", flush=True)
            ratio = statistics.median(s / p for s, p in zip(stack, plain, strict=True))
            rows.append(
                {
                    "workers": workers,
                    "bare_s": plain,
                    "stack_s": stack,
                    "ratio": ratio,
                    "weights_differ_after_5_steps": difference,
                }
            )
    print("\nworkers  stack / bare   weights differ by")
    for row in rows:
        print(f"{row['workers']:7d}  {row['ratio']:12.3f}   {row['weights_differ_after_5_steps']:.1e}")
    print(save("step_time", {"steps": parsed.steps, "rows": rows}))


if __name__ == "__main__":
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, line_buffering=True)
    main()
