"""Checkpoints are saved to the store while training goes on.

A checkpoint holds all that a run needs to continue bit for bit: DeepSpeed's files (weights, buffers, momentum; under
ZeRO each rank's part of them), for each rank a file of ours with its random state, and one of what terms keep beside
the network (`companions.py`). The learning rate and the order of the data follow from the step.

`Saver.save` writes a snapshot to the local disk and returns. A thread of each rank uploads the rank's files; when those
of all ranks are in the store, rank 0's thread commits. The threads do not talk to each other: the ranks learn of each
other's uploads at step boundaries, where they agree on everything else too.
"""

import logging
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from plca_dist import scratch
from plca_dist.config import Config
from plca_dist.errors import TrainingFault, UserError, first_line
from plca_dist.storage import Store
from plca_dist.training.checkpoint.commit import Checkpoint, checkpoint_name, commit, rank_file, sha256
from plca_dist.training.checkpoint.internals import write_checkpoint
from plca_dist.training.checkpoint.survey import prune
from plca_dist.training.metrics import CHECKPOINT
from plca_dist.training.metrics_log import MetricsLog

log = logging.getLogger(__name__)

Files = dict[str, tuple[int, str]]


@dataclass(frozen=True)
class _Pending:
    """The checkpoint under way.

    Attributes:
        began: when its save began, on the monotonic clock.
        work: this rank's upload; afterwards, with `committing`, rank 0's commit.
    """

    checkpoint: Checkpoint
    began: float
    work: Future[Files]
    committing: bool = False


def snapshot(engine: Any, place: Path, name: str, rank: int) -> Path:
    """Write this rank's part of the checkpoint called `name` to a local directory. A collective call.

    Returns:
        The folder in `place` that holds the files.

    Raises UserError where the disk does not take it, once the other ranks are through.
    """
    folder = place / name
    errors = write_checkpoint(engine, place, name)
    try:
        torch.save({"torch_rng": torch.get_rng_state()}, folder / rank_file(rank))
        if rank == 0 and engine.module.companions:
            engine.module.companions.save(folder)
    except (OSError, RuntimeError) as error:
        errors.append(error)
    if errors:
        free = shutil.disk_usage(place).free
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"{place} does not take it, where {free >> 20} MiB were free ({first_line(errors[0])}): make room there, "
            "or set TMPDIR to a directory of a larger disk."
        )
    return folder


