"""Fixtures that all tests share, and which tests run beside each other."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch and ray are imported anywhere: one thread a process on two cores, and what ray_cluster/ would set.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import torch

from benchmarks.servers.seaweed import S3, s3_environment, serving
from tests.clock import Clock

if not torch.cuda.is_available():
    # Kernels run in Triton's interpreter, which is chosen while triton is imported: torchvision does that.
    os.environ["TRITON_INTERPRET"] = "1"

#: Fixtures that start clusters. Tests with one of them share the clusters, so they run in one process.
_CLUSTERS = {"ray_session", "slurm"}
#: Groups of tests that start first, because they take longest.
_FIRST = ("clusters", "distributed/test_ranks")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Group tests for `pytest --dist loadgroup`, as `make test` runs them.

    The tests of a group run in one process, one after the other: those on clusters are one group, and so is each file.
    """
    if not config.getoption("loadgroup", False):  # pytest-xdist sets it in the processes that run tests
        return
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: _FIRST.index(groups[item]) if groups[item] in _FIRST else len(_FIRST))


def _group(item: pytest.Item) -> str:
    if _CLUSTERS & set(getattr(item, "fixturenames", ())):
        return "clusters"
    return item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix()


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
    for name, value in s3_environment(s3_server).items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="session")
def toytown_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of drawn scenes of 32 x 64: `source` and `target` of 24, `val` of 6."""
    from plca_dist.data.prepare import prepare_toytown
    from plca_dist.storage import resolve

    folder = tmp_path_factory.mktemp("toytown")
    prepare_toytown(resolve(str(folder)), size=(32, 64), count=24, progress=lambda what, done, total: None)
    return folder


@pytest.fixture(scope="session")
def toytown_settings(toytown_shards: Path) -> list[str]:
    """Settings with which the shipped recipe `toytown` reads these shards."""
    uris = [f"{section}.uri={toytown_shards}/{section}" for section in ("source", "target")]
    return [*uris, f"evaluation.uri={toytown_shards}/val", "source.crop=[32, 64]", "target.crop=[32, 64]"]


@pytest.fixture(scope="session")
def ray_session(s3_server: S3) -> Iterator[S3]:
    """One local Ray cluster, started as `plca train` starts its own; every process of it can reach the S3 server."""
    from plca_dist.config import ClusterSettings
    from plca_dist.ray_cluster.connect import connection

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(s3_server).items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        with connection(ClusterSettings(workers=2), print):
            yield s3_server
