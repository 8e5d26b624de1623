"""Which checkpoints count: those whose commit, which is written last, agrees with the files beside it.

A checkpoint is a directory `checkpoints/step-00000500-of-2-g3/` in the run: the step, the ranks that wrote it, and the
generation of their lease, so that no attempt writes where another one does. Its `commit.json` holds the step, the
world size, the ZeRO stage, the recipe's fingerprint, and every file's size and hash. Without a commit that matches its
files a checkpoint does not exist: it is passed over with a warning that names it.
"""

import hashlib
import logging
import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from plca_dist.errors import UserError
from plca_dist.parsing import Unreadable, json_as
from plca_dist.run_files import CHECKPOINTS, COMMIT, json_bytes
from plca_dist.storage import Store
from plca_dist.training.checkpoint.internals import rank_of

log = logging.getLogger(__name__)

#: Checkpoints of earlier versions have no generation.
_NAME = re.compile(r"step-(\d+)-of-(\d+)(?:-g(\d+))?$")
#: Letters, digits and a few signs, in folders or not: nothing that leads out of the checkpoint's directory.
_FILE = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._/-]*")
_RANK_FILE = re.compile(r"rank-(\d+)\.pt$")
#: Seconds before a file whose bytes cannot be right is read again.
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)


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
        return _generation(self.name)


def checkpoint_name(step: int, world_size: int, generation: int) -> str:
    """The name of a checkpoint's directory."""
    return f"step-{step:08d}-of-{world_size}" + (f"-g{generation}" if generation else "")


def rank_file(rank: int) -> str:
    """The name of our own file of a rank in a checkpoint; the other files are DeepSpeed's."""
    return f"rank-{rank:05d}.pt"


def commit(run: Store, checkpoint: Checkpoint) -> None:
    """Declare the checkpoint complete. All its files must be in the store."""
    record = {key: value for key, value in asdict(checkpoint).items() if key != "name"}
    run.write(f"{checkpoint.place}/{COMMIT}", json_bytes(record))


def committed(run: Store) -> list[Checkpoint]:
    """Every checkpoint of the run that counts, newest first. A warning names each one that does not.

    Sizes are compared here, hashes when files are fetched.
    """
    return survey(run).counting


class Survey(NamedTuple):
    """The checkpoints of a run at one look.

    Attributes:
        counting: those that count, newest first.
        damaged: name -> what is wrong, of those that were committed.
        unfinished: names of those that were never committed.
    """

    counting: list[Checkpoint]
    damaged: dict[str, str]
    unfinished: list[str]


def survey(run: Store, *, warn: bool = True) -> Survey:
    """Look at every checkpoint of the run.

    A listing is a hint only: what it does not show is asked for by name before a checkpoint is called unfinished or
    damaged. A checkpoint that is deleted at the same time is left out.
    """
    found = Survey([], {}, [])
    for name, present in _sizes(run).items():
        data = _read_commit(run, name)
        if data is None:
            if COMMIT not in present:
                found.unfinished.append(name)
        else:
            _judge(run, name, data, present, found)
    if warn:
        for name in found.unfinished:
            log.warning("passing over checkpoint %s: it was never committed", name)
        for name, problem in found.damaged.items():
            log.warning("passing over checkpoint %s: %s", name, problem)
    found.counting.sort(key=_recency, reverse=True)
    return found


def _sizes(run: Store) -> dict[str, dict[str, int]]:
    """Bytes of every file, by the directory's name, in every directory that is named like a checkpoint."""
    sizes: dict[str, dict[str, int]] = {}
    for entry in run.list(CHECKPOINTS):
        _, name, *file = entry.name.split("/", 2)
        if file and _NAME.match(name):
            sizes.setdefault(name, {})[file[0]] = entry.size
    return sizes


def _recency(checkpoint: Checkpoint) -> tuple[int, int, str]:
    return checkpoint.step, checkpoint.generation, checkpoint.name