class Saver:
    """Saves a run's checkpoints, at most one at a time. Every rank calls each method alike.

    Args:
        generation: as in `TrainContext`.

    Attributes:
        committed: the step of the newest checkpoint that was committed here; the same on every rank.
    """

    def __init__(self, engine: Any, config: Config, run: Store, metrics_log: MetricsLog, generation: int) -> None:
        self._engine, self._config, self._run = engine, config, run
        self._metrics_log, self._generation = metrics_log, generation
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: _Pending | None = None
        self._failures, self._problem = 0, ""  # in a row, and the last of them
        self._abandoned = False
        self.committed: int | None = None
        self._open = ExitStack()

    def __enter__(self) -> "Saver":
        # Every rank saves into a folder of its own, so that ranks on one host do not upload each other's files.
        self._scratch = self._open.enter_context(scratch.folder())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give an upload up, and wait for a commit that has begun. Afterwards nothing here writes to the store."""
        self._abandoned = True
        self._thread.shutdown()
        self._open.close()

    @property
    def busy(self) -> bool:
        """Whether this rank's thread is at work."""
        return self._pending is not None and not self._pending.work.done()

    def save(self, step: int, *, miou: float | None) -> None:
        """Begin to save the engine's state, once the checkpoint under way has ended. A collective call.

        Args:
            step: optimizer steps that are done.
            miou: of these weights, where this step was evaluated.

        Raises:
            TrainingFault: more saves in a row have failed than `checkpoint.max_failed_saves`.
        """
        self.finish()
        began = time.monotonic()
        rank, world_size = dist.get_rank(), dist.get_world_size()
        checkpoint = Checkpoint(
            checkpoint_name(step, world_size, self._generation),
            step=step,
            world_size=world_size,
            zero_stage=self._config.zero_stage,
            fingerprint=self._config.fingerprint(),
            miou=miou,
            files={},
        )
        try:
            folder = snapshot(self._engine, self._scratch, checkpoint.name, rank)
            work = self._thread.submit(self._upload, folder, checkpoint)
        except UserError as error:
            work = Future()
            work.set_exception(error)
        self._pending = _Pending(checkpoint, began, work)

    def _begin_commit(self, checkpoint: Checkpoint, began: float) -> None:
        self._pending = _Pending(checkpoint, began, self._thread.submit(self._commit, checkpoint), committing=True)

    def advance(self) -> None:
        """Take the checkpoint under way one stage further, to uploaded or to committed. Waits for the stage to end.

        A collective call; without a checkpoint under way it does nothing. Raises as `save` does.
        """
        if self._pending is None:
            return
        pending, error = self._pending, self._pending.work.exception()
        message = error and (str(error) or repr(error))
        outcome = (None if error else pending.work.result(), message, isinstance(error, UserError))
        outcomes: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(outcomes, outcome)
        self._pending = None
        if error and not isinstance(error, UserError):
            raise error
        problems = [(rank, text, from_store) for rank, (_, text, from_store) in enumerate(outcomes) if text is not None]
        for rank, problem, from_store in problems:
            if not from_store:
                raise TrainingFault(f"checkpoint {pending.checkpoint.name} failed on rank {rank}: {problem}")
        if problems:
            self._failed(pending.checkpoint, problems[0][1])
        elif pending.committing:
            self._failures, self.committed = 0, pending.checkpoint.step
            seconds = time.monotonic() - pending.began
            self._metrics_log.show("checkpoint", f"checkpoint {pending.checkpoint.name}", **{CHECKPOINT: seconds})
        else:
            files = {file: record for uploaded, *_ in outcomes for file, record in uploaded.items()}
            self._begin_commit(replace(pending.checkpoint, files=files), pending.began)

    def finish(self, *, needed: bool = False) -> None:
        """Wait until the checkpoint under way is committed or has failed. A collective call.

        Args:
            needed: the run cannot go on without this checkpoint.

        Raises:
            TrainingFault: as `save` does; or the checkpoint is needed and has failed.
        """
        while self._pending is not None:
            self.advance()
        if needed and self._failures:
            raise TrainingFault(f"the last checkpoint could not be saved: {self._problem}")

    def _failed(self, checkpoint: Checkpoint, problem: str) -> None:
        self._failures += 1
        self._problem = problem
        limit = self._config.checkpoint.max_failed_saves
        if self._failures > limit:
            raise TrainingFault(
                f"{self._failures} checkpoints in a row could not be saved (checkpoint.max_failed_saves = {limit}), "
                f"the last of step {checkpoint.step}: {problem}"
            )
        self._metrics_log.show(
            "checkpoint failed",
            f"checkpoint {checkpoint.name} failed, {self._failures} in a row (at most {limit}): {problem}",
        )

    def _upload(self, folder: Path, checkpoint: Checkpoint) -> Files:
        """Upload this rank's files, in its thread."""
        files = {}
        place = self._run.child(checkpoint.place)
        try:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                if self._abandoned:
                    break
                file = path.relative_to(folder).as_posix()
                files[file] = (path.stat().st_size, sha256(path))
                place.upload(path, file)
        finally:
            shutil.rmtree(folder)
        return files

    def _commit(self, checkpoint: Checkpoint) -> Files:
        """Commit the checkpoint and delete older ones that are not to be kept, in rank 0's thread."""
        if dist.get_rank() == 0:
            self._metrics_log.flush()  # before the commit: a resume from it must find every record up to it
            checkpoint = replace(checkpoint, records=self._metrics_log.count(checkpoint.step))
            commit(self._run, checkpoint)
            try:
                prune(self._run, self._config.checkpoint.keep, checkpoint)
            except UserError as error:  # the next one does it
                log.warning("older checkpoints could not be removed: %s", error)
        return {}
