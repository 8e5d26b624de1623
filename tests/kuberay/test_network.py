"""Who may open a connection to the pods of a cluster, by the policies that are applied with it."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kuberay.manifests import RAY, Object, build, pods, ray_object


class Peer(NamedTuple):
    """A pod somewhere, by its namespace and labels."""

    namespace: str
    labels: dict[str, str]


DASHBOARD, METRICS, GCS, NCCL = 8265, 8080, 6379, 45123
OPERATOR = Peer("kuberay-operator", {"app.kubernetes.io/component": "kuberay-operator"})
PROMETHEUS = Peer("monitoring", {"app.kubernetes.io/name": "prometheus"})


def allowed(items: list[Object], target: Peer, source: Peer, port: int) -> bool:
    """Whether Kubernetes lets `source` open a TCP connection to a port of `target`."""
    rules = [
        rule
        for item in items
        if item["kind"] == "NetworkPolicy" and item["metadata"]["namespace"] == target.namespace
        if _selects(item["spec"]["podSelector"], target.labels)
        for rule in (*item["spec"].get("ingress", ()), None)  # None: a policy without rules allows nothing
    ]
    return not rules or any(rule and _lets(rule, target, source, port) for rule in rules)


def _lets(rule: Object, target: Peer, source: Peer, port: int) -> bool:
    if "ports" in rule and port not in [p["port"] for p in rule["ports"]]:
        return False
    for peer in rule["from"]:
        assert set(peer) <= {"podSelector", "namespaceSelector"}, "extend this test"
        names = {"kubernetes.io/metadata.name": source.namespace}
        there = _selects(peer["namespaceSelector"], names) if "namespaceSelector" in peer else (
            source.namespace == target.namespace
        )  # fmt: skip
        if there and _selects(peer.get("podSelector", {}), source.labels):
            return True
    return False


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "extend this test"
    return selector.get("matchLabels", {}).items() <= labels.items()


def of_cluster(item: Object) -> list[Peer]:
    return [Peer(item["metadata"]["namespace"], pod.template["metadata"]["labels"]) for pod in pods(item)]


@pytest.mark.parametrize("directory", RAY)
def test_a_cluster_is_reached_by_its_own_pods_the_operator_and_prometheus(directory: str) -> None:
    items, own = build(directory), of_cluster(ray_object(directory))
    strangers = [Peer("plca", {}), Peer("plca", {"ray.io/cluster": "other"}), Peer("other", own[0].labels)]
    strangers += [Peer("other", OPERATOR.labels), Peer("plca", OPERATOR.labels), Peer("kuberay-operator", {})]
    for target in own:
        for source in own:
            assert allowed(items, target, source, GCS)
            assert allowed(items, target, source, NCCL)
        for source in strangers:
            assert not any(allowed(items, target, source, port) for port in (DASHBOARD, METRICS, GCS, NCCL)), source
        assert [p for p in (DASHBOARD, METRICS, GCS, NCCL) if allowed(items, target, OPERATOR, p)] == [DASHBOARD]
        assert [p for p in (DASHBOARD, METRICS, GCS, NCCL) if allowed(items, target, PROMETHEUS, p)] == [METRICS]


def test_jobs_do_not_reach_each_other() -> None:
    """Those of one overlay differ in name alone, and all of them may be applied at the same time."""
    jobs = [d for d in RAY if d.startswith("overlays/gpu-spot/")]
    items = [item for directory in jobs for item in build(directory)]
    policies = [item["metadata"]["name"] for item in items if item["kind"] == "NetworkPolicy"]
    assert len(set(policies)) == len(jobs)
    for one in jobs:
        for other in jobs:
            target, source = of_cluster(ray_object(one))[0], of_cluster(ray_object(other))[0]
            assert allowed(items, target, source, GCS) == (one == other)


def test_a_job_of_another_name_has_pods_of_its_own(renamed: Path) -> None:
    """README.md's way to a run of one's own: nothing but the name is changed."""
    item = ray_object(renamed)
    assert item["metadata"]["name"] == "camvid-1"
    items = [*build(renamed), *build("overlays/gpu-spot/train")]
    (mine, *_), (theirs, *_) = of_cluster(item), of_cluster(ray_object("overlays/gpu-spot/train"))
    assert allowed(items, mine, mine, GCS)
    assert not allowed(items, mine, theirs, GCS)
    assert not allowed(items, theirs, mine, GCS)
