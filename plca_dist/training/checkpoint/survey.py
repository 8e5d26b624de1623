"""Which checkpoints of a run count, and which may be deleted."""

import logging
import math
from collections.abc import Mapping
from typing import NamedTuple

from plca_dist.errors import UserError
from plca_dist.parsing import Unreadable
from plca_dist.polling import tries
from plca_dist.run_files import CHECKPOINTS, COMMIT
from plca_dist.storage import Store
from plca_dist.training.checkpoint.commit import Checkpoint, generation_of, is_name, parse_commit

log = logging.getLogger(__name__)


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


def survey(run: Store, *, thorough: bool = True) -> Survey:
    """Look at every checkpoint of the run.

    A listing is a hint only: what it does not show is asked for by name before a checkpoint is called unfinished or
    damaged. A checkpoint that is deleted at the same time is left out.

    Args:
        thorough: read a commit that makes no sense again before it counts as damaged, and warn of what does not count.
    """
    found = Survey([], {}, [])
    for name, present in _sizes(run).items():
        data = _read_commit(run, name)
        if data is None:
            if COMMIT not in present:
                found.unfinished.append(name)
        else:
            _judge(run, name, data, present, found, thorough)
    if thorough:
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
        if file and is_name(name):
            sizes.setdefault(name, {})[file[0]] = entry.size
    return sizes


def _recency(checkpoint: Checkpoint) -> tuple[int, int, str]:
    return checkpoint.step, checkpoint.generation, checkpoint.name


def _read_commit(run: Store, name: str) -> bytes | None:
    file = f"{CHECKPOINTS}/{name}/{COMMIT}"
    try:
        return run.read(file)
    except UserError:
        if run.exists(file):
            raise
        return None


def _judge(run: Store, name: str, data: bytes, present: Mapping[str, int], found: Survey, thorough: bool) -> None:
    """Put the checkpoint with this commit where it belongs."""
    for is_last in tries():
        try:
            checkpoint = parse_commit(name, data)
            break
        except Unreadable as error:
            if is_last or not thorough:
                found.damaged[name] = str(error).partition("; ")[0]
                return
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


def prune(run: Store, keep: int, newest: Checkpoint) -> None:
    """Keep the newest `keep` checkpoints and the best by mIoU (of equals the newest); delete the others.

    The commit is deleted first, so that a deletion cut short leaves nothing that looks complete. Checkpoints that were
    never committed are deleted too, where their attempt has ended or gone on. Damaged ones stay for a person to see.

    Args:
        newest: the one that was just committed. Nothing that may be newer is deleted.
    """
    found = survey(run, thorough=False)
    counting = [c for c in found.counting if _recency(c) <= _recency(newest)]
    best = max(counting, key=_miou, default=None)
    for checkpoint in counting[keep:]:
        if checkpoint is not best or _miou(checkpoint) == -math.inf:
            run.delete(f"{checkpoint.place}/{COMMIT}")
            run.delete_tree(checkpoint.place)
    for name in found.unfinished:
        if generation_of(name) < newest.generation or name < newest.name:
            run.delete_tree(f"{CHECKPOINTS}/{name}")


def sweep(run: Store, generation: int) -> None:
    """Delete what attempts before `generation` did not commit: a commit that comes too late finds no files.

    Only the attempt of this generation may call it, before it looks for a checkpoint to continue from.
    """
    for name in survey(run, thorough=False).unfinished:
        if generation_of(name) < generation:
            run.delete_tree(f"{CHECKPOINTS}/{name}")


def _miou(checkpoint: Checkpoint) -> float:
    miou = checkpoint.miou
    return -math.inf if miou is None or math.isnan(miou) else miou
