"""Every directory that a person applies builds, and is what an API server and the operator take; nothing is secret."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from plca_dist.cli.parser import build_parser
from plca_dist.recipe import load
from plca_dist.search.space import load_space
from tests.kuberay.manifests import APPLIED, KUBERAY, OVERLAYS, RAY, ROOT, build, cluster_spec, pods, ray_object
from tests.kuberay.rules import broken_rules, quantity
from tests.kuberay.schemas import core_errors, definition_file, ray_errors

JOBS = [d for d in RAY if not d.endswith("interactive")]


@pytest.mark.parametrize("directory", RAY)
def test_the_definitions_of_ray_take_it(directory: str) -> None:
    item = ray_object(directory)
    if not definition_file(item["kind"]).exists():
        pytest.skip(f"KubeRay's definitions are not at {definition_file(item['kind'])}")
    assert ray_errors(item) == []


@pytest.mark.parametrize("directory", APPLIED)
def test_kubernetes_takes_it(directory: str) -> None:
    assert [error for item in build(directory) for error in core_errors(item)] == []


@pytest.mark.parametrize("directory", RAY)
def test_it_holds_to_the_rules(directory: str) -> None:
    assert broken_rules(ray_object(directory)) == []


def test_every_directory_is_looked_at() -> None:
    """A component is applied by no one; everything else with a kustomization is in APPLIED."""
    found = set()
    for file in KUBERAY.rglob("kustomization.yaml"):
        if yaml.safe_load(file.read_text())["kind"] == "Kustomization":
            found.add(file.parent.relative_to(KUBERAY).as_posix())
    assert found - {"base"} == set(APPLIED)


@pytest.mark.parametrize("directory", JOBS)
def test_the_entrypoint_is_a_command_of_this_project(directory: str) -> None:
    """It parses, its recipe and space load with its settings, and the workers fit the pods that there may be."""
    item = ray_object(directory)
    program, *arguments = shlex.split(item["spec"]["entrypoint"])
    assert program == "plca"
    parsed = build_parser().parse_args(arguments)
    assert parsed.command == directory.rpartition("/")[2]
    config = load(parsed.recipe, [*parsed.set, f"storage.uri={parsed.storage}"])
    if parsed.command == "tune":
        space = load_space(parsed.space)
        space.check(config)
    (group,) = cluster_spec(item)["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert config.cluster.cpus_per_worker <= quantity(limits["cpu"])
    assert config.cluster.gpu == ("nvidia.com/gpu" in limits)
    if parsed.command == "train":
        assert max(config.world_sizes) == group["maxReplicas"]
        assert config.cluster.least_workers >= group["minReplicas"]
    for uri in (config.storage.uri, config.data, config.model.weights):
        assert uri is None or uri.startswith("s3://"), f"{uri} is seen by one pod only"


def test_a_run_keeps_its_name_from_spot_to_on_demand() -> None:
    """The same run continues on either kind of machine."""
    for kind in ("train", "tune"):
        names = []
        for overlay in ("gpu-spot", "gpu-ondemand"):
            words = shlex.split(ray_object(f"overlays/{overlay}/{kind}")["spec"]["entrypoint"])
            names.append([words[words.index(option) + 1] for option in ("--name", "--storage")])
        assert names[0] == names[1]


def test_where_machines_go_only_workers_go() -> None:
    spot = {p.role: p.spec for p in pods(ray_object("overlays/gpu-spot/train"))}
    stays = {p.role: p.spec for p in pods(ray_object("overlays/gpu-ondemand/train"))}
    tolerated = {t["key"] for t in spot["workers"]["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= tolerated
    assert spot["head"]["affinity"] == stays["head"]["affinity"] == stays["workers"]["affinity"]
    assert spot["workers"]["affinity"] != spot["head"]["affinity"]
    assert "tolerations" not in spot["head"]
    assert {t["key"] for t in stays["workers"]["tolerations"]} == {"nvidia.com/gpu"}

    def terms(spec: dict) -> list[set[str]]:
        found = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        return [{e["key"] for e in term["matchExpressions"]} for term in found]

    # Terms are alternatives, expressions of one term are not: any mark of spot will do, and none of them may be there.
    (no_mark,) = terms(spot["head"])
    assert len(no_mark) == 4
    assert sorted(map(min, terms(spot["workers"]))) == sorted(no_mark)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_job_runs_on_the_cluster_of_its_overlay(overlay: str) -> None:
    interactive = ray_object(f"overlays/{overlay}/interactive")
    for kind in ("train", "tune"):
        job = ray_object(f"overlays/{overlay}/{kind}")
        for pod in pods(job):
            assert pod.template["metadata"]["labels"].pop("plca-cluster") == job["metadata"]["name"]
            pod.template["metadata"]["labels"]["plca-cluster"] = "plca"
        assert cluster_spec(job) == interactive["spec"]


def test_a_site_is_named_in_one_place(tmp_path: Path) -> None:
    """Image and namespace, changed in site/settings, reach every object and container."""
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    settings = tmp_path / "kuberay/site/settings/kustomization.yaml"
    text = settings.read_text()
    text = text.replace("namespace: plca", "namespace: ours").replace("registry.example.com/plca", "r.test/ours")
    settings.write_text(text)
    for directory in APPLIED:
        for item in build(tmp_path / "kuberay" / directory):
            metadata = item["metadata"]
            assert (metadata["name"] if item["kind"] == "Namespace" else metadata["namespace"]) == "ours"
            if item["kind"].startswith("Ray"):
                for pod in pods(item):
                    for container in (*pod.spec["containers"], *pod.spec.get("initContainers", ())):
                        assert container["image"].startswith("r.test/ours:")


def test_a_run_of_ones_own_is_a_copy(renamed: Path) -> None:
    """What README.md says to change is enough, and the original stays as it is."""
    item = ray_object(renamed)
    assert item["metadata"]["name"] == "camvid-1"
    assert "--name camvid-1" in item["spec"]["entrypoint"]
    assert broken_rules(item) == core_errors(item) == []
    assert ray_object("overlays/gpu-spot/train")["metadata"]["name"] == "plca-train"


def test_what_pods_refer_to_exists() -> None:
    site = {(item["kind"], item["metadata"]["name"]) for item in build("site")}
    for directory in RAY:
        for pod in pods(ray_object(directory)):
            if pod.role == "submitter":
                continue
            assert ("ServiceAccount", pod.spec["serviceAccountName"]) in site
            for source in pod.main["envFrom"]:
                if "configMapRef" in source:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in site
                else:
                    assert source["secretRef"]["optional"], "it is made by hand, or not at all"
            secrets = [volume["secret"] for volume in pod.spec["volumes"] if "secret" in volume]
            assert [(secret["secretName"], secret["optional"]) for secret in secrets] == [("plca-files", True)]
            for container in (pod.main, *pod.spec.get("initContainers", ())):
                assert "/etc/plca" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_the_lines_to_uncomment_are_right(tmp_path: Path) -> None:
    """Annotations, variables and the label of every cloud at once, in the site's three files."""
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    site = tmp_path / "kuberay/site"
    for name in ("kustomization.yaml", "service-account.yaml", "settings/kustomization.yaml"):
        text = (site / name).read_text()
        shown, count = re.subn(r"(?m)^( *)# (?=annotations:$|- target:|  +[-\w]|- [A-Z_]+=)", r"\1", text)
        assert count, name
        (site / name).write_text(shown)
    built = build(site)
    assert [error for item in built for error in core_errors(item)] == []
    accounts = [item for item in built if item["kind"] == "ServiceAccount"]
    assert len(accounts) == 2
    for account in accounts:
        assert {key.partition("/")[0] for key in account["metadata"]["annotations"]} == {
            "eks.amazonaws.com", "iam.gke.io", "azure.workload.identity",
        }  # fmt: skip
    (variables,) = [set(item["data"]) for item in built if item["kind"] == "ConfigMap"]
    assert variables >= {"AWS_ENDPOINT_URL", "AZURE_STORAGE_ACCOUNT_NAME", "GOOGLE_APPLICATION_CREDENTIALS"}
    told = (ROOT / "docs/operations.md").read_text()
    assert [name for name in variables if f"`{name}`" not in told] == []
    for directory in RAY:
        item = ray_object(tmp_path / "kuberay" / directory)
        assert broken_rules(item) == core_errors(item) == []
        for pod in pods(item):
            labels = pod.template["metadata"]["labels"]
            assert ("azure.workload.identity/use" in labels) == (pod.role != "submitter")


def test_no_secret_in_any_file() -> None:
    pattern = re.compile(r"kind: *Secret|secretGenerator|AKIA|(SECRET_ACCESS_KEY|ACCESS_KEY_ID) *[=:]|BEGIN [A-Z ]*KEY")
    files = [p for p in (ROOT / "cluster").rglob("*") if p.is_file() and p.suffix != ".md"]
    assert len(files) > 20
    assert [str(p) for p in files if pattern.search(p.read_text())] == []
    for directory in APPLIED:
        for item in build(directory):
            assert not re.search(r"(?i)(password|token|secret|key)'?: *'?[A-Za-z0-9/+]{16,}", str(item))
