"""One Store for directories and buckets: the same calls, the same results, errors a person can act on."""

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from plca_dist.storage.s3 import filesystem

from benchmarks.servers.proxy import FaultyProxy
from benchmarks.servers.seaweed import S3
from plca_dist.errors import UserError
from plca_dist.storage import Location, Store, StoreAway, probe, resolve


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return resolve(str(tmp_path / "store"))
    server = request.getfixturevalue("s3")
    return probe(f"s3://{server.bucket}/{tmp_path.name}")


def test_what_is_written_is_read_listed_and_deleted(store: Store) -> None:
    store.write("a.bin", b"one")
    store.write("deep/er/b.bin", b"two")
    assert store.read("a.bin") == b"one"
    assert store.child("deep").read("er/b.bin") == b"two"
    assert [tuple(e) for e in store.list()] == [("a.bin", 3), ("deep/er/b.bin", 3)]
    assert [e.name for e in store.list("deep")] == ["deep/er/b.bin"]
    assert store.exists("a.bin")
    assert not store.exists("deep")
    store.write("a.bin", b"three")
    assert store.read("a.bin") == b"three"
    store.delete("a.bin")
    store.delete("a.bin")
    store.delete_tree("deep")
    store.delete_tree("deep")
    assert store.list() == []


def test_a_large_object_goes_up_and_down_in_parts(store: Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * (25 << 12)  # 25 MiB
    source = tmp_path / "source"
    source.write_bytes(data)
    store.upload(source, "large")
    store.download("large", tmp_path / "down" / "large")
    assert (tmp_path / "down" / "large").read_bytes() == data
    with store.open("large") as file:
        file.seek(1 << 20)
        assert file.read(4) == data[1 << 20 : (1 << 20) + 4]


def test_a_write_that_fails_leaves_what_was_there(store: Store) -> None:
    store.write("object", b"before")

    def interrupted() -> None:
        with store.writer("object") as stream:
            stream.write(b"half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.read("object") == b"before"
    assert [e.name for e in store.list()] == ["object"]


def test_a_missing_object_is_named(store: Store) -> None:
    with pytest.raises(UserError, match=r"nothing/here.*(no such object|does not exist)"):
        store.read("nothing/here")


@pytest.mark.parametrize(
    ("uri", "message"),
    [("gs://bucket/x", "scheme 'gs' is unknown"), ("s3:///x", "names no bucket"), ("file://host/x", "three slashes")],
)
def test_uris_that_lead_nowhere(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(uri)


def test_file_uri_and_path_are_the_same_place(tmp_path: Path) -> None:
    resolve(f"file://{tmp_path}").write("x", b"1")
    assert resolve(str(tmp_path)).read("x") == b"1"


@pytest.mark.usefixtures("s3")
class TestBadS3:
    def test_missing_bucket(self) -> None:
        with pytest.raises(UserError, match="no-such-bucket: the bucket does not exist; create it"):
            probe("s3://no-such-bucket/x")

    def test_wrong_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(UserError, match=r"AWS_SECRET_ACCESS_KEY|access is denied"):
            probe("s3://bucket/x")

    def test_unknown_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        with pytest.raises(UserError, match=r"AWS_ACCESS_KEY_ID|access is denied"):
            probe("s3://bucket/x")

    def test_no_server(self) -> None:
        with pytest.raises(UserError, match="endpoint does not answer"):
            probe(Location("s3://bucket/x", "http://127.0.0.1:9"))


def test_of_racing_creators_one_wins_and_its_bytes_stay(store: Store) -> None:
    start = threading.Barrier(16)

    def race(k: int) -> bool:
        start.wait()
        return store.create("deep/once", b"%d" % k)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert won.count(True) == 1
    assert store.read("deep/once") == b"%d" % won.index(True)
    assert [e.name for e in store.list()] == ["deep/once"]


def test_a_creator_whose_answer_was_lost_knows_its_own_object(store: Store) -> None:
    assert store.create("once", b"mine")
    assert store.create("once", b"mine")
    assert not store.create("once", b"theirs")


def test_creating_where_nothing_may_be_written_is_explained(s3: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match=r"s3://bucket/x/once: the secret key is wrong"):
        resolve("s3://bucket/x").create("once", b"1")


def test_a_store_that_stalls_is_waited_for_and_not_asked_twice(s3: S3) -> None:
    """Longer than the three seconds that arrow would wait by itself."""
    resolve("s3://bucket").write("stalled", b"late")
    with FaultyProxy(s3.endpoint) as proxy:
        proxy.stall, proxy.stall_s = 1.0, 4.0
        assert resolve(Location("s3://bucket", proxy.endpoint), patience_s=60).read("stalled") == b"late"
        assert proxy.requests == {"HEAD": 1, "GET": 1}
        assert proxy.faults["stall"] == 2


def test_a_request_that_stalls_for_too_long_is_given_up_and_asked_again(s3: S3) -> None:
    resolve("s3://bucket").write("stalled", b"at last")
    with FaultyProxy(s3.endpoint) as proxy:
        proxy.stall, proxy.stall_s = 1.0, 600.0
        hasty = filesystem(proxy.endpoint, attempts=1, request_timeout=1)
        patient = replace(resolve(Location("s3://bucket", proxy.endpoint), patience_s=60), filesystem=hasty)
        with pytest.raises(StoreAway, match=r"s3://bucket/stalled: the endpoint does not answer"):
            replace(patient, patience_s=0.0).read("stalled")
        asked = proxy.faults["stall"]
        threading.Timer(3, setattr, (proxy, "stall", 0.0)).start()
        began = time.monotonic()
        assert patient.read("stalled") == b"at last"
        assert 3 < time.monotonic() - began < 15
        assert proxy.faults["stall"] >= asked + 2


def test_a_listing_rides_out_the_making_of_its_directory(tmp_path: Path) -> None:
    """Launches that race for a lease list the directory that one of them makes."""
    found: list[BaseException] = []

    def look(store: Store, start: threading.Barrier) -> None:
        start.wait()
        try:
            for _ in range(5):
                store.list("lease")
        except UserError as error:
            found.append(error)

    for k in range(400):
        store, start = resolve(str(tmp_path / str(k))), threading.Barrier(3)
        lookers = [threading.Thread(target=look, args=(store, start)) for _ in range(2)]
        for thread in lookers:
            thread.start()
        start.wait()
        store.write("lease/00000001.json", b"x")
        for thread in lookers:
            thread.join()
    assert not found


def test_a_location_means_the_same_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general")
    runs, bucket = Location("runs"), Location("s3://bucket/runs", "http://mine")
    assert pickle.loads(pickle.dumps(runs.absolute())) == Location(f"{tmp_path}/runs", "http://general")
    assert bucket.absolute() == bucket
    assert bucket.with_uri("s3://bucket/data") == Location("s3://bucket/data", "http://mine")
