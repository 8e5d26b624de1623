"""Fixtures that all tests share, and which tests run beside each other."""

import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch and ray are imported anywhere: one thread a process on two cores, no GPU for DeepSpeed, and a token for
# clusters of tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"DS_ACCELERATOR": "cpu", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

import torch

from benchmarks.servers import azurite
from benchmarks.servers import gcs as google
from benchmarks.servers.seaweed import S3, s3_environment, serving
from tests.clock import Clock
from tests.environment import set_all
from tests.programs import unavailable

# Under nohup, or in the background of a script, these would be ignored, also by all that tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():
    # Kernels run in Triton's interpreter, which is chosen while triton is imported: torchvision does that.
    os.environ["TRITON_INTERPRET"] = "1"

#: Fixtures that start clusters: one Ray cluster, one Slurm.
_CLUSTERS = {"ray_session", "slurm"}
#: Where tests use them, or start clusters of their own.
_ON_CLUSTERS = (
    "tests/distributed/", "tests/docs/", "tests/doctor/test_nodes.py", "tests/kuberay/test_job.py",
    "tests/ray_cluster/test_abandoned.py", "tests/ray_cluster/test_local.py",
    "tests/run/test_prometheus.py", "tests/slurm/",
)  # fmt: skip
#: Of Ray's worker processes. With less, the other process takes a whole core from the training on clusters.
_RAYS_NICENESS = 15


def _group(nodeid: str) -> str:
    """Tests of one group run in one process, one after the other: those on clusters, or those of one other file."""
    file = nodeid.partition("::")[0]
    return "clusters" if file.startswith(_ON_CLUSTERS) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How `make test` shares the tests among its processes: by the groups above, in the order of the collection."""
    from xdist.scheduler import LoadFileScheduling

    class ByGroup(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return ByGroup(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Under `make test` the tests beside the clusters step back to the niceness that Ray gives its workers."""
    if "PYTEST_XDIST_WORKER" in os.environ and _group(item.nodeid) != "clusters":
        os.nice(max(_RAYS_NICENESS - os.nice(0), 0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests on clusters first, which take longest, and let them take longer where the cores are shared."""
    for item in items:
        if _group(item.nodeid) == "clusters" and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))
        used = _CLUSTERS & set(getattr(item, "fixturenames", ()))
        alone = item.get_closest_marker("slow") or item.get_closest_marker("ci")
        if used and _group(item.nodeid) != "clusters" and not alone:
            raise pytest.UsageError(f"{item.nodeid} uses {used.pop()}: name its file in _ON_CLUSTERS, {__file__}")
    items.sort(key=lambda item: _group(item.nodeid) != "clusters")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """SeaweedFS with one bucket. Each process that runs tests has its own, on free ports."""
    with serving(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server, with its address and credentials in the usual AWS variables."""
    set_all(monkeypatch, s3_environment(s3_server))
    return s3_server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[azurite.Azure]:
    """Azurite with one container."""
    if reason := azurite.missing():
        unavailable(reason, "PLCA_TESTS_AZURE")
    with azurite.serving(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture
def azure(azure_server: azurite.Azure, monkeypatch: pytest.MonkeyPatch) -> azurite.Azure:
    """Azurite, with its address and key in the variables that adlfs reads."""
    set_all(monkeypatch, azurite.azure_environment(azure_server))
    return azure_server


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[google.GCS]:
    """An emulator of Google Cloud Storage with one bucket."""
    with google.serving(tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture
def gcs(gcs_server: google.GCS, monkeypatch: pytest.MonkeyPatch) -> google.GCS:
    """The emulator, with its address in the variables that gcsfs reads."""
    set_all(monkeypatch, google.gcs_environment(gcs_server))
    return gcs_server


@pytest.fixture(scope="session")
def toytown_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of drawn scenes of 32 x 64: `source` and `target` of 24, `val` of 6."""
    from plca_dist.data.prepare import prepare_toytown
    from plca_dist.storage import resolve

    folder = tmp_path_factory.mktemp("toytown")
    prepare_toytown(resolve(str(folder)), size=(32, 64), count=24, progress=lambda what, done, total: None)
    return folder


@pytest.fixture(scope="session")
def withheld_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 3 drawn scenes of 32 x 64 whose labels are withheld: every pixel is ignored."""
    import dataclasses

    import numpy as np

    from plca_dist.data.datasets.toytown import ToytownReader
    from plca_dist.data.shards import write_shards
    from plca_dist.storage import resolve

    class Withheld(ToytownReader):
        def load(self, i: int):
            sample = super().load(i)
            return dataclasses.replace(sample, label=np.full_like(sample.label, 255))

    folder = tmp_path_factory.mktemp("withheld")
    write_shards(Withheld("target", 3, 0, 32, 64, labelled=True), resolve(str(folder)), with_labels=True)
    return folder


@pytest.fixture(scope="session")
def toytown_settings(toytown_shards: Path) -> list[str]:
    """Settings with which the shipped recipe `toytown` reads these shards."""
    uris = [f"{section}.uri={toytown_shards}/{section}" for section in ("source", "target")]
    return [*uris, f"evaluation.uri={toytown_shards}/val", "source.crop=[32, 64]", "target.crop=[32, 64]"]


@pytest.fixture(scope="session")
def ray_session(s3_server: S3, gcs_server: google.GCS, request: pytest.FixtureRequest) -> Iterator[S3]:
    """One local Ray cluster, started as `plca train` starts its own.

    Every process of it can reach the servers of all clouds: it has the variables of when the cluster was started.
    """
    from plca_dist.config import ClusterSettings
    from plca_dist.ray_cluster.connect import connection

    with pytest.MonkeyPatch.context() as patch:
        variables = s3_environment(s3_server) | google.gcs_environment(gcs_server)
        if not azurite.missing():
            variables |= azurite.azure_environment(request.getfixturevalue("azure_server"))
        set_all(patch, variables)
        patch.delenv("RAY_ADDRESS", raising=False)
        with connection(ClusterSettings(workers=2), print):
            yield s3_server