def _generation(name: str) -> int:
    match = _NAME.match(name)
    return int(match[3] or 0) if match else 0


def _read_commit(run: Store, name: str) -> bytes | None:
    file = f"{CHECKPOINTS}/{name}/{COMMIT}"
    try:
        return run.read(file)
    except UserError:
        if run.exists(file):
            raise
        return None


def _judge(run: Store, name: str, data: bytes, present: Mapping[str, int], found: Survey) -> None:
    """Put the checkpoint with this commit where it belongs. A commit that makes no sense is read again."""
    for pause in (*_PAUSES_S, None):
        try:
            checkpoint = json_as(data, lambda record: _checkpoint(name, record), f"its {COMMIT}", "read an older one")
            break
        except Unreadable as error:
            if pause is None:
                found.damaged[name] = str(error).partition("; ")[0]
                return
        time.sleep(pause)
        data = _read_commit(run, name) or data
    sizes = {file: present.get(file) for file in checkpoint.files}
    for file, (size, _) in checkpoint.files.items():
        if sizes[file] != size:
            sizes[file] = run.size_or_none(f"{checkpoint.place}/{file}")
    if all(size is None for size in sizes.values()):
        # Its attempt was taken for dead, its files were swept, and then it woke up and committed.
        found.unfinished.append(name)
        return
    for file, (size, _) in checkpoint.files.items():
        if sizes[file] != size:
            there = "no" if sizes[file] is None else sizes[file]
            found.damaged[name] = f"{file} has {there} bytes where the commit says {size}"
            return
    found.counting.append(checkpoint)


def _checkpoint(name: str, record: Any) -> Checkpoint:
    """The checkpoint that a commit describes. What is no commit of this name raises one of many exceptions."""
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


def prune(run: Store, keep: int, newest: Checkpoint) -> None:
    """Keep the newest `keep` checkpoints and the best by mIoU (of equals the newest); delete the others.

    The commit is deleted first, so that a deletion cut short leaves nothing that looks complete. Checkpoints that were
    never committed are deleted too, where their attempt has ended or gone on. Damaged ones stay for a person to see.

    Args:
        newest: the one that was just committed. Nothing that may be newer is deleted.
    """
    found = survey(run, warn=False)
    counting = [c for c in found.counting if _recency(c) <= _recency(newest)]
    best = max(counting, key=_miou, default=None)
    for checkpoint in counting[keep:]:
        if checkpoint is not best or _miou(checkpoint) == -math.inf:
            run.delete(f"{checkpoint.place}/{COMMIT}")
            run.delete_tree(checkpoint.place)
    for name in found.unfinished:
        if _generation(name) < newest.generation or name < newest.name:
            run.delete_tree(f"{CHECKPOINTS}/{name}")


def sweep(run: Store, generation: int) -> None:
    """Delete what attempts before `generation` did not commit: a commit that comes too late finds no files.

    Only the attempt of this generation may call it, before it looks for a checkpoint to continue from.
    """
    for name in survey(run, warn=False).unfinished:
        if _generation(name) < generation:
            run.delete_tree(f"{CHECKPOINTS}/{name}")


def _miou(checkpoint: Checkpoint) -> float:
    miou = checkpoint.miou
    return -math.inf if miou is None or math.isnan(miou) else miou


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
        for pause in (*_PAUSES_S, None):
            run.download(f"{checkpoint.place}/{file}", folder / file)
            if sha256(folder / file) == digest:
                break
            if pause is None:
                return f"{file} differs from the hash in its commit"
            log.warning("%s of checkpoint %s differs from its hash; reading it again", file, checkpoint.name)
            time.sleep(pause)
    return None


def rank_that_needs(file: str) -> int | None:
    """The one rank that needs this file; None for a file that all ranks need."""
    own = _RANK_FILE.match(file)
    return int(own[1]) if own else rank_of(file)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
