"""Checkpoints on their way to the store while training goes on.

`save` writes a snapshot to the local disk and returns; a thread of each rank uploads its files, and when all ranks have
theirs up, rank 0's thread commits. Threads never meet: ranks learn of each other's uploads at step boundaries, where
they agree on everything else too.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist

from plca_dist.config import Config
from plca_dist.errors import TrainingFault, UserError
from plca_dist.storage import Store
from plca_dist.training.checkpoint.commit import Checkpoint, commit, name_of, prune, revoke, sha256
from plca_dist.training.checkpoint.restore import snapshot
from plca_dist.training.collectives import on_rank_0
from plca_dist.training.metrics import CHECKPOINT
from plca_dist.training.metrics_log import MetricsLog

log = logging.getLogger(__name__)

Files = dict[str, tuple[int, str]]


@dataclass(frozen=True)
class _Flight:
    """The checkpoint under way, since `began`. `work`: this rank's upload; then, with `committing`, rank 0's commit."""

    checkpoint: Checkpoint
    began: float
    work: Future[Files]
    committing: bool = False


class Saver:
    """Saves a run's checkpoints, at most one at a time. Every rank calls each method alike.

    Args:
        fenced: whether another launch has taken the run over; asked on rank 0 just before a commit.
    """

    def __init__(
        self,
        engine: Any,
        config: Config,
        run: Store,
        metrics_log: MetricsLog,
        fenced: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine, self._config, self._run, self._metrics_log, self._fenced = (
            engine,
            config,
            run,
            metrics_log,
            fenced,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._flight: _Flight | None = None
        self._failures, self._problem = 0, ""
        self._abandoned = False

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """An upload is given up; a commit that has begun is seen through. Afterwards nothing here writes any more."""
        self._abandoned = True
        self._thread.shutdown()

    @property
    def busy(self) -> bool:
        """Whether this rank's thread is at work."""
        return self._flight is not None and not self._flight.work.done()

    def save(self, step: int, *, miou: float | None) -> None:
        """Begin to save the engine's state, after the one before has come to its end. A collective call.

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
            name_of(step, world_size),
            step=step,
            world_size=world_size,
            zero_stage=self._config.zero_stage,
            fingerprint=self._config.fingerprint(),
            miou=miou,
            files={},
        )
        try:
            on_rank_0(lambda: revoke(self._run, checkpoint.name))  # of a damaged one that this one replaces
        except UserError as error:
            self._failed(checkpoint, str(error))
            return
        # Every rank saves into a folder of its own, so that ranks on one host do not upload each other's files.
        scratch = Path(tempfile.mkdtemp(prefix="plca-save-"))
        folder = snapshot(self._engine, scratch, checkpoint.name, rank)
        self._flight = _Flight(checkpoint, began, self._thread.submit(self._upload, scratch, folder, checkpoint))

    def score(self, checkpoint: Checkpoint, miou: float | None) -> None:
        """Begin to give a committed checkpoint the mIoU that it was saved without. A collective call, like `save`."""
        self.finish()
        self._declare(replace(checkpoint, miou=miou), time.monotonic())

    def _declare(self, checkpoint: Checkpoint, began: float) -> None:
        self._flight = _Flight(checkpoint, began, self._thread.submit(self._commit, checkpoint), committing=True)

    def advance(self) -> None:
        """Take the checkpoint under way one stage further: uploaded, committed. Waits for the stage's end.

        A collective call; without a checkpoint under way it does nothing. Raises as `save` does.
        """
        if self._flight is None:
            return
        flight, error = self._flight, self._flight.work.exception()
        said = error and (str(error) or repr(error))
        mine = (None if error else flight.work.result(), said, isinstance(error, UserError))
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        self._flight = None
        if error and not isinstance(error, UserError):
            raise error
        problems = [(rank, *outcome[1:]) for rank, outcome in enumerate(everyone) if outcome[1] is not None]
        for rank, problem, of_the_store in problems:
            if not of_the_store:
                raise TrainingFault(f"checkpoint {flight.checkpoint.name} failed on rank {rank}: {problem}")
        if problems:
            self._failed(flight.checkpoint, problems[0][1])
        elif flight.committing:
            self._failures = 0
            seconds = time.monotonic() - flight.began
            self._metrics_log.say("checkpoint", f"checkpoint {flight.checkpoint.name}", **{CHECKPOINT: seconds})
        else:
            files = {file: record for outcome in everyone for file, record in outcome[0].items()}
            self._declare(replace(flight.checkpoint, files=files), flight.began)

    def finish(self, *, needed: bool = False) -> None:
        """Wait until the checkpoint under way is committed or has failed. A collective call.

        Args:
            needed: the run cannot go on without it.

        Raises:
            TrainingFault: as `save` does; or it is needed and has failed.
        """
        while self._flight is not None:
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
        self._metrics_log.say(
            "checkpoint failed",
            f"checkpoint {checkpoint.name} failed, {self._failures} in a row (at most {limit}): {problem}",
        )

    def _upload(self, scratch: Path, folder: Path, checkpoint: Checkpoint) -> Files:
        """This rank's files, in its thread."""
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
            shutil.rmtree(scratch)
        return files

    def _commit(self, checkpoint: Checkpoint) -> Files:
        """Declare it whole, in rank 0's thread; drop older ones beyond `checkpoint.keep` and the best by mIoU."""
        if dist.get_rank() == 0:
            self._metrics_log.flush()  # before the commit: a resume from it must find every record up to it
            if self._fenced():
                raise TrainingFault(
                    f"another launch has taken this run over; checkpoint {checkpoint.name} was not committed. "
                    "Let one launch of a run go on at a time."
                )
            commit(self._run, checkpoint)
            try:
                prune(self._run, self._config.checkpoint.keep)
            except UserError as error:  # the next one does it
                log.warning("older checkpoints could not be removed: %s", error)
        return {}
