"""Whether a worker was lost, with its process or its node, or failed by itself."""

import time
from collections.abc import Collection, Sequence

import ray
import torch.distributed as dist

from plca_dist.ray_cluster.internals.core import actor_died
from plca_dist.ray_cluster.internals.train import LOST_WORKER
from plca_dist.ray_cluster.mailbox import WorkerPlace

#: The cluster knows a dead node after missing its signs of life for about 15 s.
_KNOWN_AFTER_S = 20.0
_POLL_S = 0.5


def was_lost(causes: Sequence[BaseException], places: Collection[WorkerPlace]) -> bool:
    """Whether an attempt ended because a process or a node went away.

    The other workers meet a broken connection, often before the cluster knows of the loss. So the cluster is asked
    again until it knows, for `_KNOWN_AFTER_S` seconds at most.

    Args:
        causes: the errors of workers, or Ray's error for a lost one.
        places: where all workers of the attempt were.
    """
    if any(isinstance(cause, LOST_WORKER) for cause in causes):
        return True
    if not any(type(cause) is RuntimeError or isinstance(cause, dist.DistError) for cause in causes):
        return False
    deadline = time.monotonic() + _KNOWN_AFTER_S
    while time.monotonic() < deadline:
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if any(place.node not in alive or actor_died(place.actor) for place in places):
            return True
        time.sleep(_POLL_S)
    return False
