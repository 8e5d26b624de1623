"""Load a committed checkpoint into an engine. `save.py` says what a checkpoint holds."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from plca_dist import scratch
from plca_dist.config import Config
from plca_dist.errors import TrainingFault, UserError, counted
from plca_dist.run_files import CHECKPOINTS
from plca_dist.storage import Store
from plca_dist.training.checkpoint.commit import Checkpoint, fetch, rank_file
from plca_dist.training.checkpoint.full_state import read_state
from plca_dist.training.checkpoint.internals import load
from plca_dist.training.checkpoint.reshard import install
from plca_dist.training.checkpoint.survey import Survey, survey
from plca_dist.training.collectives import on_every_rank, on_rank_0

log = logging.getLogger(__name__)


def restore(engine: Any, config: Config, run: Store) -> Checkpoint | None:
    """Load the newest checkpoint that counts into the engine. A collective call.

    The world size and the ZeRO stage may differ from those that it was written with.

    Returns:
        The checkpoint, or None where none was ever committed.

    Raises:
        UserError: the checkpoint is of another recipe; or its world size or stage differs, and DeepSpeed keeps the
            optimizer's state on a disk; or a file of it holds anything else than a run writes.
        TrainingFault: there are checkpoints, and all are damaged.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    damaged: dict[str, str] = {}
    while True:
        found: Survey = on_rank_0(lambda: survey(run))
        damaged = found.damaged | damaged
        checkpoint = next((c for c in found.counting if c.name not in damaged), None)
        if checkpoint is None:
            if damaged:
                raise TrainingFault(_all_damaged(run, damaged))
            return None
        same = (checkpoint.world_size, checkpoint.zero_stage) == (world_size, config.zero_stage)
        # Without ZeRO rank 0's file serves any number of ranks.
        native = same or checkpoint.zero_stage == config.zero_stage == 0
        _check(checkpoint, config, native)
        needed = rank if native else None
        with scratch.folder() as place:
            folder = place / checkpoint.name
            problems = on_every_rank(lambda c=checkpoint, f=folder, r=needed: _fetch(run, c, f, r))  # type: ignore[misc]
            if problem := next(filter(None, problems), None):
                if rank == 0:
                    log.warning("passing over checkpoint %s: %s", checkpoint.name, problem)
                damaged[checkpoint.name] = problem
                continue
            if native:
                loaded, _ = engine.load_checkpoint(str(place), tag=checkpoint.name, load_lr_scheduler_states=False)
                assert loaded, f"DeepSpeed found nothing to load in {checkpoint.name}"
            else:
                install(engine, read_state(folder, checkpoint.zero_stage, engine.module.trained))
            if engine.module.companions:
                engine.module.companions.restore(folder)
            own = folder / rank_file(rank)
            if own.exists():  # a rank that did not exist when the checkpoint was written keeps its seed
                torch.set_rng_state(load(own)["torch_rng"])
        return checkpoint


def _fetch(run: Store, checkpoint: Checkpoint, folder: Path, rank: int | None) -> str | None:
    """`fetch`, and a look into every file, because DeepSpeed executes what a file tells it to. Raises UserError."""
    problem = fetch(run, checkpoint, folder, rank)
    for file in folder.rglob("*.pt") if problem is None else ():
        load(file, mapped=True)
    return problem


def _all_damaged(run: Store, damaged: Mapping[str, str]) -> str:
    problems = "; ".join(f"{name}: {problem}" for name, problem in damaged.items())
    return (
        f"{run.uri} has checkpoints, and none of them can be loaded ({problems}); restore one from a copy, or delete "
        f"{run.uri}/{CHECKPOINTS} to begin again at step 0."
    )


def _check(checkpoint: Checkpoint, config: Config, native: bool) -> None:
    if checkpoint.fingerprint != config.fingerprint():
        raise UserError(
            f"checkpoint {checkpoint.name} was written by another recipe (fingerprint {checkpoint.fingerprint}, "
            f"this one is {config.fingerprint()}); train under another --name."
        )
    offload = (config.deepspeed.get("zero_optimization") or {}).get("offload_optimizer") or {}
    if not native and offload.get("device") == "nvme":
        raise UserError(
            f"checkpoint {checkpoint.name} was written by {counted(checkpoint.world_size, 'workers')} at ZeRO stage "
            f"{checkpoint.zero_stage}; elsewhere it cannot be loaded under deepspeed.zero_optimization."
            "offload_optimizer.device = nvme (DeepSpeed keeps momentum in files of its own there): "
            "set that to cpu or leave it out."
        )
