"""Which checkpoints count: those whose commit, which is written last, agrees with the files beside it.

A checkpoint is a directory `checkpoints/step-00000500-of-2/` in the run (step, ranks that wrote it). Its `commit.json`
holds the step, the world size, the ZeRO stage, the recipe's fingerprint, and every file's size and hash. Without a
commit that matches its files a checkpoint does not exist: it is passed over with a warning that names it.
"""

import hashlib
import json
import logging
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from plca_dist.run_files import CHECKPOINTS, COMMIT
from plca_dist.storage import Store
from plca_dist.training.checkpoint.internals import rank_of

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d+)-of-(\d+)$")
_RANK_FILE = re.compile(r"rank-(\d+)\.pt$")


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

    @property
    def place(self) -> str:
        """Its directory in the run."""
        return f"{CHECKPOINTS}/{self.name}"


def checkpoint_name(step: int, world_size: int) -> str:
    """The name of a checkpoint's directory."""
    return f"step-{step:08d}-of-{world_size}"


def rank_file(rank: int) -> str:
    """The name of our own file of a rank in a checkpoint; the other files are DeepSpeed's."""
    return f"rank-{rank:05d}.pt"


def commit(run: Store, checkpoint: Checkpoint) -> None:
    """Declare the checkpoint complete. All its files must be in the store."""
    record = {key: value for key, value in asdict(checkpoint).items() if key != "name"}
    run.write(f"{checkpoint.place}/{COMMIT}", json.dumps(record, indent=1).encode())


def revoke(run: Store, name: str) -> None:
    """Take the commit back, so that the checkpoint does not count while its files are deleted or written again."""
    run.delete(f"{CHECKPOINTS}/{name}/{COMMIT}")


def committed(run: Store) -> list[Checkpoint]:
    """Every checkpoint of the run that counts, newest first. A warning names each one that does not.

    Sizes are compared here, hashes when files are fetched.
    """
    found = []
    for name, present in _sizes(run).items():
        checkpoint, problem = _examine(run, name, present)
        if checkpoint is None:
            log.warning("passing over checkpoint %s: %s", name, problem)
        else:
            found.append(checkpoint)
    return sorted(found, key=_recency, reverse=True)


def _sizes(run: Store) -> dict[str, dict[str, int]]:
    """Bytes of every file, by the directory's name, in every directory that is named like a checkpoint."""
    sizes: dict[str, dict[str, int]] = {}
    for entry in run.list(CHECKPOINTS):
        _, name, *file = entry.name.split("/", 2)
        if file and _NAME.match(name):
            sizes.setdefault(name, {})[file[0]] = entry.size
    return sizes


def _recency(checkpoint: Checkpoint) -> tuple[int, str]:
    return checkpoint.step, checkpoint.name


def _examine(run: Store, name: str, present: dict[str, int]) -> tuple[Checkpoint | None, str]:
    if COMMIT not in present:
        return None, "it was never committed"
    try:
        checkpoint = _parse(name, run.read(f"{CHECKPOINTS}/{name}/{COMMIT}"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return None, f"its {COMMIT} is unreadable ({error!r})"
    for file, (size, _) in checkpoint.files.items():
        if present.get(file) != size:
            return None, f"{file} has {present.get(file, 'no')} bytes where the commit says {size}"
    return checkpoint, ""


def _parse(name: str, data: bytes) -> Checkpoint:
    """The checkpoint that a commit describes. Bytes that are no commit of this name raise one of many exceptions."""
    record = json.loads(data)
    miou = record["miou"]
    checkpoint = Checkpoint(
        name,
        step=int(record["step"]),
        world_size=int(record["world_size"]),
        zero_stage=int(record["zero_stage"]),
        fingerprint=str(record["fingerprint"]),
        miou=None if miou is None else float(miou),
        files={file: (int(size), str(digest)) for file, (size, digest) in record["files"].items()},
    )
    if checkpoint_name(checkpoint.step, checkpoint.world_size) != name:
        raise ValueError(f"it is the commit of {checkpoint_name(checkpoint.step, checkpoint.world_size)}")
    if not checkpoint.files:
        raise ValueError("it lists no files")
    return checkpoint


def prune(run: Store, keep: int) -> None:
    """Keep the newest `keep` and the best by mIoU (of equals the newest); delete the others.

    The commit is deleted first, so that a deletion cut short leaves nothing that looks complete. Checkpoints that were
    never committed are deleted too, because nobody else writes here. Damaged ones stay for a person to look at.
    """
    found = []
    for name, present in _sizes(run).items():
        checkpoint, _ = _examine(run, name, present)
        if checkpoint is not None:
            found.append(checkpoint)
        elif COMMIT not in present:
            run.delete_tree(f"{CHECKPOINTS}/{name}")
    found.sort(key=_recency, reverse=True)
    best = max(found, key=_miou, default=None)
    for checkpoint in found[keep:]:
        if checkpoint is not best or _miou(checkpoint) == -math.inf:
            revoke(run, checkpoint.name)
            run.delete_tree(checkpoint.place)


def _miou(checkpoint: Checkpoint) -> float:
    miou = checkpoint.miou
    return -math.inf if miou is None or math.isnan(miou) else miou


def fetch(run: Store, checkpoint: Checkpoint, folder: Path, rank: int | None = None) -> str | None:
    """Download the files that `rank` needs (None: all files) and compare their hashes.

    Returns:
        What is damaged, or None.

    Raises:
        UserError: a file cannot be read. A store out of reach is no reason to go back to an older checkpoint.
    """
    for file, (_, digest) in checkpoint.files.items():
        if rank is not None and rank_that_needs(file) not in (None, rank):
            continue
        run.download(f"{checkpoint.place}/{file}", folder / file)
        if sha256(folder / file) != digest:
            return f"{file} differs from the hash in its commit"
    return None


def rank_that_needs(file: str) -> int | None:
    """The one rank that needs this file; None for a file that all ranks need."""
    own = _RANK_FILE.match(file)
    return int(own[1]) if own else rank_of(file)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
