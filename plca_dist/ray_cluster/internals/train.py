"""Ray Train: its TorchTrainer without the parts that this project has no use for, and what its workers raised.

Each of those parts is a process that starts before the workers do or beside them, a second or two apiece on two cores.
Ray's controller imports this file, so it imports next to nothing of this project's.
"""

import os
from collections.abc import Sequence
from typing import Any

import ray
import ray.train.torch
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from plca_dist.ray_cluster import LOCAL_CLUSTER
from plca_dist.ray_cluster.internals import core

#: What Ray Train says of a worker whose process or node is gone.
LOST_WORKER = (ray.exceptions.RayActorError, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)


def require_hooks(base: type, *names: str) -> None:
    """Raises ImportError where Ray no longer has a method that a class here replaces: it would never be called."""
    for name in names:
        if not callable(getattr(base, name, None)):
            raise ImportError(
                f"ray {ray.__version__}: {base.__name__} has no {name}, which this project replaces; install the "
                "version of ray that pyproject.toml names."
            )


require_hooks(
    ray.train.torch.TorchTrainer,
    "_create_default_callbacks",
    "_initialize_and_run_controller",
    "_register_sigint_handler",
)
require_hooks(
    FixedScalingPolicy,
    "after_controller_start",
    "_maybe_send_resource_request",
    "_get_num_workers_for_resource_request",
)


class Trainer(ray.train.torch.TorchTrainer):
    """TorchTrainer, started sooner, and with a Ctrl-C that is Python's own.

    Args:
        most_workers: what an autoscaler is asked for room for, though the attempt may start with fewer.
    """

    def __init__(self, *parts: Any, most_workers: int, **named: Any) -> None:
        super().__init__(*parts, **named)
        self._most_workers = most_workers

    def _create_default_callbacks(self) -> list[Any]:
        unused: tuple[type, ...] = (DatasetsCallback,)  # no Ray Data here
        if _alone():  # without a dashboard it could only wait and warn
            unused = (*unused, PlacementGroupCleanerCallback)
        return [c for c in super()._create_default_callbacks() if not isinstance(c, unused)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        parts["scaling_policy"] = (
            FixedSize(self.scaling_config) if _alone() else RoomForMost(self.scaling_config, self._most_workers)
        )
        return super()._initialize_and_run_controller(**parts)

    def _register_sigint_handler(self, controller: Any) -> None:
        """None: Ray's would leave with exit code 0; KeyboardInterrupt reaches whoever called `fit`."""


class FixedSize(FixedScalingPolicy):
    """For a cluster that cannot grow: so many workers, and no request to an autoscaler for them."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class RoomForMost(FixedScalingPolicy):
    """So many workers, while an autoscaler is asked for the most that the recipe takes: the run follows what comes."""

    def __init__(self, scaling_config: ray.train.ScalingConfig, most: int) -> None:
        super().__init__(scaling_config)
        self._most = most

    def _get_num_workers_for_resource_request(self) -> int:
        return self._most


def worker_errors(error: ray.train.WorkerGroupError) -> Sequence[BaseException]:
    """What each failed worker raised, or Ray's error for a lost one."""
    failures = error.worker_failures.values()
    return [f._base_exc if isinstance(f, UserExceptionWithTraceback) else f for f in failures]


def _alone() -> bool:
    """Whether this is the cluster that `connect.connection` starts: this machine, without a dashboard."""
    return LOCAL_CLUSTER in os.environ or not core.has_dashboard()
