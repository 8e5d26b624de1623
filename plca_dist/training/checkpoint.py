"""What a checkpoint holds, and which ones count.

A checkpoint is a directory `checkpoints/step-00000500-of-2/` in the run: DeepSpeed's own files from every rank, one
`rank-*.pt` of ours each, and `commit.json`, written last, with the step, the world size, the ZeRO stage, the recipe's
fingerprint, and every file's size and hash. Without a commit that matches its files a checkpoint does not exist: it is
passed over with a warning that names it, and the one before is used.
"""

import hashlib
import json
import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.storage import Store

log = logging.getLogger(__name__)

COMMIT = "commit.json"
FOLDER = "checkpoints"
_MODEL_STATES = "mp_rank_00_model_states.pt"  # DeepSpeed's name, at ZeRO 0-2
_NAME = re.compile(r"step-(\d+)-of-(\d+)$")
_OF_RANK = re.compile(r"_pp_rank_(\d+)_|^rank-(\d+)\.pt$")


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint, as its commit says."""

    name: str
    step: int
    world_size: int
    zero_stage: int
    fingerprint: str
    miou: float | None
    files: dict[str, tuple[int, str]]  # name -> (bytes, sha256)


def committed(run: Store) -> list[Checkpoint]:
    """Every checkpoint of the run that counts, newest first; those that do not are named in a warning."""
    sizes: dict[str, dict[str, int]] = {}
    for entry in run.list(FOLDER):
        _, name, *file = entry.name.split("/", 2)
        if file and _NAME.match(name):
            sizes.setdefault(name, {})[file[0]] = entry.size
    found = []
    for name, present in sizes.items():
        checkpoint, problem = _examine(run, name, present)
        if checkpoint is None:
            log.warning("passing over checkpoint %s: %s", name, problem)
        else:
            found.append(checkpoint)
    return sorted(found, key=lambda c: c.step, reverse=True)


def _examine(run: Store, name: str, present: dict[str, int]) -> tuple[Checkpoint | None, str]:
    if COMMIT not in present:
        return None, "it was never committed"
    try:
        record = json.loads(run.read(f"{FOLDER}/{name}/{COMMIT}"))
        record["files"] = {file: (int(size), str(digest)) for file, (size, digest) in record["files"].items()}
        checkpoint = Checkpoint(name=name, **record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return None, f"its {COMMIT} is unreadable ({error})"
    for file, (size, _) in checkpoint.files.items():
        if present.get(file) != size:
            return None, f"{file} has {present.get(file, 'no')} bytes where the commit says {size}"
    return checkpoint, ""


def save(engine: Any, config: Config, run: Store, step: int, *, miou: float | None) -> str:
    """Write and commit, then drop older ones beyond `checkpoint.keep` and the best by mIoU. A collective call.

    Args:
        miou: of these weights, where this step was evaluated.

    Returns:
        The checkpoint's name.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    name = f"step-{step:08d}-of-{world_size}"
    place = run.child(f"{FOLDER}/{name}")
    with tempfile.TemporaryDirectory(prefix="plca-save-") as scratch:
        # Every rank saves into a folder of its own, so that ranks on one host do not upload each other's files.
        folder = Path(scratch) / name
        folder.mkdir()
        engine.save_checkpoint(scratch, tag=name, save_latest=False)
        torch.save({"torch_rng": torch.get_rng_state()}, folder / f"rank-{rank:05d}.pt")
        files = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            file = path.relative_to(folder).as_posix()
            place.upload(path, file)
            files[file] = (path.stat().st_size, _sha256(path))
    everyone: list[Any] = [None] * world_size
    dist.all_gather_object(everyone, files)
    if rank == 0:
        commit = {
            "step": step,
            "world_size": world_size,
            "zero_stage": config.zero_stage,
            "fingerprint": config.fingerprint(),
            "miou": miou,
            "files": {file: record for part in everyone for file, record in part.items()},
        }
        place.write(COMMIT, json.dumps(commit, indent=1).encode())
        _prune(run, config.checkpoint.keep)
    dist.barrier()
    return name


def _prune(run: Store, keep: int) -> None:
    """Delete older checkpoints: the commit first, so that a deletion cut short leaves nothing that looks whole."""
    newest_first = committed(run)
    scored = [c for c in newest_first if c.miou is not None]
    best = max(scored, key=lambda c: c.miou or 0.0, default=None)
    for checkpoint in newest_first[keep:]:
        if checkpoint is not best:
            run.delete(f"{FOLDER}/{checkpoint.name}/{COMMIT}")
            run.delete_tree(f"{FOLDER}/{checkpoint.name}")


def restore(engine: Any, config: Config, run: Store) -> Checkpoint | None:
    """Load the newest checkpoint that counts into the engine; None where there is none. A collective call.

    Raises:
        UserError: the checkpoint is of another recipe, or of a world size that its ZeRO stage cannot leave.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    rejected: set[str] = set()
    while True:
        choice: list[Any] = [None]
        if rank == 0:
            choice[0] = next((c for c in committed(run) if c.name not in rejected), None)
        dist.broadcast_object_list(choice)
        checkpoint: Checkpoint | None = choice[0]
        if checkpoint is None:
            return None
        _check(checkpoint, config, world_size)
        with tempfile.TemporaryDirectory(prefix="plca-load-") as scratch:
            folder = Path(scratch) / checkpoint.name
            problems: list[Any] = [None] * world_size
            dist.all_gather_object(problems, _fetch(run, checkpoint, folder, rank))
            if bad := next((p for p in problems if p), None):
                if rank == 0:
                    log.warning("passing over checkpoint %s: %s", checkpoint.name, bad)
                rejected.add(checkpoint.name)
                continue
            # Optimizer state under ZeRO lives in per-rank files; without ZeRO rank 0's file serves every rank.
            engine.load_checkpoint(scratch, tag=checkpoint.name, load_lr_scheduler_states=False)
            own = folder / f"rank-{rank:05d}.pt"
            if own.exists():
                torch.set_rng_state(torch.load(own, weights_only=True)["torch_rng"])
        return checkpoint


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
        if problem := _fetch(run, found[name], folder, rank=None):
            raise UserError(f"{run.uri}/{FOLDER}/{name}: {problem}.")
        if found[name].zero_stage == 3:
            state = get_fp32_state_dict_from_zero_checkpoint(scratch, tag=name)
        else:
            state = torch.load(folder / _MODEL_STATES, map_location="cpu", weights_only=False)["module"]
    return {key.removeprefix("network."): value for key, value in state.items()}


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


def _fetch(run: Store, checkpoint: Checkpoint, folder: Path, rank: int | None) -> str | None:
    """Download what this rank needs (None: everything) and compare hashes; returns what is wrong, or None."""
    for file, (_, digest) in checkpoint.files.items():
        owner = _OF_RANK.search(file)
        if owner and rank is not None and int(owner[1] or owner[2]) != rank:
            continue
        try:
            run.download(f"{FOLDER}/{checkpoint.name}/{file}", folder / file)
        except UserError as error:
            return str(error)
        if _sha256(folder / file) != digest:
            return f"{file} differs from the hash in its commit"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
