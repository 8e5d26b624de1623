"""The image: what its Dockerfile copies is here, what it pins is what the project asks for, and pods fit it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.kuberay.manifests import RAY, ROOT, pods, ray_object

CLUSTER = ROOT / "cluster"
#: Instructions with their continuation lines joined.
STEPS = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", (CLUSTER / "Dockerfile").read_text())).split("\n")


def arguments(instruction: str) -> list[str]:
    return [step.removeprefix(f"{instruction} ") for step in STEPS if step.startswith(f"{instruction} ")]


def pinned() -> dict[str, Version]:
    text = re.sub(r"(?m)^#.*\n", "", (CLUSTER / "requirements.txt").read_text()).replace(" \\\n", " ")
    found = {}
    for line in text.splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+( +--hash=sha256:[0-9a-f]{64})+", line), line
        name, _, version = line.partition(" ")[0].partition("==")
        found[canonicalize_name(name)] = Version(version)
    return found


def asked() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in ("gcs", "azure", "png") for line in project["optional-dependencies"][extra]]
    more = (CLUSTER / "requirements.in").read_text().splitlines()
    return [Requirement(line) for line in (*project["dependencies"], *extras, *more) if not line.startswith("#")]


def test_the_pins_are_what_the_project_asks_for() -> None:
    """A dependency that is new in pyproject.toml, or wants another version, is not forgotten here."""
    versions = pinned()
    wrong = []
    for requirement in asked():
        version = versions.get(canonicalize_name(requirement.name))
        if version is None or version not in requirement.specifier:
            wrong.append(f"{requirement}: pinned is {version}")
    assert not wrong, f"{wrong}; make cluster/requirements.txt again, as its first lines say"


@pytest.mark.parametrize("package", ["ray", "torch", "deepspeed", "torchvision", "s3fs", "gcsfs", "adlfs"])
def test_the_image_has_what_was_tested(package: str) -> None:
    """The versions of the environment in which this suite runs, up to the patch level."""
    from importlib.metadata import version

    assert pinned()[package].release[:2] == Version(version(package)).release[:2]


def test_what_rays_job_server_needs_is_in() -> None:
    """Every package of Ray's extras that the image's Python would install."""
    from importlib.metadata import requires

    versions = pinned()
    extras = {extra for r in asked() if r.name == "ray" for extra in r.extras}
    assert extras >= {"default", "train", "tune"}
    for line in requires("ray") or ():
        requirement = Requirement(line)
        where = {"python_version": "3.12", "python_full_version": "3.12.3", "sys_platform": "linux"}
        if any(requirement.marker and requirement.marker.evaluate({**where, "extra": extra}) for extra in extras):
            assert canonicalize_name(requirement.name) in versions, line


@pytest.mark.parametrize("package", ["s3fs", "gcsfs", "adlfs"])
def test_what_a_cloud_needs_is_in(package: str) -> None:
    from importlib.metadata import requires

    where = {"python_version": "3.12", "python_full_version": "3.12.3", "sys_platform": "linux", "extra": ""}
    for requirement in map(Requirement, requires(package) or ()):
        if requirement.marker is None or requirement.marker.evaluate(where):
            version = pinned().get(canonicalize_name(requirement.name))
            assert version is not None, requirement
            assert version in requirement.specifier, f"{requirement}: pinned is {version}"


def test_nothing_is_installed_that_could_be_another_thing_tomorrow() -> None:
    """Packages by their hashes, also those that only build others; the base image by its digest, or not at all."""
    installs = [word for step in arguments("RUN") for word in re.findall(r"pip install [^&]*", step)]
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or "--no-deps --no-build-isolation /opt/plca/source" in command
    (builds, packages, _own) = installs
    (builders,) = re.findall(r"\^\(([\w|]+)\)==", " ".join(STEPS))
    assert pinned().keys() >= set(builders.split("|")) == {"setuptools", "pybind11"}
    assert "--no-build-isolation" in packages
    assert "build.txt" in builds
    assert arguments("ARG") == ["BASE", "BASE"], "a default would be a tag"
    (check,) = [step for step in arguments("RUN") if "sha256:" in step]
    for base, status in (("nvidia/cuda:13.2.1-base", 1), (f"nvidia/cuda@sha256:{64 * 'a'}", 0)):
        done = subprocess.run(["sh", "-c", check], env={"BASE": base}, capture_output=True, text=True, check=False)
        assert done.returncode == status
        assert ("has no digest; give --build-arg BASE=" in done.stderr) == bool(status)


def test_what_is_copied_is_here_and_let_in() -> None:
    let_in = {
        line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    sources = [word for step in arguments("COPY") for word in step.split()[:-1] if not word.startswith("--")]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert source in let_in, f"{source} does not reach the build"


def test_it_is_not_root_and_its_user_is_the_pods() -> None:
    (user,) = arguments("USER")
    assert STEPS.index(f"USER {user}") > max(STEPS.index(f"COPY {step}") for step in arguments("COPY"))
    uid, gid = map(int, user.split(":"))
    assert uid > 0
    for directory in RAY:
        for pod in pods(ray_object(directory)):
            assert (pod.spec["securityContext"]["runAsUser"], pod.spec["securityContext"]["runAsGroup"]) == (uid, gid)


def test_the_spaces_are_installed_with_the_package() -> None:
    copied = {step.split()[0]: step.split()[-1] for step in arguments("COPY")}
    assert Path(copied["tune_spaces"]) == Path(copied["plca_dist"]).with_name("tune_spaces")


def test_pods_work_in_the_images_directory() -> None:
    (home,) = arguments("WORKDIR")
    for directory in RAY:
        for pod in pods(ray_object(directory)):
            if pod.role != "submitter":
                assert pod.main["workingDir"] == home


def test_pods_ask_for_the_ray_of_the_image() -> None:
    for directory in RAY:
        item = ray_object(directory)
        cluster = item["spec"].get("rayClusterSpec", item["spec"])
        assert Version(cluster["rayVersion"]) == pinned()["ray"]


def test_the_tag_is_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for directory in RAY:
        assert {pod.main["image"].rpartition(":")[2] for pod in pods(ray_object(directory))} == {version}


def test_the_operators_probes_find_their_program() -> None:
    """They run wget in bash; a liveness probe without it kills every pod in turn."""
    (installed,) = [step for step in arguments("RUN") if "apt-get install" in step]
    assert {"wget", "bash", "gcc", "python3-dev"} <= set(installed.split())
