"""One attempt at a run: Ray Train places a worker a rank, and each trains until the end or an error."""

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

# Read by ray.train when it is imported, hence before the import below.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")  # the default 2 s delays every start and report
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process more; `preemption` watches

import ray.train
import ray.train.torch

from plca_dist.errors import UserError
from plca_dist.ray_cluster.connect import WORKER_ENVIRONMENT
from plca_dist.ray_cluster.internals import Trainer
from plca_dist.ray_cluster.mailbox import Mailbox, Place, listen
from plca_dist.run.directory import Run
from plca_dist.run.lost import was_lost
from plca_dist.run_files import RAY_STATE


class WorkersFailed(Exception):
    """Workers ended with an error.

    Attributes:
        causes: what each raised, or Ray's word for a lost process.
        lost: a process or a node went away; what the other workers then raised is only the echo of that.
    """

    def __init__(self, causes: Sequence[BaseException], *, lost: bool) -> None:
        super().__init__(*causes)
        self.causes, self.lost = causes, lost


class ControllerFailed(Exception):
    """Ray Train itself could not go on, for instance for want of resources."""


class WorkersLeft(Exception):
    """The workers followed a notice: a checkpoint of `step` is committed, as the driver knew `at` time.monotonic()."""

    def __init__(self, step: int, at: float) -> None:
        super().__init__(step, at)
        self.step, self.at = step, at


def fit(run: Run, board: Mailbox, workers: int, generation: int) -> None:
    """Train from the newest checkpoint to the end, once: Ray's own retries are off.

    Args:
        run: claimed.
        workers: how many; Ray waits for room for them, but where the recipe would take fewer, for half a minute only.
        generation: of the lease on the run; with a newer one the workers commit nothing.

    Raises:
        UserError: bad input that only a worker could meet, such as a damaged shard.
        WorkersLeft, WorkersFailed, ControllerFailed: as they say.
    """
    wanted = run.config.cluster
    board.renew()
    trainer = Trainer(
        _run_rank,
        most_workers=run.config.world_sizes[-1],
        # Plain data: Ray's controller reads it too, and starts sooner when it need not import what a run is made of.
        train_loop_config={
            "name": run.name,
            "config": run.config.model_dump(mode="json"),
            "board": board.actor,
            "generation": generation,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=wanted.gpu,
            resources_per_worker={"CPU": wanted.cpus_per_worker, **({"GPU": 1} if wanted.gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            # A name of its own for every attempt: Ray would resume a finished one instead of running it.
            name=time.strftime("%Y%m%d-%H%M%S") + f"-{time.time_ns() % 10**6:06d}",
            storage_path=f"{run.store.root}/{RAY_STATE}",
            storage_filesystem=run.store.filesystem,
            failure_config=ray.train.FailureConfig(
                max_failures=0, controller_failure_limit=0 if workers > wanted.least_workers else -1
            ),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        causes = [getattr(e, "_base_exc", e) for e in error.worker_failures.values()]
        for cause in causes:
            if isinstance(cause, UserError):
                raise cause from None
        raise WorkersFailed(causes, lost=was_lost(causes, board.places.values())) from error
    except ray.train.TrainingFailedError as error:
        raise ControllerFailed(str(error)) from error
    finally:
        board.exchange()
        board.places = {}
    if board.left:
        raise WorkersLeft(*board.left)


def clear(run: Run) -> None:
    """Remove what Ray kept in the run's directory; nothing of it is needed to continue."""
    with contextlib.suppress(UserError):  # whoever removes it next time; the run's own outcome matters more
        run.store.delete_tree(RAY_STATE)


def _run_rank(settings: dict[str, Any]) -> None:
    """On every worker."""
    # Here, because the driver, which imports this module too, has no use for DeepSpeed.
    from plca_dist.config import Config
    from plca_dist.run.lease import fenced
    from plca_dist.storage import resolve
    from plca_dist.training.context import Preempted, TrainContext
    from plca_dist.training.loop import run_worker

    config, board = Config.model_validate(settings["config"]), settings["board"]
    rank = ray.train.get_context().get_world_rank()
    here = ray.get_runtime_context()
    board.arrive.remote(rank, Place(here.get_node_id(), here.get_actor_id()))
    run = resolve(config.storage.uri, config.storage.endpoint).child(settings["name"])
    context = TrainContext(
        run=run,
        device=ray.train.torch.get_device(),
        report=board.put.remote,
        stop_reason=listen(board),
        lease_lost=lambda: fenced(run, settings["generation"]),
    )
    try:
        run_worker(config, context)
    except Preempted as left:
        # No error to Ray, which would end the other ranks before they have left too.
        if rank == 0:
            ray.get(board.leave.remote(left.step))
