"""Joining or starting a cluster: what is refused, and a Ctrl-C that waits."""

import os
import signal
import socket
import time

import pytest
import ray

from plca_dist.config import ClusterSettings
from plca_dist.errors import UserError
from plca_dist.ray_cluster import connect as cluster
from plca_dist.ray_cluster import local


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """As if no Ray session ran, whatever other tests started; the arguments of every `ray.init` are listed."""
    started: list[dict[str, object]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return started


def connect(**wanted: object) -> None:
    with cluster.connection(ClusterSettings(**wanted), print):  # type: ignore[arg-type]
        pass


def test_an_address_where_nobody_listens_is_refused_soon(
    no_session: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        began = time.monotonic()
        with pytest.raises(UserError, match=f"RAY_ADDRESS={address}: cannot join .*unset it"):
            connect()
    assert time.monotonic() - began < 12
    assert not no_session


def test_what_ray_says_of_an_address_is_one_line(
    no_session: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise RuntimeError("Version mismatch:\n  much more")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UserError, match=r"RAY_ADDRESS=auto: .*\(Version mismatch:\)"):
        connect()


def test_gpus_that_are_not_here_are_refused_before_anything_starts(
    no_session: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_local_gpus", lambda: 1)
    with pytest.raises(UserError, match=r"cluster.workers is 2, but this machine has 1 GPU; set RAY_ADDRESS"):
        connect(workers=2, gpu=True)
    assert not no_session


def test_a_cluster_of_our_own_holds_the_workers_however_few_the_cores(no_session: list[dict[str, object]]) -> None:
    connect(workers=64, cpus_per_worker=2)
    (options,) = no_session
    assert options["address"] == "local"
    assert options["num_cpus"] == max(128, os.cpu_count() or 1)
    assert options["log_to_driver"] is False


def test_ctrl_c_waits_until_ray_has_started(
    no_session: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def init(**_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        events.append("started")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: events.append("shut down"))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), cluster.connection(ClusterSettings(), print):
        events.append("in use")
    assert events == ["started", "shut down"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_are_a_ctrl_c_while_connected(number: signal.Signals) -> None:
    former = signal.signal(number, signal.SIG_DFL)  # a handler of Ray's, where an earlier test has started it
    try:
        with pytest.raises(KeyboardInterrupt), cluster.connection(ClusterSettings(), print):
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, former)
