"""What no schema says: the operator's own checks, Kubernetes' cross-references, and what a preemptible run needs."""

import re
import shlex
from collections.abc import Iterator

import yaml

from tests.kuberay.manifests import Object, Pod, cluster_spec, environment, pods

_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
#: Characters that one of the two shells which an entrypoint passes through would read. [ and ] stay as they are.
_SHELL = set("|&;<>()$`\\\"'*?#~{}!\n")
_LEAST_GRACE_S = 120


def broken_rules(item: Object) -> list[str]:
    """Every rule that a RayJob or RayCluster breaks."""
    return [
        *_of_operator(item),
        *(e for pod in pods(item) for e in _of_pod(pod)),
        *_of_token(item),
        *_of_preemption(item),
    ]


def _of_operator(item: Object) -> Iterator[str]:
    spec, cluster, name = item["spec"], cluster_spec(item), item["metadata"]["name"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > (47 if item["kind"] == "RayJob" else 63):
        yield f"metadata.name {name!r}: a DNS label of at most 47 characters (RayCluster: 63)"
    if cluster.get("authOptions", {}).get("mode") == "token" and not cluster.get("rayVersion"):
        yield "authOptions.mode token needs rayVersion"
    if not isinstance(cluster.get("rayVersion", ""), str):
        yield "rayVersion is no string"
    for pod in pods(item):
        for key, value in pod.start.items():
            if not isinstance(value, str):
                yield f"{pod.role}: rayStartParams {key} is no string"
        scaled = cluster.get("autoscalerOptions", {}).get("version") == "v2" and pod.role != "submitter"
        if scaled and pod.spec.get("restartPolicy", "Never") != "Never":
            yield f"{pod.role}: autoscaler v2 needs restartPolicy Never"
    for group in cluster.get("workerGroupSpecs", ()):
        least = group.get("minReplicas", 0)
        if not least <= group.get("replicas", least) <= group["maxReplicas"]:
            yield f"{group['groupName']}: not minReplicas <= replicas <= maxReplicas"
    if item["kind"] == "RayJob":
        yield from _of_job(spec)


def _of_job(spec: Object) -> Iterator[str]:
    if spec.get("submissionMode", "K8sJobMode") not in _MODES:
        yield f"submissionMode {spec['submissionMode']!r} is none of {', '.join(_MODES)}"
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if "submitterConfig" in spec and spec.get("submissionMode", "K8sJobMode") != "K8sJobMode":
        yield "submitterConfig is for K8sJobMode"
    for key in ("backoffLimit", "activeDeadlineSeconds"):
        if spec.get(key, 0) <= 0:
            yield f"{key}: a job on machines that go needs a positive one"
    try:
        yaml.safe_load(spec.get("runtimeEnvYAML", ""))
    except yaml.YAMLError:
        yield "runtimeEnvYAML is no YAML"
    entrypoint = spec.get("entrypoint", "")
    if found := sorted(_SHELL & set(entrypoint)):
        yield f"entrypoint: a shell in between would read {''.join(found)!r}"
    elif "--name" not in (words := shlex.split(entrypoint)) or "--storage" not in words:
        yield "entrypoint: without --name and --storage a retry does not continue the run"


def _of_container(where: str, container: Object, volumes: dict[str, Object]) -> Iterator[str]:
    """What a container may do, and what it can write: nothing that outlives it or fills a node."""
    secure = container.get("securityContext", {})
    if secure.get("allowPrivilegeEscalation") is not False or secure.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{where}: not confined"
    if secure.get("readOnlyRootFilesystem") is not True:
        yield f"{where}: its image is writable"
    mounts = {m["mountPath"]: volumes.get(m["name"], {}) for m in container.get("volumeMounts", ())}
    for path in filter(None, ("/tmp", container.get("workingDir"))):
        if not mounts.get(path, {}).get("emptyDir", {}).get("sizeLimit"):
            yield f"{where}: {path} is not writable up to a limit"


def _of_pod(pod: Pod) -> Iterator[str]:
    volumes = {v["name"]: v for v in pod.spec.get("volumes", ())}
    for container in (*pod.spec["containers"], *pod.spec.get("initContainers", ())):
        where = f"{pod.role}/{container['name']}"
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                yield f"{where}: no volume {mount['name']}"
        limits, requests = (container.get("resources", {}).get(key, {}) for key in ("limits", "requests"))
        if not {"cpu", "memory"} <= set(limits):
            yield f"{where}: no limits of cpu and memory, by which the operator tells Ray what the pod has"
            continue
        for name, asked in requests.items():
            if quantity(asked) > quantity(limits.get(name, "0")):
                yield f"{where}: asks for more {name} than its limit"
        if limits.get("nvidia.com/gpu") != requests.get("nvidia.com/gpu"):
            yield f"{where}: GPUs cannot be overcommitted"
        yield from _of_container(where, container, volumes)
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield f"{pod.role}: every container gets a token of Kubernetes"
    for volume in volumes.values():
        if "secret" in volume and volume["secret"].get("defaultMode", 0o644) & 0o007:
            yield f"{pod.role}: the secret {volume['name']} is readable by every user"
    user = pod.spec.get("securityContext", {})
    if not user.get("runAsNonRoot") or not user.get("runAsUser") or "seccompProfile" not in user:
        yield f"{pod.role}: may run as root, or without seccomp"


def _of_token(item: Object) -> Iterator[str]:
    """Kubernetes' token is the autoscaler's alone, and the account whose it is the head's alone."""
    cluster = cluster_spec(item)
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: whoever reaches a port of Ray runs what he likes"
    of_cluster = [pod for pod in pods(item) if pod.role != "submitter"]
    tokens = {
        volume["name"]
        for pod in of_cluster
        for volume in pod.spec.get("volumes", ())
        if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", ()))
    }
    options = cluster.get("autoscalerOptions", {})
    mounted = {mount["name"]: mount["mountPath"] for mount in options.get("volumeMounts", ())}
    if [mounted.get(name) for name in tokens] != ["/var/run/secrets/kubernetes.io/serviceaccount"]:
        yield "autoscaler: no token of Kubernetes, with which it adds workers"
    volumes = {v["name"]: v for v in cluster["headGroupSpec"]["template"]["spec"].get("volumes", ())}
    yield from _of_container("head/autoscaler", options, volumes)
    (head, *workers) = of_cluster
    for pod in of_cluster:
        for container in (*pod.spec["containers"], *pod.spec.get("initContainers", ())):
            if tokens & {mount["name"] for mount in container.get("volumeMounts", ())}:
                yield f"{pod.role}/{container['name']}: has the autoscaler's token"
    for pod in workers:
        if pod.spec.get("serviceAccountName") == head.spec.get("serviceAccountName"):
            yield f"{pod.role}: has the head's service account, which may change pods"


def _of_preemption(item: Object) -> Iterator[str]:
    for pod in pods(item):
        if pod.role == "submitter":
            continue
        spec, limit = pod.spec, quantity(pod.main["resources"].get("limits", {}).get("memory", "0"))
        drain = float(environment(pod.main).get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30))
        grace = spec.get("terminationGracePeriodSeconds", 30)
        if grace < _LEAST_GRACE_S or drain + 15 > grace:
            yield f"{pod.role}: {grace} s of grace for a drain of {drain:g} s; at least 120, and 15 more than the drain"
        mounted = [m["name"] for m in pod.main.get("volumeMounts", ()) if m["mountPath"] == "/dev/shm"]
        shm = next((v["emptyDir"] for v in spec.get("volumes", ()) if mounted == [v["name"]]), {})
        size, store = quantity(shm.get("sizeLimit", "0")), int(pod.start.get("object-store-memory", 0))
        if shm.get("medium") != "Memory" or not size or size > limit / 2:
            yield f"{pod.role}: /dev/shm must be of memory, with a limit of at most half the container's"
        if not store or store > size / 2:
            yield f"{pod.role}: the object store must leave half of /dev/shm to others"
        if spec.get("serviceAccountName") in (None, "default"):
            yield f"{pod.role}: no service account of its own for the bucket"
        if pod.role == "head":
            if pod.start.get("num-cpus") != "0":
                yield "head: workers could be placed on it; num-cpus must be 0"
            marks = pod.template.get("metadata", {}).get("annotations", {})
            if marks.get("cluster-autoscaler.kubernetes.io/safe-to-evict") != "false":
                yield "head: a cluster autoscaler may evict it"
    if not cluster_spec(item).get("enableInTreeAutoscaling"):
        yield "no autoscaling"


def quantity(text: str | int | float) -> float:
    """Kubernetes' notation of an amount, such as 500m or 8Gi."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if not found or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return float(found[1]) * _UNITS[found[2]]
