"""What `plca doctor --cluster` says of nodes that are not as they should be."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from benchmarks.servers.seaweed import S3
from plca_dist.cli import main
from plca_dist.data.png import WITHOUT_WUFFS
from plca_dist.doctor.nodes import Node, problems, summary
from plca_dist.storage import Location, resolve
from plca_dist.versions import installed

GIB = 2**30
NODE = Node("abc", "10.0.0.7 (abc)", cpus=8, gpus=0, object_store_bytes=2 * GIB, metrics="http://10.0.0.7:1/metrics")
WELL: dict[str, Any] = {
    "python": ".".join(map(str, sys.version_info[:3])), "versions": {"torch": "2.11.0", "ray": "2.60.0"}, "gpus": [],
    "gpus_problem": "", "wuffs": True, "shm_bytes": 4 * GIB, "store_problem": "", "metrics": True,
}  # fmt: skip
WELL["versions"]["plca-dist"] = "0.1.0"
GPUS = NODE._replace(gpus=2)
TWO = {"gpus": ["H100", "H100"]}


def found(node: Node = NODE, *, gpu: bool = False, **answer: Any) -> list[str]:
    return problems(node, WELL | answer, WELL["versions"], gpu=gpu)


def test_a_node_as_it_should_be_has_no_problem() -> None:
    assert found() == []
    assert found(GPUS, gpu=True, **TWO) == []
    assert found(NODE._replace(cpus=0), gpu=True) == [], "a head that takes no workers needs no GPU"
    assert found(shm_bytes=None) == []
    builds = {**WELL["versions"], "torch": "2.11.0+cpu"}
    assert found(versions=builds) == [], "the driver needs no CUDA build"
    line = summary(GPUS, WELL | TWO, "s3://bucket/runs")
    assert "torch 2.11.0" in line
    assert "H100, H100; /dev/shm 4.0 GiB, object store 2.0 GiB; reaches s3://bucket/runs; metrics at http" in line
    assert "reaches" not in summary(NODE, WELL, None)
    assert "PNGs by Wuffs; 8 CPUs" in line
    assert "PNGs by Pillow; 8 CPUs" in summary(NODE, WELL | {"wuffs": False}, None)


@pytest.mark.parametrize(
    ("node", "answer", "said"),
    [
        (NODE, {"python": "3.9.1"}, "Python 3.9.1 there, 3."),
        (NODE, {"versions": WELL["versions"] | {"torch": "2.12.0"}}, "torch 2.12.0 there, 2.11.0 here; install"),
        (NODE, {"versions": WELL["versions"] | {"ray": None}}, "ray is not installed; install ray==2.60.0 in"),
        (GPUS, {"gpus": ["H100"]}, "Ray offers 2 GPUs and torch sees 1; check the driver"),
        (GPUS, {"gpus_problem": "torch could not list its GPUs (exit code 1: no)"}, "exit code 1: no); check its CUDA"),
        (NODE, TWO, "has 2 GPUs of which Ray offers none; start Ray there with --num-gpus"),
        (NODE, {"shm_bytes": 64 << 20}, "/dev/shm holds 64 MiB, and Ray's object store wants 2.0 GiB; enlarge it"),
        (GPUS, TWO | {"shm_bytes": 2 * GIB}, "/dev/shm holds 2.0 GiB, and Ray's object store and NCCL want 2.2 GiB"),
        (NODE, {"store_problem": "s3://bucket: access denied; check"}, "store: s3://bucket: access denied; check."),
    ],
)  # fmt: skip
def test_every_problem_is_a_line_with_its_fix(node: Node, answer: dict[str, Any], said: str) -> None:
    (line,) = found(node, **answer)
    assert said in line
    assert line.endswith(".")


def test_a_worker_node_without_a_gpu_is_a_problem_where_gpus_are_wanted() -> None:
    (line,) = found(gpu=True)
    assert line.startswith("no GPU; workers with cluster.gpu=true cannot run there.")


def test_a_node_without_this_package_is_not_blamed_for_the_store() -> None:
    versions = WELL["versions"] | {"plca-dist": None}
    (line,) = found(versions=versions, store_problem="ModuleNotFoundError: No module named 'plca_dist'")
    assert line.startswith("plca-dist is not installed")


def test_a_package_that_is_missing_here_too_is_another_findings_business() -> None:
    versions = WELL["versions"] | {"ray": None}
    assert problems(NODE, WELL | {"versions": versions}, versions, gpu=False) == []


def test_a_cluster_out_of_reach_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # of the session that other tests share
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert main(["doctor", "--cluster"]) == 1
    out, err = capsys.readouterr()
    (failed,) = [line for line in out.splitlines() if not line.startswith("ok    ")]
    assert failed.startswith("FAIL  cluster: RAY_ADDRESS=127.0.0.1:9: cannot join a Ray cluster there")
    assert err == ""


def test_a_gpu_that_is_wanted_and_not_here_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from plca_dist.doctor import examine as doctor

    monkeypatch.setattr(doctor, "_ray", lambda: "not looked at")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bad = [f for f in doctor.examine(Location(str(tmp_path)), gpu=True) if not f.good]
    assert [f.what for f in bad] == ["CUDA"]
    assert bad[0].detail.startswith("no GPU here that torch can use")


@pytest.fixture
def cluster(s3: S3, tmp_path: Path) -> Iterator[Cluster]:
    """A head as it should be; a node with another torch, wrong credentials and a GPU that is not there."""
    other = tmp_path / "other" / "torch-1.2.3.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2.3\n")
    room = {"num_cpus": 1, "object_store_memory": 80 << 20, "dashboard_agent_listen_port": 0}
    made = Cluster(initialize_head=True, connect=False, head_node_args={**room, "include_dashboard": False})
    path = os.pathsep.join(filter(None, [str(other.parent), os.environ.get("PYTHONPATH")]))
    made.add_node(**room, num_gpus=1, env_vars={"PYTHONPATH": path, "AWS_SECRET_ACCESS_KEY": "wrong"})
    yield made
    made.shutdown()


@pytest.mark.usefixtures("ray_session")
def test_the_real_nodes_of_a_cluster_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "--cluster", "--storage", str(tmp_path / "not" / "yet")]) == 0
    *_, cluster, node = capsys.readouterr().out.splitlines()
    assert cluster.startswith("ok    cluster: started here: 1 node with ")
    assert node.startswith("ok    node ")
    for name, version in installed().items():
        assert f"{name} {version}" in node
    assert f"PNGs by {'Pillow' if WITHOUT_WUFFS else 'Wuffs'};" in node
    assert f"object store 128 MiB; reaches {tmp_path}/not/yet; metrics at http://" in node
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_real_nodes_that_differ_are_told_apart(cluster: Cluster, s3: S3) -> None:
    storage = f"s3://{s3.bucket}/doctor-nodes"
    done = subprocess.run(
        [sys.executable, "-m", "plca_dist.cli", "doctor", "--cluster", "--storage", storage],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "ok    cluster: at RAY_ADDRESS: 2 nodes with 2 CPUs and 1 GPU" in lines
    head, second = (n.node_id[:8] for n in (cluster.head_node, *cluster.worker_nodes))
    (well,) = [line for line in lines if f"({head})" in line]
    assert well.startswith("ok    node ")
    assert f"torch {installed()['torch']}" in well
    assert f"reaches {storage}" in well
    wrong = [line.partition(f"({second}): ")[2] for line in lines if f"({second})" in line and line.startswith("FAIL")]
    assert len(wrong) == 3
    assert wrong[0].startswith("torch 1.2.3 there, ")
    assert wrong[1].startswith("Ray offers 1 GPU and torch sees 0")
    assert "check AWS_SECRET_ACCESS_KEY" in wrong[2]
    assert resolve(storage).list() == []
