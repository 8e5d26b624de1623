"""Checks of every node of a Ray cluster: what differs from here, what is missing, what is too small."""

import dataclasses
import os
import platform
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from plca_dist import versions
from plca_dist.config import ClusterSettings
from plca_dist.doctor import node as node_module
from plca_dist.doctor.finding import Finding, first_missing
from plca_dist.errors import UserError, counted
from plca_dist.ray_cluster.connect import connection
from plca_dist.storage import Location, Store, probe

#: Time for a node to answer. Importing torch there, from a network disk, takes most of it.
_ANSWER_S = 180.0
#: NCCL's part of /dev/shm on a node with GPUs, beside Ray's object store.
_NCCL_BYTES = 256 << 20


class Node(NamedTuple):
    """A node as Ray knows it.

    Attributes:
        name: its address and the beginning of its id.
        cpus, gpus: as many as Ray gives to tasks there.
        metrics: URL of its metrics agent.
    """

    id: str
    name: str
    cpus: float
    gpus: float
    object_store_bytes: float
    metrics: str


def examine_nodes(storage: Location, *, gpu: bool) -> Iterator[Finding]:
    """Ask every node of the cluster at RAY_ADDRESS, or of one started here, about itself.

    Args:
        storage: the store that every node must reach.
        gpu: workers will want GPUs: a node that offers CPUs and no GPU is a problem.
    """
    with connection(ClusterSettings(workers=1), lambda message: None):
        nodes = sorted((_known(n) for n in ray.nodes() if n["Alive"]), key=lambda n: n.name)
        where = "at RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") else "started here"
        cpus, gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
        count = counted(len(nodes), "nodes")
        yield Finding("cluster", True, f"{where}: {count} with {counted(cpus, 'CPUs')} and {counted(gpus, 'GPUs')}")
        with _Token(storage) as token:
            answers = _ask(nodes, token)
            for node in nodes:
                answer = answers[node.id]
                if isinstance(answer, str):
                    yield Finding(f"node {node.name}", False, answer)
                    continue
                bad = problems(node, answer, versions.installed(), gpu=gpu)
                if not bad and (missing := token.missing(node.id)):
                    bad = [missing]
                for problem in bad:
                    yield Finding(f"node {node.name}", False, problem)
                if not bad:
                    reached = token.location.uri if token.object else None
                    yield Finding(f"node {node.name}", True, summary(node, answer, reached))


def _known(known: Mapping[str, Any]) -> Node:
    resources, address = known["Resources"], known["NodeManagerAddress"]
    return Node(
        known["NodeID"],
        f"{address} ({known['NodeID'][:8]})",
        resources.get("CPU", 0),
        resources.get("GPU", 0),
        resources.get("object_store_memory", 0),
        f"http://{address}:{known['MetricsExportPort']}/metrics",
    )


class _Token:
    """An object in the store that every node must find, and answer with one of its own; all are removed at the end.

    Where even this machine cannot write it, nodes are not asked about the store: `examine` has a finding for that.
    """

    def __init__(self, storage: Location) -> None:
        self.location = storage.absolute()
        self._name, self._content = f"plca-doctor-{uuid.uuid4().hex}", uuid.uuid4().bytes
        self._store: Store | None = None
        self._made: Path | None = None
        self._answers: list[str] = []

    def __enter__(self) -> "_Token":
        with suppress(UserError):
            store = probe(self.location)
            self.location = self.location.with_uri(store.uri)
            self._made = first_missing(Path(store.root)) if store.local else None
            store.write(self._name, self._content)
            self._store = store
        return self

    def __exit__(self, *_: object) -> None:
        if self._store:
            for name in (self._name, *self._answers):
                self._store.delete(name)
        if self._made:
            shutil.rmtree(self._made, ignore_errors=True)

    @property
    def object(self) -> tuple[str, bytes] | None:
        return (self._name, self._content) if self._store else None

    def answer(self, node: str) -> str:
        """The name for the object that the node is to write."""
        self._answers.append(f"{self._name}-{node}")
        return self._answers[-1]

    def missing(self, node: str) -> str:
        """The problem with the object that the node says it wrote; "": none."""
        if self._store is None:
            return ""
        name = f"{self._name}-{node}"
        if self._store.exists(name) and self._store.read(name) == self._content:
            return ""
        return f"store: what it wrote to {self.location.uri} cannot be read here; {node_module.SHARED}."


