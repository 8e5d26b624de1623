"""Strict schemas: what a real API server, and the operator's types, would not take, or would drop in silence."""

import gzip
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from tests.kuberay.manifests import ROOT, Object, pods

#: ray-project/kuberay's definitions; data of the workplace, not of this repository.
DEFINITIONS = ROOT.parent / "shared" / "kuberay"
#: Kubernetes releases to hold to: one that clusters still run, and the newest known here.
RELEASES = ("1.31", "1.37")


def definition_file(kind: str) -> Path:
    return DEFINITIONS / f"ray.io_{kind.lower()}s.yaml.gz"


def ray_errors(item: Object) -> list[str]:
    """What the custom resource definition has against a RayJob or RayCluster, as `path: reason`."""
    version = item["apiVersion"].partition("/")[2]
    found = _validator(item["kind"], version).iter_errors(item)
    return sorted(f"{e.json_path}: {e.message[:200]}" for e in found)


def core_errors(item: Object) -> list[str]:
    """What Kubernetes' own schemas have against a core object, or against the metadata and pods of a Ray object."""
    if not item["apiVersion"].startswith("ray.io/"):
        return list(_core(item))
    metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": item["metadata"]}
    made = [("metadata", metadata)]
    for pod in pods(item):
        made.append((pod.role, {"apiVersion": "v1", "kind": "Pod", "metadata": {}, **pod.template}))
    return [f"{where}: {error}" for where, each in made for error in _core(each)]


def _core(item: Object) -> Iterator[str]:
    for release in RELEASES:
        group, _, version = item["apiVersion"].rpartition("/")
        kind = "-".join(filter(None, (item["kind"].lower(), group.partition(".")[0], version)))
        for error in _core_validator(kind, release).iter_errors(item):
            yield f"{release}: {error.json_path}: {error.message[:200]}"


@cache
def _core_validator(kind: str, release: str) -> jsonschema.Draft202012Validator:
    """As `kubernetes_validate.validate` makes one, which reads its files again at every call."""
    folder = f"kubernetes-json-schema/v{release}.0-local-strict"
    schema, shared = (schema_contents(f"{folder}/{name}.json", release) for name in (kind, "_definitions"))
    registry = Resource.from_contents(shared) @ Registry()
    return jsonschema.Draft202012Validator(schema, registry=Resource.from_contents(schema) @ registry)


@cache
def _validator(kind: str, version: str) -> jsonschema.Draft7Validator:
    with gzip.open(definition_file(kind)) as file:
        definition = yaml.load(file, Loader=yaml.CSafeLoader)
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == version]
    schema["properties"]["metadata"] = {}  # Kubernetes' own, see `core_errors`
    return jsonschema.Draft7Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """The schema without what an API server adds (defaults) and with what it drops or an operator ignores refused."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(part) for key, part in schema.items() if key != "properties"}
    if "properties" in schema:
        made["properties"] = {name: _strict(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
        if "required" in schema:
            made["required"] = [name for name in schema["required"] if "default" not in schema["properties"][name]]
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        made["type"] = [schema["type"], "null"]
    return made
