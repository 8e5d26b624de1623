"""What a checkpoint holds, and the way from an engine into one and back.

All that is needed to continue bit for bit: DeepSpeed's own files (weights, buffers, momentum; every rank's part of
them under ZeRO) and one `rank-*.pt` of ours each, with the random state. The learning rate and the order of the data
follow from the step. `commits.py` says which checkpoints count.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.storage import Store
from plca_dist.training.commits import (
    FOLDER,
    Checkpoint,
    commit,
    committed,
    fetch,
    name_of,
    prune,
    revoke,
    sha256,
)

__all__ = ["FOLDER", "Checkpoint", "committed", "restore", "save", "weights_of"]

log = logging.getLogger(__name__)

_MODEL_STATES = "mp_rank_00_model_states.pt"  # DeepSpeed's name, at ZeRO 0-2


def save(engine: Any, config: Config, run: Store, step: int, *, miou: float | None) -> str:
    """Write and commit, then drop older ones beyond `checkpoint.keep` and the best by mIoU. A collective call.

    Args:
        miou: of these weights, where this step was evaluated.

    Returns:
        The checkpoint's name.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    name = name_of(step, world_size)
    place = run.child(f"{FOLDER}/{name}")
    _on_rank_0(lambda: revoke(run, name))  # of a damaged one that this one replaces
    with tempfile.TemporaryDirectory(prefix="plca-save-") as scratch:
        # Every rank saves into a folder of its own, so that ranks on one host do not upload each other's files.
        folder = Path(scratch) / name
        folder.mkdir()
        engine.save_checkpoint(scratch, tag=name, save_latest=False)
        torch.save({"torch_rng": torch.get_rng_state()}, folder / f"rank-{rank:05d}.pt")
        parts = _on_every_rank(lambda: _upload(folder, place))
    checkpoint = Checkpoint(
        name,
        step=step,
        world_size=world_size,
        zero_stage=config.zero_stage,
        fingerprint=config.fingerprint(),
        miou=miou,
        files={file: record for part in parts for file, record in part.items()},
    )

    def declare() -> None:
        commit(run, checkpoint)
        prune(run, config.checkpoint.keep)

    _on_rank_0(declare)
    return name


def _upload(folder: Path, place: Store) -> dict[str, tuple[int, str]]:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        file = path.relative_to(folder).as_posix()
        files[file] = (path.stat().st_size, sha256(path))
        place.upload(path, file)
    return files


def restore(engine: Any, config: Config, run: Store) -> Checkpoint | None:
    """Load the newest checkpoint that counts into the engine; None where there is none. A collective call.

    Raises:
        UserError: the checkpoint is of another recipe, or of a world size that its ZeRO stage cannot leave.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    damaged: set[str] = set()
    while True:
        checkpoint = _on_rank_0(lambda: next((c for c in committed(run) if c.name not in damaged), None))
        if checkpoint is None:
            return None
        _check(checkpoint, config, world_size)
        with tempfile.TemporaryDirectory(prefix="plca-load-") as scratch:
            folder = Path(scratch) / checkpoint.name
            problems = _on_every_rank(lambda c=checkpoint, f=folder: fetch(run, c, f, rank))  # type: ignore[misc]
            if problem := next(filter(None, problems), None):
                if rank == 0:
                    log.warning("passing over checkpoint %s: %s", checkpoint.name, problem)
                damaged.add(checkpoint.name)
                continue
            # Optimizer state under ZeRO lives in per-rank files; without ZeRO rank 0's file serves every rank.
            loaded, _ = engine.load_checkpoint(scratch, tag=checkpoint.name, load_lr_scheduler_states=False)
            assert loaded, f"DeepSpeed found nothing to load in {checkpoint.name}"
            own = folder / f"rank-{rank:05d}.pt"
            if own.exists():  # a rank that did not exist when it was written has its seed
                torch.set_rng_state(torch.load(own, weights_only=True)["torch_rng"])
        return checkpoint


def _check(checkpoint: Checkpoint, config: Config, world_size: int) -> None:
    if checkpoint.fingerprint != config.fingerprint():
        raise UserError(
            f"checkpoint {checkpoint.name} was written by another recipe (fingerprint {checkpoint.fingerprint}, "
            f"this one is {config.fingerprint()}); train under another --name."
        )
    if checkpoint.zero_stage > 0 and checkpoint.world_size != world_size:
        raise UserError(
            f"checkpoint {checkpoint.name} was written by {checkpoint.world_size} workers under ZeRO stage "
            f"{checkpoint.zero_stage}, which splits the optimizer over them; it cannot be loaded by {world_size}. "
            f"Set cluster.workers={checkpoint.world_size} (ZeRO stage 0 loads at any number)."
        )


def weights_of(run: Store, name: str) -> dict[str, Tensor]:
    """The network's whole weights in the checkpoint called `name`, without an engine, at any ZeRO stage.

    Raises UserError where there is no such checkpoint, or it does not count.
    """
    found = {c.name: c for c in committed(run)}
    if name not in found:
        raise UserError(
            f"{run.uri}/{FOLDER}/{name} is no committed checkpoint; committed: {', '.join(found) or 'none'}."
        )
    with tempfile.TemporaryDirectory(prefix="plca-load-") as scratch:
        folder = Path(scratch) / name
        if problem := fetch(run, found[name], folder):
            raise UserError(f"{run.uri}/{FOLDER}/{name} is damaged: {problem}; committed: {', '.join(found)}.")
        if found[name].zero_stage == 3:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
                state = get_fp32_state_dict_from_zero_checkpoint(scratch, tag=name)
        else:
            state = torch.load(folder / _MODEL_STATES, map_location="cpu", weights_only=True)["module"]
    return {key.removeprefix("network."): value for key, value in state.items()}


def _on_every_rank(work: Callable[[], Any]) -> list[Any]:
    """What `work` gives on each rank, by rank, on all of them; a UserError that any rank meets is raised on all.

    An error that one rank keeps to itself would leave the others waiting for it.
    """
    try:
        mine = work()
    except UserError as error:
        mine = error
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    for one in everyone:
        if isinstance(one, UserError):
            raise one
    return everyone


def _on_rank_0(work: Callable[[], Any]) -> Any:
    """What `work` gives on rank 0, which alone does it, on every rank; its UserError is raised on all of them."""
    return _on_every_rank(work if dist.get_rank() == 0 else lambda: None)[0]
