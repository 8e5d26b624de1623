"""Whether a worker was lost, with its process or its node, or failed by itself."""

import time
from collections.abc import Collection, Sequence

import ray
import torch.distributed as dist
from ray._private import state

from plca_dist.ray_cluster.mailbox import Place

#: The cluster knows a dead node after missing its signs of life for about 15 s.
_KNOWN_AFTER_S = 20.0
_POLL_S = 0.5
#: `ActorDiedErrorContext.Reason`: WORKER_DIED and NODE_DIED; RAY_KILL is how Ray Train ends the workers that are left.
_DIED = (1, 3)


def was_lost(causes: Sequence[BaseException], places: Collection[Place]) -> bool:
    """Whether what ended an attempt is that a process or a node went away.

    Those that are left meet a broken connection, often before the cluster knows why: it is asked until it does.

    Args:
        causes: what workers raised, or Ray's word for a lost one.
        places: where they all were.
    """
    if any("Actor" in type(cause).__name__ or "HealthCheck" in type(cause).__name__ for cause in causes):
        return True
    if not any(type(cause) is RuntimeError or isinstance(cause, dist.DistError) for cause in causes):
        return False
    deadline = time.monotonic() + _KNOWN_AFTER_S
    while time.monotonic() < deadline:
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if any(place.node not in alive or _died(place.actor) for place in places):
            return True
        time.sleep(_POLL_S)
    return False


def _died(actor: str) -> bool:
    cause = state.state.actor_table(actor)["DeathCause"]
    return cause.HasField("oom_context") or cause.actor_died_error_context.reason in _DIED
