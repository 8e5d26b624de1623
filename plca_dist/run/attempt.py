"""One attempt at a run: Ray Train places a worker a rank, and each trains until the end or an error."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import ray.train
import ray.train.torch

from plca_dist.errors import LeaseLost, UserError
from plca_dist.ray_cluster.connect import worker_environment
from plca_dist.ray_cluster.internals.train import Trainer, worker_errors
from plca_dist.ray_cluster.mailbox import Left, Mailbox, WorkerPlace, listen
from plca_dist.run.directory import Run
from plca_dist.run.lost_workers import was_lost
from plca_dist.run_files import ATTEMPTS, RAY_STATE, attempt
from plca_dist.training.checkpoint.survey import sweep
from plca_dist.training.watchdog import longest_wait


class WorkersFailed(Exception):
    """Workers ended with an error.

    Attributes:
        causes: what each raised, or Ray's error for a lost process.
        lost: a process or a node went away; the errors of the other workers follow from that.
    """

    def __init__(self, causes: Sequence[BaseException], *, lost: bool) -> None:
        super().__init__(*causes)
        self.causes, self.lost = causes, lost


class ControllerFailed(Exception):
    """Ray Train itself could not go on, for instance for want of resources."""


def fit(run: Run, mailbox: Mailbox, workers: int, generation: int) -> Left | None:
    """Train from the newest checkpoint to the end, once: Ray's own retries are off.

    Args:
        run: claimed.
        workers: their number. Ray waits for room for them; if the recipe would take fewer, for half a minute only.
        generation: of the lease on the run: the attempt's number. Once there is a newer one, the workers write nothing.

    Returns:
        None: the run is finished. Else the workers followed a stop request, and left with a checkpoint.

    Raises:
        UserError: bad input that only a worker could meet, such as a damaged shard.
        WorkersFailed: workers ended with an error.
        ControllerFailed: Ray Train itself could not go on.
    """
    wanted = run.config.cluster
    trainer = Trainer(
        _run_rank,
        most_workers=run.config.world_sizes[-1],
        # Plain data: Ray's controller reads it too, and starts sooner if it need not import a run's classes.
        train_loop_config={
            "name": run.name,
            "config": run.config.model_dump(mode="json"),
            "mailbox": mailbox.actor,
            "attempt": mailbox.begin(),
            "generation": generation,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=wanted.gpu,
            resources_per_worker={"CPU": wanted.cpus_per_worker, **({"GPU": 1} if wanted.gpu else {})},
        ),
        torch_config=ray.train.torch.TorchConfig(timeout_s=int(longest_wait(wanted.step_timeout_s).total_seconds())),
        run_config=ray.train.RunConfig(
            # A name of its own for every attempt: Ray would resume a finished one instead of running it.
            name=time.strftime("%Y%m%d-%H%M%S") + f"-{time.time_ns() % 10**6:06d}",
            storage_path=f"{run.store.root}/{attempt(generation)}/{RAY_STATE}",
            storage_filesystem=run.store.arrow(),
            failure_config=ray.train.FailureConfig(
                max_failures=0, controller_failure_limit=0 if workers > wanted.least_workers else -1
            ),
            worker_runtime_env={"env_vars": worker_environment(wanted.gpu)},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        causes = worker_errors(error)
        for cause in causes:
            if isinstance(cause, UserError):
                raise cause from None
        raise WorkersFailed(causes, lost=was_lost(causes, mailbox.places.values())) from error
    except ray.train.TrainingFailedError as error:
        raise ControllerFailed(str(error)) from error
    finally:
        mailbox.end()
    return mailbox.left


def clear(run: Run, generation: int) -> None:
    """Remove Ray's own files of an attempt from the run's directory; a run continues without them."""
    with contextlib.suppress(UserError, LeaseLost):  # the next attempt removes them; the run's own outcome matters more
        run.store.delete_tree(f"{attempt(generation)}/{RAY_STATE}")


def clear_before(run: Run, generation: int) -> None:
    """Remove what earlier attempts left unfinished: Ray's files, and checkpoints without a commit."""
    places = {entry.name.split("/")[1] for entry in run.store.list(ATTEMPTS) if f"/{RAY_STATE}/" in entry.name}
    for place in places:
        if place.isdigit() and int(place) < generation:
            run.store.delete_tree(f"{ATTEMPTS}/{place}/{RAY_STATE}")
    sweep(run.store, generation)


def _run_rank(settings: dict[str, Any]) -> None:
    """On every worker."""
    # Here, because the driver, which imports this module too, has no use for DeepSpeed.
    from plca_dist.config import Config
    from plca_dist.run.lease import guarded
    from plca_dist.storage import resolve
    from plca_dist.training.context import Preempted, TrainContext
    from plca_dist.training.loop import run_worker

    config, mailbox, number = Config.model_validate(settings["config"]), settings["mailbox"], settings["attempt"]
    rank = ray.train.get_context().get_world_rank()
    here = ray.get_runtime_context()
    mailbox.arrive.remote(number, rank, WorkerPlace(here.get_node_id(), here.get_actor_id()))
    run = resolve(config.location(config.storage.uri)).child(settings["name"])
    context = TrainContext(
        run=guarded(run, settings["generation"]),
        device=ray.train.torch.get_device(),
        report=mailbox.put.remote,
        generation=settings["generation"],
        stop_reason=listen(mailbox),
    )
    try:
        run_worker(config, context)
    except Preempted as left:
        # No error to Ray, which would end the other ranks before they have left too.
        if rank == 0:
            ray.get(mailbox.leave.remote(number, left.step))
