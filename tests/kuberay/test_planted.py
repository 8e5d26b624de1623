"""Mistakes planted into a good manifest are caught, each by the check that should know it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.kuberay.manifests import Object, build, ray_object
from tests.kuberay.rules import broken_rules, quantity
from tests.kuberay.schemas import core_errors, definition_file, ray_errors

Change = Callable[[Object], Any]

TRAIN = "overlays/gpu-spot/train"


def cluster(item: Object) -> Object:
    return item["spec"]["rayClusterSpec"]


def head(item: Object) -> Object:
    return cluster(item)["headGroupSpec"]


def group(item: Object) -> Object:
    return cluster(item)["workerGroupSpecs"][0]


def pod(item: Object) -> Object:
    return group(item)["template"]["spec"]


def ray(item: Object) -> Object:
    return pod(item)["containers"][0]


def shm(item: Object) -> Object:
    return pod(item)["volumes"][0]["emptyDir"]


def volume(item: Object, name: str) -> Object:
    (found,) = [volume for volume in pod(item)["volumes"] if volume["name"] == name]
    return found


def head_ray(item: Object) -> Object:
    return head(item)["template"]["spec"]["containers"][0]


def autoscaler(item: Object) -> Object:
    return cluster(item)["autoscalerOptions"]


TOKEN = {"name": "api", "mountPath": "/x"}

#: name: (change, what the refusal says)
AGAINST_THE_DEFINITION: dict[str, tuple[Change, str]] = {
    "a field of another spelling": (lambda i: group(i).update(minReplica=1), "minReplica"),
    "a number as a string": (lambda i: group(i).update(maxReplicas="8"), "maxReplicas"),
    "a missing required field": (lambda i: group(i).pop("template"), "template"),
    "a field one level too high": (lambda i: i["spec"].update(enableInTreeAutoscaling=True), "enableInTreeAutoscaling"),
    "an unknown mode": (lambda i: cluster(i)["authOptions"].update(mode="on"), "authOptions"),
    "a quantity that is none": (lambda i: ray(i)["resources"]["limits"].update(memory="128GiBB"), "128GiBB"),
    "a nested misspelling": (lambda i: ray(i).update(resource=ray(i).pop("resources")), "resource"),
    "a list for a map": (lambda i: head(i).update(rayStartParams=["num-cpus"]), "rayStartParams"),
    "an unknown autoscaler": (lambda i: cluster(i)["autoscalerOptions"].update(version="v3"), "version"),
    "a number in rayStartParams": (lambda i: head(i)["rayStartParams"].update({"num-cpus": 0}), "num-cpus"),
}
AGAINST_KUBERNETES: dict[str, tuple[Change, str]] = {
    "a nested misspelling": (lambda i: ray(i).update(volumeMount=ray(i).pop("volumeMounts")), "volumeMount"),
    "a number for an environment variable": (lambda i: ray(i)["env"][0].update(value=90), "90"),
    "no name of a container": (lambda i: ray(i).pop("name"), "name"),
    "metadata that there is not": (lambda i: i["metadata"].update(label={"a": "b"}), "label"),
    "a restart policy that there is not": (lambda i: pod(i).update(restartPolicy=True), "True"),
    "a toleration in one piece": (lambda i: pod(i).update(tolerations={"key": "spot"}), "tolerations"),
}
AGAINST_THE_RULES: dict[str, tuple[Change, str]] = {
    "a name too long": (lambda i: i["metadata"].update(name="a" * 48), "at most 47"),
    "a name with a capital": (lambda i: i["metadata"].update(name="plcaTrain"), "DNS label"),
    "an unknown submission mode": (lambda i: i["spec"].update(submissionMode="JobMode"), "submissionMode"),
    "a cluster that never goes": (lambda i: i["spec"].update(shutdownAfterJobFinishes=False), "shutdownAfterJob"),
    "no retries": (lambda i: i["spec"].update(backoffLimit=0), "backoffLimit"),
    "no deadline": (lambda i: i["spec"].update(activeDeadlineSeconds=0), "activeDeadlineSeconds"),
    "a token without a version": (lambda i: cluster(i).pop("rayVersion"), "rayVersion"),
    "a restarting pod": (lambda i: pod(i).update(restartPolicy="Always"), "restartPolicy Never"),
    "a number in rayStartParams": (lambda i: head(i)["rayStartParams"].update({"num-cpus": 0}), "no string"),
    "broken YAML": (lambda i: i["spec"].update(runtimeEnvYAML="a: [b"), "no YAML"),
    "min above max": (lambda i: group(i).update(minReplicas=9), "minReplicas <="),
    "a second command": (lambda i: i["spec"].update(entrypoint="plca a && plca b"), "would read '&'"),
    "a run without a name": (lambda i: i["spec"].update(entrypoint="plca train toytown"), "--name"),
    "workers on the head": (lambda i: head(i)["rayStartParams"].pop("num-cpus"), "num-cpus must be 0"),
    "a head that may be evicted": (lambda i: head(i)["template"]["metadata"]["annotations"].clear(), "evict"),
    "little grace": (lambda i: pod(i).update(terminationGracePeriodSeconds=60), "60 s of grace"),
    "a drain as long as the grace": (lambda i: ray(i)["env"][0].update(value="120"), "drain of 120"),
    "shared memory on a disk": (lambda i: shm(i).pop("medium"), "/dev/shm"),
    "shared memory without a limit": (lambda i: shm(i).pop("sizeLimit"), "/dev/shm"),
    "shared memory of all memory": (lambda i: shm(i).update(sizeLimit="48Gi"), "at most half"),
    "an object store of its own size": (lambda i: group(i)["rayStartParams"].clear(), "object store"),
    "a mount of nothing": (lambda i: ray(i)["volumeMounts"][0].update(name="shmem"), "no volume shmem"),
    "more than the limit": (lambda i: ray(i)["resources"]["requests"].update(cpu="8"), "more cpu"),
    "no limits": (lambda i: ray(i)["resources"].pop("limits"), "no limits"),
    "half a GPU request": (lambda i: ray(i)["resources"]["requests"].pop("nvidia.com/gpu"), "overcommitted"),
    "root": (lambda i: pod(i)["securityContext"].pop("runAsNonRoot"), "root"),
    "all capabilities": (lambda i: ray(i)["securityContext"].pop("capabilities"), "not confined"),
    "an image that can be written": (lambda i: ray(i)["securityContext"].pop("readOnlyRootFilesystem"), "is writable"),
    "no place for temporary files": (lambda i: ray(i)["volumeMounts"].pop(1), "/tmp is not writable"),
    "caches without a limit": (lambda i: volume(i, "home")["emptyDir"].clear(), "/home/plca is not writable up to"),
    "a token for all": (lambda i: pod(i).pop("automountServiceAccountToken"), "every container gets a token"),
    "the head's account": (lambda i: pod(i).update(serviceAccountName="plca"), "has the head's service account"),
    "the autoscaler's token": (lambda i: head_ray(i)["volumeMounts"].append(TOKEN), "head/ray: has the autoscaler's"),
    "an autoscaler without one": (lambda i: autoscaler(i)["volumeMounts"].pop(), "autoscaler: no token"),
    "an autoscaler that is root": (lambda i: autoscaler(i).pop("securityContext"), "head/autoscaler: not confined"),
    "a secret for every user": (lambda i: volume(i, "files")["secret"].pop("defaultMode"), "readable by every user"),
    "open ports of Ray": (lambda i: cluster(i).pop("authOptions"), "whoever reaches a port"),
    "nobody to the bucket": (lambda i: pod(i).pop("serviceAccountName"), "service account"),
    "a fixed cluster": (lambda i: cluster(i).pop("enableInTreeAutoscaling"), "no autoscaling"),
}


@pytest.mark.parametrize("mistake", AGAINST_THE_DEFINITION)
def test_the_definition_refuses(mistake: str) -> None:
    if not definition_file("RayJob").exists():
        pytest.skip(f"KubeRay's definitions are not at {definition_file('RayJob')}")
    _is_refused(AGAINST_THE_DEFINITION[mistake], ray_errors)


@pytest.mark.parametrize("mistake", AGAINST_KUBERNETES)
def test_kubernetes_refuses(mistake: str) -> None:
    _is_refused(AGAINST_KUBERNETES[mistake], core_errors)


@pytest.mark.parametrize("mistake", AGAINST_THE_RULES)
def test_the_rules_refuse(mistake: str) -> None:
    _is_refused(AGAINST_THE_RULES[mistake], broken_rules)


def _is_refused(planted: tuple[Change, str], check: Callable[[Object], list[str]]) -> None:
    change, said = planted
    item = ray_object(TRAIN)
    assert check(item) == []
    change(item)
    assert any(said in error for error in check(item)), check(item)


def test_every_mistake_of_several_is_named() -> None:
    item = ray_object(TRAIN)
    planted = [AGAINST_THE_RULES[m] for m in ("no retries", "little grace", "shared memory on a disk", "root")]
    for change, _ in planted:
        change(item)
    errors = broken_rules(item)
    assert len(errors) == len(planted), errors


def test_a_core_object_is_held_to_its_schema() -> None:
    account = next(item for item in build("site") if item["kind"] == "ServiceAccount")
    account["imagePullSecret"] = [{"name": "x"}]
    assert any("imagePullSecret" in error for error in core_errors(account))


def test_quantities() -> None:
    assert quantity("500m") == 0.5
    assert quantity("8Gi") == 8 * 2**30
    assert quantity(2) == 2
    with pytest.raises(ValueError, match="128GiBB"):
        quantity("128GiBB")
