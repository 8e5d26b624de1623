"""Which checkpoints count: those whose commit, which is written last, agrees with the files beside it.

A checkpoint is a directory `checkpoints/step-00000500-of-2-g3/` in the run: the step, the ranks that wrote it, and the
generation of their lease, so that no attempt writes where another one does. Its `commit.json` holds the step, the
world size, the ZeRO stage, the recipe's fingerprint, and every file's size and hash. Without a commit that matches its
files a checkpoint does not exist: `survey.py` passes over it with a warning that names it.
"""

import hashlib
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plca_dist.parsing import json_as
from plca_dist.polling import tries
from plca_dist.run_files import CHECKPOINTS, COMMIT, json_bytes
from plca_dist.storage import Store
from plca_dist.training.checkpoint.internals import rank_of

log = logging.getLogger(__name__)

#: Checkpoints of earlier versions have no generation.
_NAME = re.compile(r"step-(\d+)-of-(\d+)(?:-g(\d+))?$")
#: Letters, digits and a few signs, in folders or not: nothing that leads out of the checkpoint's directory.
_FILE = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._/-]*")
_RANK_FILE = re.compile(r"rank-(\d+)\.pt$")


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint, as its commit says.

    Attributes:
        files: name -> (bytes, sha256).
        records: how many records of its attempt led to it; None in a commit of an earlier version.
    """

    name: str
    step: int
    world_size: int
    zero_stage: int
    fingerprint: str
    miou: float | None
    files: dict[str, tuple[int, str]]
    records: int | None = None

    @property
    def place(self) -> str:
        """Its directory in the run."""
        return f"{CHECKPOINTS}/{self.name}"

    @property
    def generation(self) -> int:
        """Number of the attempt that wrote it; 0 for a checkpoint of an earlier version."""
        return generation_of(self.name)


def checkpoint_name(step: int, world_size: int, generation: int) -> str:
    """The name of a checkpoint's directory."""
    return f"step-{step:08d}-of-{world_size}" + (f"-g{generation}" if generation else "")


def is_name(name: str) -> bool:
    """Whether a directory is called as a checkpoint is."""
    return bool(_NAME.match(name))


def generation_of(name: str) -> int:
    """The generation in the name of a checkpoint; 0 where there is none."""
    match = _NAME.match(name)
    return int(match[3] or 0) if match else 0


def rank_file(rank: int) -> str:
    """The name of our own file of a rank in a checkpoint; the other files are DeepSpeed's."""
    return f"rank-{rank:05d}.pt"


def commit(run: Store, checkpoint: Checkpoint) -> None:
    """Declare the checkpoint complete. All its files must be in the store."""
    record = {key: value for key, value in asdict(checkpoint).items() if key != "name"}
    run.write(f"{checkpoint.place}/{COMMIT}", json_bytes(record))


def parse_commit(name: str, data: bytes) -> Checkpoint:
    """The checkpoint called `name` whose commit is `data`. Raises Unreadable for what is no commit of it."""
    return json_as(data, lambda record: _checkpoint(name, record), f"its {COMMIT}", "read an older one")


def _checkpoint(name: str, record: Any) -> Checkpoint:
    """Raises one of many exceptions for what is no commit of this name."""
    miou = record["miou"]
    checkpoint = Checkpoint(
        name,
        step=int(record["step"]),
        world_size=int(record["world_size"]),
        zero_stage=int(record["zero_stage"]),
        fingerprint=str(record["fingerprint"]),
        miou=None if miou is None else float(miou),
        files={file: (int(size), str(digest)) for file, (size, digest) in record["files"].items()},
        records=None if record.get("records") is None else int(record["records"]),
    )
    own = checkpoint_name(checkpoint.step, checkpoint.world_size, checkpoint.generation)
    if own != name:
        raise ValueError(f"it is the commit of {own}")
    if not checkpoint.files:
        raise ValueError("it lists no files")
    for file in checkpoint.files:
        if not _FILE.fullmatch(file):
            raise ValueError(f"{file!r} is no file of a checkpoint")
    return checkpoint


def fetch(run: Store, checkpoint: Checkpoint, folder: Path, rank: int | None = None) -> str | None:
    """Download the files that `rank` needs (None: all files) and compare their hashes.

    A file that differs is downloaded again: the bytes may be sound in the store, and lost on their way.

    Returns:
        What is damaged, or None.

    Raises:
        UserError: a file cannot be read. A store out of reach is no reason to go back to an older checkpoint.
    """
    for file, (_, digest) in checkpoint.files.items():
        if rank is not None and rank_that_needs(file) not in (None, rank):
            continue
        for is_last in tries():
            run.download(f"{checkpoint.place}/{file}", folder / file)
            if sha256(folder / file) == digest:
                break
            if is_last:
                return f"{file} differs from the hash in its commit"
            log.warning("%s of checkpoint %s differs from its hash; reading it again", file, checkpoint.name)
    return None


def rank_that_needs(file: str) -> int | None:
    """The one rank that needs this file; None for a file that all ranks need."""
    own = _RANK_FILE.match(file)
    return int(own[1]) if own else rank_of(file)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
