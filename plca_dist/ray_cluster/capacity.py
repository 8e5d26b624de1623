"""How many workers the cluster can hold. An attempt takes so many where `cluster.workers` is a range."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping

import ray

from plca_dist.config import ClusterSettings, Config
from plca_dist.errors import counted
from plca_dist.ray_cluster.internals.core import available_resources, draining_nodes, total_resources

#: The places of the last attempt's workers come back within this time, or others have taken them.
_SETTLE_S = 5.0
_POLL_S = 0.25


def possible_world_size(config: Config, own_nodes: Iterable[str] = ()) -> int | None:
    """The largest world size that the recipe allows and the cluster can hold now; None: not even the smallest.

    Args:
        own_nodes: the node of each worker of this run that trains now; the places of these workers count as free.
    """
    return _largest_world_size(config, _room_for_workers(config.cluster, available_resources(), Counter(own_nodes)))


def next_world_size(config: Config) -> tuple[int, bool]:
    """The world size of the next attempt, and whether the cluster can hold it now. If not, Ray waits for room."""
    deadline = time.monotonic() + _SETTLE_S
    most = _largest_world_size(config, _room_for_workers(config.cluster, total_resources(), Counter()))
    while (now := possible_world_size(config)) != most and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return now or config.world_sizes[0], now is not None


def hopeless(config: Config) -> bool:
    """Whether the cluster can never hold the run: PLCA_CLUSTER_FIXED=1, and it is too small even when all is free."""
    whole = _room_for_workers(config.cluster, total_resources(), Counter())
    return os.environ.get("PLCA_CLUSTER_FIXED") == "1" and _largest_world_size(config, whole) is None


def shortage(config: Config) -> str:
    """The resources that the smallest world size needs and that the cluster does not have free."""
    wanted, workers = config.cluster, config.world_sizes[0]
    have = ray.available_resources()
    short = [
        f"{counted(need, name + 's')} where the cluster has {have.get(name, 0):g} free"
        for name, need in (("CPU", workers * wanted.cpus_per_worker), ("GPU", workers * wanted.gpu))
        if have.get(name, 0) < need
    ]
    return f"the recipe wants {' and '.join(short) or 'nodes for ' + counted(workers, 'workers')}"


def _largest_world_size(config: Config, places: int) -> int | None:
    return max((n for n in config.world_sizes if n <= places), default=None)


def _room_for_workers(
    wanted: ClusterSettings, resources: Mapping[str, Mapping[str, float]], own_nodes: Counter[str]
) -> int:
    """The number of workers that the remaining nodes can hold, those of this run included."""
    leave = draining_nodes()
    places = 0
    for node, free in resources.items():
        if node in leave:
            continue
        more = int(free.get("CPU", 0) // wanted.cpus_per_worker)
        if wanted.gpu:
            more = min(more, int(free.get("GPU", 0)))
        places += more + own_nodes[node]
    return places
