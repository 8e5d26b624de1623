"""One writer per run, whatever the writers do."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plca_dist.errors import LeaseLost, RunFailed, UserError
from plca_dist.run.lease import Lease, LeaseHeld, fenced, guarded, naming_the_loss
from plca_dist.storage import Store, probe, resolve

TTL = 1.5


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return resolve(str(tmp_path / "run"))
    server = request.getfixturevalue("s3")
    return probe(f"s3://{server.bucket}/{tmp_path.name}")


def silent(lease: Lease) -> None:
    """What a stopped or dead process does: it does not release, it just renews no more."""
    lease._end.set()
    lease._thread.join()


def test_of_racing_launches_one_gets_the_lease(run: Store) -> None:
    start = threading.Barrier(8)

    def race(_: int) -> Lease | str:
        start.wait()
        try:
            return Lease.acquire(run, ttl=4.0, say=lambda _: None)  # eight at once take time to renew
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(race, range(8)))
    (winner,) = [o for o in outcomes if isinstance(o, Lease)]
    assert winner.generation == 1
    assert not winner.lost
    winner.release()
    for message in outcomes:
        assert isinstance(message, Lease) or "is being written by" in message


def test_a_lease_is_renewed_while_its_holder_still_clears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of a large directory may take longer than a lease lives."""
    run = resolve(str(tmp_path))
    clearing, cleared = threading.Event(), threading.Event()

    def clear(_: Store) -> None:
        clearing.set()
        cleared.wait(10)

    monkeypatch.setattr("plca_dist.run.lease.clear_unfinished", clear)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(Lease.acquire, run, ttl=0.4, say=lambda _: None)
        clearing.wait(10)
        with pytest.raises(LeaseHeld):
            Lease.acquire(run, ttl=0.4, say=lambda _: None)
        cleared.set()
        with first.result() as lease:
            assert not lease.lost


def test_who_gets_the_lease_clears_what_earlier_writers_left_unfinished(
    run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared: list[tuple[str, str]] = []
    monkeypatch.setattr(Store, "clear_unfinished", lambda self, besides: cleared.append((self.uri, besides)))
    with Lease.acquire(run, ttl=TTL) as lease:
        lease.advance()
    assert cleared == [(run.uri, "lease")] * 2


def test_a_store_that_lets_nobody_see_uploads_is_said_and_no_obstacle(
    run: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def denied(self: Store, besides: str) -> None:
        raise UserError(f"{self.uri}: access is denied.")

    monkeypatch.setattr(Store, "clear_unfinished", denied)
    with Lease.acquire(run, ttl=TTL):
        pass
    assert "unfinished uploads of earlier writers, if there are any, stay" in caplog.text


def test_a_live_lease_is_waited_for_and_its_holder_named(run: Store) -> None:
    said: list[str] = []
    with Lease.acquire(run, ttl=TTL) as held:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"is being written by .*, process \d+, since 20.*one run has one writer"):
            Lease.acquire(run, ttl=TTL, say=said.append)
        assert TTL < time.monotonic() - began < 3 * TTL
        assert not held.lost
    assert len(said) == 1


def test_a_lease_that_is_renewed_no_more_is_taken_over_and_fences_its_old_holder(run: Store) -> None:
    zombie = Lease.acquire(run, ttl=TTL)
    silent(zombie)
    began = time.monotonic()
    with Lease.acquire(run, ttl=TTL, say=lambda _: None) as heir:
        assert time.monotonic() - began > TTL
        assert heir.generation == zombie.generation + 1
        assert fenced(run, zombie.generation)
        assert not fenced(run, heir.generation)
        zombie._write(beat=99)  # it wakes up
        assert zombie.lost
        assert not heir.lost
        zombie.release()
    assert [e.name for e in run.list("lease")] == ["lease/00000002.json"]


def test_a_holder_notices_by_itself_that_it_was_fenced(run: Store) -> None:
    with Lease.acquire(run, ttl=TTL) as held:
        assert run.create(f"lease/{held.generation + 1:08d}.json", b"{}")
        deadline = time.monotonic() + 5 * TTL
        while not held.lost and time.monotonic() < deadline:
            time.sleep(0.02)
        assert held.lost


def test_a_released_lease_is_free_at_once(run: Store) -> None:
    with Lease.acquire(run, ttl=30):
        pass
    began = time.monotonic()
    with Lease.acquire(run, ttl=30) as second:
        assert second.generation == 2
    assert time.monotonic() - began < 5


def test_a_holder_that_ends_while_it_is_waited_for_hands_over(run: Store) -> None:
    held = Lease.acquire(run, ttl=8)
    threading.Timer(0.5, held.release).start()
    began = time.monotonic()
    with Lease.acquire(run, ttl=8, say=lambda _: None):
        assert time.monotonic() - began < 7


def test_damage_is_taken_over_like_silence(run: Store) -> None:
    run.write("lease/00000007.json", b"\x00not json")
    with Lease.acquire(run, ttl=TTL, say=lambda _: None) as lease:
        assert lease.generation == 8


def test_a_holder_advances_and_fences_what_it_started_before(run: Store) -> None:
    with Lease.acquire(run, ttl=TTL) as held:
        worker = guarded(run, held.generation)
        worker.write("early", b"")
        assert held.advance() == held.generation == 2
        held.store.write("file", b"")
        time.sleep(2 * TTL)  # it is renewed under its new number
        assert not held.lost
        for change in (
            lambda: worker.write("late", b""),
            lambda: worker.create("late", b""),
            lambda: worker.delete("file"),
            lambda: worker.delete_tree("lease"),
            lambda: worker.upload(Path(run.root) / "file", "late"),
            lambda: worker.child("folder").write("late", b""),
        ):
            with pytest.raises(LeaseLost, match="another launch has taken"):
                change()
        with pytest.raises(LeaseLost), worker.writer("late") as file:
            file.write(b"late")
    assert sorted(e.name for e in run.list()) == ["early", "file", "lease/00000002.json"]


def test_a_holder_whose_generation_was_written_by_another_stops(run: Store) -> None:
    """On a store that creates twice, both writers hold the same generation."""
    with Lease.acquire(run, ttl=TTL) as held:
        run.write("lease/00000001.json", b'{"token": "another"}')
        deadline = time.monotonic() + 5 * TTL
        while not held.lost and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(LeaseLost):
            held.store.write("file", b"")
    assert run.read("lease/00000001.json") == b'{"token": "another"}'


def test_what_goes_wrong_after_a_takeover_is_called_by_its_reason(run: Store) -> None:
    with Lease.acquire(run, ttl=TTL) as held:
        with pytest.raises(ZeroDivisionError), naming_the_loss(held):
            raise ZeroDivisionError
        run.create("lease/00000002.json", b"{}")
        with pytest.raises(RunFailed, match="another launch has taken"), naming_the_loss(held):
            raise ZeroDivisionError
