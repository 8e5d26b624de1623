"""Ray's core: its tables of nodes, actors and placement groups, and the log files of a session."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import state
from ray._private import worker as ray_worker
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

#: `ActorDiedErrorContext.Reason`: its process or its node died. Ray Train ends the workers that are left by RAY_KILL.
DIED = ("WORKER_DIED", "NODE_DIED")

#: The start of a line that Ray's native code logs: `[2026-01-31 12:00:00,123 W 4711 4711] `.
_NATIVE = re.compile(r"\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] ")

#: A file in a session's directory of logs that somebody was told of.
_KEPT = "kept"


def quieten_driver() -> None:
    """Drop what Ray prints in a driver even without `log_to_driver`: a paragraph for every lost worker."""
    if not isinstance(getattr(ray_worker, "_worker_logs_enabled", None), bool):
        raise RuntimeError(f"ray {ray.__version__} has no ray._private.worker._worker_logs_enabled to switch off")
    ray_worker._worker_logs_enabled = False


def reload_authentication() -> None:
    """Heed RAY_AUTH_MODE and RAY_AUTH_TOKEN as they are now; Ray reads them once for each process."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def native_lines(lines: list[str]) -> Iterator[None]:
    """Collect what Ray's native code writes to standard error inside the block, past Python, instead of showing it."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines():
                if _NATIVE.match(line):
                    lines.append(line)
                else:  # of another thread
                    print(line, file=sys.stderr)


def logs_directory() -> str:
    """The directory of the session's log files on this machine, for a message to name: it outlives the session."""
    logs = str(ray_worker.global_worker.node.get_logs_dir_path())
    keep(Path(logs))
    return logs


def keep(logs: Path) -> bool:
    """Mark a directory of logs, so that it stays when a cluster that `local.local_cluster` started ends."""
    with suppress(OSError):
        (logs / _KEPT).touch()
    return is_kept(logs)


def is_kept(logs: Path) -> bool:
    return (logs / _KEPT).exists()


def has_dashboard() -> bool:
    """Whether the cluster runs a dashboard."""
    return bool(ray_worker.get_dashboard_url())


def draining_nodes() -> set[str]:
    """Ids of the nodes that are about to go."""
    return set(state.state.get_draining_nodes())


def available_resources() -> Mapping[str, Mapping[str, float]]:
    """What is free now: node id -> resource -> amount."""
    return state.state.available_resources_per_node()


def total_resources() -> Mapping[str, Mapping[str, float]]:
    """What there is in all: node id -> resource -> amount."""
    return state.state.total_resources_per_node()


def actor_died(actor: str) -> bool:
    """Whether the actor of this id ended with its process or its node, rather than by an error or on request."""
    cause = state.state.actor_table(actor)["DeathCause"]
    died = cause.actor_died_error_context
    return cause.HasField("oom_context") or type(died).Reason.Name(died.reason) in DIED


def task_error(error: Exception) -> BaseException:
    """What a task raised, where `error` wraps that; else `error` itself, such as Ray's error for a lost worker."""
    return error.cause or error if isinstance(error, ray.exceptions.RayTaskError) else error


def release_abandoned() -> int:
    """Remove the placement groups of this job whose maker is dead; returns how many there were.

    Ray keeps a placement group until the *job* ends that made it, whatever becomes of the actor that did. Ray Train's
    controller makes one for the workers of each attempt; it removes it when it ends, but not when it is killed. In a
    search a job has many controllers, and what one leaves behind would stay reserved until the search ends.
    """
    abandoned = _abandoned(ray.get_runtime_context().get_job_id())
    for group in abandoned:
        remove_placement_group(group)
    return len(abandoned)


def _abandoned(job: str) -> Sequence[PlacementGroup]:
    table: Any = gcs_pb2.PlacementGroupTableData
    groups = map(table.FromString, state.state._connect_and_get_accessor().get_placement_group_table())
    return [
        PlacementGroup(ray.PlacementGroupID(group.placement_group_id))
        for group in groups
        # Those of the driver itself, Tune's own, have no actor; their "actor" counts as dead too.
        if group.state != table.REMOVED
        and group.creator_job_id.hex() == job
        and group.creator_actor_dead
        and not ray.ActorID(group.creator_actor_id).is_nil()
    ]
