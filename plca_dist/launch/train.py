"""A run on a cluster: Ray Train places one worker a rank, and the run continues where its checkpoints end."""

import time
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.launch.board import board
from plca_dist.launch.cluster import WORKER_ENVIRONMENT, connection
from plca_dist.launch.run import Run, open_run
from plca_dist.storage import resolve
from plca_dist.training import checkpoint
from plca_dist.training.session import Record, Session
from plca_dist.training.worker import TrainingFault, run_worker

_RAY_STATE = ".ray"


class TrainingFailed(RuntimeError):
    """The run stopped for a reason that is not the user's input; the message says which and what it left."""


def train(config: Config, name: str, show: Callable[[Record], None]) -> Run:
    """Train the recipe as run `name`, or continue it; returns when the result stands in its directory.

    Args:
        config: the recipe; `storage.uri` says where runs are kept.
        name: of the run. The same name continues it, and a finished one is returned as it is.
        show: gets every record (metrics, or `{"message": …}`) while training goes on.

    Raises:
        UserError: bad input; nothing was started.
        TrainingFailed: a fault in training; names the newest checkpoint.
    """
    run = open_run(config, name)
    if run.finished:
        show({"message": f"run {run.store.uri} is finished; nothing to do"})
        return run
    with connection(run.config.cluster, lambda message: show({"message": message})), board(show) as watcher:
        _persist(run, watcher, show)
    run.store.delete_tree(_RAY_STATE)
    return run


def _persist(run: Run, watcher: Any, show: Callable[[Record], None]) -> None:
    """Fit, and fit again after a failure: from the newest checkpoint, while the budget for errors lasts.

    A lost worker spends none of it as long as the run got further since the last loss. Ray's own retries are off:
    they cannot tell bad input, which no retry mends, from a lost machine.
    """
    failures, reached = 0, _reached(run)
    while True:
        try:
            _fit(run, watcher)
            return
        except ray.train.WorkerGroupError as error:
            causes = [getattr(e, "_base_exc", e) for e in error.worker_failures.values()]
            for cause in causes:
                if isinstance(cause, UserError):
                    raise cause from None
            fault = next((c for c in causes if isinstance(c, TrainingFault)), None)
            if fault:
                raise TrainingFailed(str(fault)) from error
            now = _reached(run)
            if not (all(_lost(c) for c in causes) and now > reached):
                failures += 1
            reached = now
            said = _first_line(causes[0])
            if failures > run.config.cluster.max_failures:
                raise TrainingFailed(
                    f"{said}; gave up after {failures} failures. Newest checkpoint: step {now}; logs: {_logs()}"
                ) from error
            show({"message": f"worker failed ({said}); restarting from step {now}"})
        except ray.train.TrainingFailedError as error:
            raise TrainingFailed(f"{_first_line(error)}; logs: {_logs()}") from error


def _fit(run: Run, watcher: Any) -> None:
    wanted = run.config.cluster
    trainer = _Trainer(
        _run_rank,
        train_loop_config={"run": run, "watcher": watcher},
        scaling_config=ray.train.ScalingConfig(
            num_workers=wanted.workers,
            use_gpu=wanted.gpu,
            resources_per_worker={"CPU": wanted.cpus_per_worker, **({"GPU": 1} if wanted.gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            # A name of its own for every attempt: Ray would resume a finished one instead of running it.
            name=time.strftime("%Y%m%d-%H%M%S") + f"-{time.time_ns() % 10**6:06d}",
            storage_path=f"{run.store.root}/{_RAY_STATE}",
            storage_filesystem=run.store.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=0),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    trainer.fit()


class _Trainer(ray.train.torch.TorchTrainer):
    """TorchTrainer without the placement-group cleaner where no dashboard runs: without one it only waits and warns."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        if ray._private.worker.get_dashboard_url():
            return callbacks
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


def _run_rank(settings: dict[str, Any]) -> None:
    """On every worker."""
    run: Run = settings["run"]
    watcher = settings["watcher"]
    config = run.config
    session = Session(
        run=resolve(config.storage.uri, config.storage.endpoint).child(run.name),
        device=ray.train.torch.get_device(),
        report=watcher.put.remote,
    )
    run_worker(config, session)


def _reached(run: Run) -> int:
    newest = next(iter(checkpoint.committed(run.store)), None)
    return newest.step if newest else 0


def _lost(cause: BaseException) -> bool:
    return "Actor" in type(cause).__name__ or "HealthCheck" in type(cause).__name__


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"


def _logs() -> str:
    return str(ray._private.worker.global_worker.node.get_logs_dir_path())
