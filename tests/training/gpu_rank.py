"""One rank on the GPU, over NCCL: `python gpu_rank.py SHARDS PLACE`. A run at every ZeRO stage, left and continued."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from plca_dist import recipe
from plca_dist.storage import Store, resolve
from plca_dist.training.context import Preempted, TrainContext
from plca_dist.training.loop import run_worker
from tests.training.conftest import RECIPE

SETTINGS = (
    "deterministic=false", "precision=bfloat16", "evaluation.uri=val", "evaluation.unlabelled=2",
    "objective.backend=streaming", "objective.products=bf16", "batch.micro=2", "checkpoint.keep=9",
)  # fmt: skip


def context(run: Store, generation: int, shown: list[object], reasons: list[str | None]) -> TrainContext:
    coming = iter(reasons)
    return TrainContext(run, torch.device("cuda", 0), shown.append, generation, lambda: next(coming, None))


def main(shards: Path, place: Path) -> None:
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", init_method=f"file://{place}/rendezvous", rank=0, world_size=1)
    for stage in (0, 1, 2, 3):
        config = recipe.parse(RECIPE, [f"data={shards}", *SETTINGS, f"deepspeed.zero_optimization.stage={stage}"])
        run = resolve(str(place / f"zero-{stage}"))
        run.write("recipe.yaml", config.to_yaml().encode())
        shown: list[object] = []
        left = None
        try:
            run_worker(config, context(run, 1, shown, [None, None, None, "SIGTERM"]))
        except Preempted as error:
            left = error.step
        assert left is not None, "it did not leave"
        assert 1 < left < 6
        run_worker(config, context(run, 2, shown, []))
        assert run.exists("model.safetensors")
        assert any(isinstance(e, dict) and e.get("gpu_memory_gb", 0) > 0 for e in shown)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
