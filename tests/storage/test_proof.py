"""A store that does not keep what runs rely on is refused by name."""

from collections.abc import Callable

import pytest

from benchmarks.servers.gcs import GCS
from plca_dist.doctor.examine import examine
from plca_dist.errors import UserError
from plca_dist.run.lease import Lease
from plca_dist.storage import Location, Store, probe, prove_created_once, resolve


def test_every_cloud_creates_once(cloud: str) -> None:
    store = probe(f"{cloud}/proof")
    assert store.create("folder/once", b"mine")
    prove_created_once(store, "folder/once", b"mine")
    assert store.read("folder/once") == b"mine"
    with Lease.acquire(store.child("run"), ttl=1.0) as lease:
        assert lease.generation == 1


@pytest.fixture
def careless(gcs: GCS, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of a store that overwrites in spite of the condition."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.plain_endpoint)
    return "gs://bucket/careless"


def test_a_store_without_conditional_writes_gives_no_lease(careless: str) -> None:
    store = resolve(careless)
    with pytest.raises(UserError, match=r"gs://bucket/careless: the store has no create-only-once writes"):
        Lease.acquire(store)
    assert store.list() == []


def test_the_doctor_names_it(careless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for check in ("_python", "_torch", "_cuda", "_deepspeed", "_ray"):
        monkeypatch.setattr(f"plca_dist.doctor.examine.{check}", lambda *_, **__: "not asked")
    findings = {f.what: f for f in examine(Location(careless))}
    assert not findings["store"].good
    assert "has no create-only-once writes" in findings["store"].detail
    assert resolve(careless).list() == []


def test_a_listing_that_lags_is_named(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = resolve(f"{cloud}/lags")
    store.create("once", b"mine")
    listed: Callable[..., object] = lambda self, prefix="": []  # noqa: E731
    monkeypatch.setattr(Store, "list", listed)
    with pytest.raises(UserError, match="does not list once, which was just written"):
        prove_created_once(store, "once", b"mine")
