"""One Store for directories and buckets: the same calls, the same results, errors a person can act on."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.servers.proxy import FaultyProxy
from benchmarks.servers.seaweed import S3
from plca_dist.errors import UserError
from plca_dist.storage import Location, Store, local_files, probe, resolve
from tests.storage.clouds import CLOUDS, in_cloud


@pytest.fixture(params=["local", *CLOUDS])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return resolve(str(tmp_path / "store"))
    return probe(f"{in_cloud(request)}/{tmp_path.name}")


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
    assert store.size("large") == len(data)
    assert store.read_range("large", 1 << 20, (1 << 20) + 4) == data[1 << 20 : (1 << 20) + 4]
    assert store.read_range("large", len(data) - 2, len(data) + 9) == data[-2:]


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


def test_what_killed_writers_left_below_a_directory_is_cleared(store: Store) -> None:
    """S3 keeps the parts of an upload until it is completed or aborted, and lists no object for them."""
    mine = store.child("mine")
    mine.write("whole", b"stays")
    left = {f"{where}/{name}" for where in ("mine", "mine2") for name in ("deep/upload", "lease/upload")}
    for name in left:
        _leave_unfinished(store, name)
    mine.clear_unfinished(besides="lease")
    assert mine.read("whole") == b"stays"
    if store.local or store.uri.startswith("s3"):
        assert _unfinished(store, left) == left - {"mine/deep/upload"}
        mine.clear_unfinished(besides="none")
        assert _unfinished(store, left) == {name for name in left if name.startswith("mine2/")}


def _leave_unfinished(store: Store, name: str) -> None:
    if store.local:
        store.write(f"{name}{local_files.PARTIAL}", b"half of")
    elif store.uri.startswith("s3"):
        bucket, _, root = store.root.partition("/")
        s3 = store.files._fs.call_s3
        upload = s3("create_multipart_upload", Bucket=bucket, Key=f"{root}/{name}")["UploadId"]
        s3("upload_part", Bucket=bucket, Key=f"{root}/{name}", UploadId=upload, PartNumber=1, Body=bytes(5 << 20))


def _unfinished(store: Store, names: set[str]) -> set[str]:
    if store.local:
        return {name for name in names if Path(f"{store.root}/{name}{local_files.PARTIAL}").exists()}
    return {path.removeprefix(f"{store.root}/") for path, _ in store.files._fs.unfinished(store.root)}


def test_a_missing_object_is_named(store: Store) -> None:
    with pytest.raises(UserError, match=r"nothing/here.*(no such object|does not exist)"):
        store.read("nothing/here")


#: Each means itself. Some would be a pattern, a query, a fragment, an escape or a version to a URL parser or to fsspec.
NAMES = [
    "a b", "a+b", "a#b", "a?b", "a%20b", "a%2Fb", "[a-b]*", "a*", "b?", "c#", "a?versionId=1", "a?versionid=1",
    "a#1", "ä/é", "a@b", "a:b", "a&b=c", "a~", "{a}",
]  # fmt: skip


def test_every_name_means_itself(store: Store) -> None:
    for k, name in enumerate(NAMES):
        store.write(name, str(k).encode())
        store.write(f"{name}-/x", b"within")
    for k, name in enumerate(NAMES):
        assert store.read(name) == str(k).encode(), name
        assert store.size(name) == len(str(k)), name
    assert {e.name for e in store.list()} == {*NAMES, *(f"{name}-/x" for name in NAMES)}
    left = set(NAMES)
    for name in NAMES:
        store.delete(name)
        left.remove(name)
        assert [e.name for e in store.list(f"{name}-")] == [f"{name}-/x"]
        assert {e.name for e in store.list() if not e.name.endswith("/x")} == left, name
    store.delete_tree("[a-b]*-")
    assert {e.name for e in store.list()} == {f"{name}-/x" for name in NAMES} - {"[a-b]*-/x"}


@pytest.mark.parametrize("cloud", ["gcs", "azure"], indirect=True)
def test_an_empty_part_of_a_key_means_itself(cloud: str, tmp_path: Path) -> None:
    with_empty, without = resolve(f"{cloud}//{tmp_path.name}//x"), resolve(f"{cloud}/{tmp_path.name}/x")
    with_empty.write("a", b"with")
    without.write("a", b"without")
    assert (with_empty.read("a"), without.read("a")) == (b"with", b"without")
    assert [e.name for e in with_empty.list()] == [e.name for e in without.list()] == ["a"]


def test_an_empty_part_of_a_key_is_asked_for_as_it_is(s3: S3) -> None:
    """SeaweedFS would leave it out: it keeps objects in directories of its own."""
    with FaultyProxy(s3.endpoint) as proxy:
        store = resolve(Location("s3://bucket//empty//x", proxy.endpoint))
        store.write("a", b"1")
        store.read("a")
        assert list(proxy.read) == ["/bucket//empty//x/a"]


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
