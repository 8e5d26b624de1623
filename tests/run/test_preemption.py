"""Signals to the driver: the first asks for a checkpoint, a second one hurries, and none disturbs the way out."""

import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from plca_dist.run.preemption import SIGNALS, StopRequests, signals


@pytest.fixture
def driver() -> Iterator[SimpleNamespace]:
    """A driver that is told of signals as `train` is; `workers` says whether any train."""
    state = SimpleNamespace(stop_requests=StopRequests(), workers=True)
    with signals(state.stop_requests), signals(state.stop_requests, training=lambda: state.workers):
        yield state


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGUSR2])
def test_a_second_signal_does_not_wait_for_the_checkpoint(driver: SimpleNamespace, second: signal.Signals) -> None:
    signal.raise_signal(signal.SIGTERM)
    first = driver.stop_requests.current
    assert first.final
    assert first.reason == "SIGTERM"
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(second)
    assert driver.stop_requests.current is first, "the checkpoint is timed from the first"
    assert not driver.stop_requests.leave_at_once, "it is a Ctrl-C, and no preemption that was followed"


def test_a_terminal_that_is_gone_is_told_of_twice(driver: SimpleNamespace) -> None:
    signal.raise_signal(signal.SIGHUP)
    first = driver.stop_requests.current
    assert (first.reason, first.final) == ("SIGHUP", True)
    signal.raise_signal(signal.SIGHUP)
    assert driver.stop_requests.current is first


def test_what_is_ignored_stays_ignored() -> None:
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        requests = StopRequests()
        with signals(requests, training=lambda: True):
            signal.raise_signal(signal.SIGHUP)
        assert requests.current is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_is_a_ctrl_c_also_where_the_workers_have_left(driver: SimpleNamespace) -> None:
    signal.raise_signal(signal.SIGTERM)
    driver.workers = False
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert not driver.stop_requests.leave_at_once


@pytest.mark.parametrize("workers", [True, False])
def test_no_signal_disturbs_the_way_out(driver: SimpleNamespace, workers: bool) -> None:
    signal.raise_signal(signal.SIGUSR2)
    driver.workers, driver.stop_requests.is_leaving = workers, True
    for number in SIGNALS:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            pytest.fail(f"{number.name} cuts the way out short")
    assert driver.stop_requests.reason == "SIGUSR2"
    assert not driver.stop_requests.leave_at_once


def test_without_workers_there_is_nothing_to_wait_for(driver: SimpleNamespace) -> None:
    driver.workers = False
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGUSR2)
    assert driver.stop_requests.leave_at_once
    assert driver.stop_requests.reason == "SIGUSR2"


def test_a_signal_after_another_notice_is_still_the_first(driver: SimpleNamespace) -> None:
    """A drain is followed by staying where the cluster can; a signal is not, and stays in force."""
    driver.stop_requests.give("drain", "node 1234 drains")
    signal.raise_signal(signal.SIGTERM)
    driver.stop_requests.give("grew", "the cluster grew")
    driver.stop_requests.withdraw()
    assert driver.stop_requests.reason == "SIGTERM"
    assert driver.stop_requests.current.final


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyboardInterrupt), signals(StopRequests()):
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before
