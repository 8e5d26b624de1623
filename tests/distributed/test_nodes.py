"""What a run does about nodes that drain, come and go: two nodes of a real Ray cluster on this machine."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from plca_dist.training.checkpoint.survey import committed

DRAINED = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
ROOM = {"num_cpus": 1, "object_store_memory": 80 << 20, "dashboard_agent_listen_port": 0}


@pytest.fixture
def cluster(ray_session: object) -> Iterator[Cluster]:
    """A head with room for one worker. Its processes know the S3 server."""
    made = Cluster(initialize_head=True, connect=False, head_node_args={**ROOM, "include_dashboard": False})
    yield made
    made.shutdown()


def drain(cluster: Cluster, node: Any) -> None:
    deadline = int((time.time() + 120) * 1000)
    accepted, why = ray._raylet.GcsClient(address=cluster.address).drain_node(node.node_id, DRAINED, "", deadline)
    assert accepted, why


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_follows_its_nodes(runs: Any, cluster: Cluster, driver: Callable[..., Any]) -> None:
    """A drain that leaves too little ends it with 85; with a range it goes on: 1 worker, 2, 1 after a drain, 2, 1 after
    a node's death. No step is lost or repeated, and none of it needs a budget for errors.
    """
    more = ["schedule.steps=100000", "checkpoint.every=50", "cluster.max_failures=0"]
    second = cluster.add_node(**ROOM)
    fixed = driver(runs.command("nodes", *more), RAY_ADDRESS=cluster.address)
    fixed.read_until("checkpoint step")
    drain(cluster, second)
    assert fixed.end() == 85, fixed.lines
    assert fixed.lines[-1].startswith(f"plca: preempted (node {second.node_id[:8]} drains): checkpoint step-")
    assert fixed.lines[-1].endswith("the same command continues it")
    cluster.remove_node(second)

    run = driver(runs.command("nodes", *more, "cluster.workers=[1, 2]"), RAY_ADDRESS=cluster.address)
    run.read_until("starting 1 worker")
    run.read_until("checkpoint step")
    second = cluster.add_node(**ROOM)
    run.read_until("the cluster grew: checkpoint step-")
    run.read_until("starting 2 workers")
    run.read_until("checkpoint step")
    drain(cluster, second)
    run.read_until(f"node {second.node_id[:8]} drains: checkpoint step-")
    run.read_until("starting 1 worker")
    cluster.remove_node(second)
    run.read_until("checkpoint step")
    second = cluster.add_node(**ROOM)
    run.read_until("starting 2 workers")
    run.read_until("checkpoint step")
    cluster.remove_node(second, allow_graceful=False)
    run.read_until("worker failed")
    run.read_until("starting 1 worker")
    run.read_until("checkpoint step")
    run.process.terminate()
    assert run.end() == 85, run.lines

    newest = committed(runs.store.child("nodes"))[0]
    assert runs.recorded("nodes") == list(range(1, newest.step + 1))
    losses = [
        json.loads(line).get("loss/total", 0.0) for line in runs.store.read("nodes/metrics.jsonl").decode().splitlines()
    ]
    assert sum(losses[-20:]) < sum(losses[:20]), "it forgets what it learnt where its width changes"