def _ask(nodes: list[Node], token: _Token) -> dict[str, dict[str, Any] | str]:
    """Each node's answer, by its id, or why there is none."""
    travelling = (node_module, versions)
    for module in travelling:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(node_module.look)
        tasks = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n.id, soft=False)).remote(
                dataclasses.astuple(token.location), token.object, token.answer(n.id), n.metrics
            ): n.id
            for n in nodes
        }
    finally:
        for module in travelling:
            ray.cloudpickle.unregister_pickle_by_value(module)
    done, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=_ANSWER_S)
    answers: dict[str, dict[str, Any] | str] = {}
    for task, node in tasks.items():
        if task not in done:
            answers[node] = f"no answer within {_ANSWER_S:.0f} s; look at raylet.out and the log of its workers there."
            continue
        try:
            answers[node] = ray.get(task)
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or ["no message"]
            answers[node] = f"a task failed there: {type(error).__name__}: {lines[-1].strip()[:300]}"
    return answers


def problems(node: Node, answer: Mapping[str, Any], here: Mapping[str, str | None], *, gpu: bool) -> list[str]:
    """All problems of a node, each with its fix.

    Args:
        answer: the result of `node.look` there.
        here: versions of the same packages here. Where one is missing here too, another finding says so.
        gpu: as in `examine_nodes`.
    """
    listed = []
    here_minor, there_minor = platform.python_version_tuple()[:2], tuple(answer["python"].split(".")[:2])
    if here_minor != there_minor:
        listed.append(f"Python {answer['python']} there, {platform.python_version()} here; install the same on both.")
    for package, version in here.items():
        there = answer["versions"][package]
        if there is None and version is None:
            continue
        if there is None:
            listed.append(
                f"{package} is not installed; install {package}=={version} in that node's image or environment."
            )
        elif version is not None and there.partition("+")[0] != version.partition("+")[0]:  # +cpu and +cu132 agree
            listed.append(f"{package} {there} there, {version} here; install the same on both.")
    if (problem := answer["gpus_problem"]) and answer["versions"]["torch"]:
        listed.append(f"{problem}; check its CUDA driver.")
    elif len(answer["gpus"]) < node.gpus:
        listed.append(
            f"Ray offers {counted(node.gpus, 'GPUs')} and torch sees {len(answer['gpus'])}; check the driver, "
            "and that torch is a CUDA build."
        )
    elif answer["gpus"] and not node.gpus:
        listed.append(
            f"has {counted(len(answer['gpus']), 'GPUs')} of which Ray offers none; start Ray there with --num-gpus."
        )
    if gpu and node.cpus and not (node.gpus or answer["gpus"]):
        listed.append("no GPU; workers with cluster.gpu=true cannot run there. Start Ray there with --num-cpus=0.")
    shm = answer["shm_bytes"]
    wanted = node.object_store_bytes + (_NCCL_BYTES if node.gpus else 0)
    if shm is not None and shm < wanted:
        listed.append(
            f"/dev/shm holds {_gib(shm)}, and Ray's object store"
            f"{' and NCCL want' if node.gpus else ' wants'} {_gib(wanted)}; enlarge it (an emptyDir with "
            "medium: Memory, docker --shm-size), or give Ray a smaller --object-store-memory."
        )
    if (problem := answer["store_problem"]) and answer["versions"]["plca-dist"]:
        listed.append(f"store: {problem.rstrip('.')}.")
    return listed


def summary(node: Node, answer: Mapping[str, Any], storage: str | None) -> str:
    """A sound node in one line. `storage`: the store that it reached; None: it was not asked."""
    versions = ", ".join(f"{name} {version}" for name, version in answer["versions"].items())
    decoder = "Wuffs" if answer["wuffs"] else "Pillow"
    gpus = ", ".join(answer["gpus"]) or "no GPU"
    shm = "no /dev/shm" if answer["shm_bytes"] is None else f"/dev/shm {_gib(answer['shm_bytes'])}"
    metrics = f"metrics at {node.metrics}" if answer["metrics"] else "no metrics (they need ray[default] there)"
    reaches = f"reaches {storage}; " if storage else ""
    return (
        f"Python {answer['python']}, {versions}, PNGs by {decoder}; {counted(node.cpus, 'CPUs')}, {gpus}; {shm}, "
        f"object store {_gib(node.object_store_bytes)}; {reaches}{metrics}"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
