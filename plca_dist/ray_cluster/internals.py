"""Ray's TorchTrainer without the parts that this project has no use for.

Each of them is a process that starts before the workers do or beside them, a second or two apiece on two cores. This
is the one place that reaches into Ray Train's internals. Ray's controller imports it, so it imports next to nothing of
ours.
"""

import os
from typing import Any

import ray
import ray.train.torch
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from plca_dist.ray_cluster import LOCAL_CLUSTER


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
            _AsItIs(self.scaling_config) if _alone() else RoomForMost(self.scaling_config, self._most_workers)
        )
        return super()._initialize_and_run_controller(**parts)

    def _register_sigint_handler(self, controller: Any) -> None:
        """None: Ray's would leave with exit code 0; KeyboardInterrupt reaches whoever called `fit`."""


class _AsItIs(FixedScalingPolicy):
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


def _alone() -> bool:
    """Whether this is the cluster that `connection` starts: this machine, without a dashboard."""
    return LOCAL_CLUSTER in os.environ or not ray._private.worker.get_dashboard_url()
