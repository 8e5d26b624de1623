"""Signals to the driver: the first asks for a checkpoint, a second one hurries, and none disturbs the way out."""

import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from plca_dist.launch.preemption import SIGNALS, Notices, signals


@pytest.fixture
def driver() -> Iterator[SimpleNamespace]:
    """A driver that is told of signals as `train` is; `workers` says whether any train."""
    state = SimpleNamespace(notices=Notices(), workers=True)
    with signals(state.notices), signals(state.notices, training=lambda: state.workers):
        yield state


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_does_not_wait_for_the_checkpoint(driver: SimpleNamespace, second: signal.Signals) -> None:
    signal.raise_signal(signal.SIGTERM)
    first = driver.notices.current
    assert first.final
    assert first.reason == "SIGTERM"
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(second)
    assert driver.notices.current is first, "the checkpoint is timed from the first"
    assert not driver.notices.leaving, "it is a Ctrl-C, and no preemption that was followed"


def test_a_second_signal_is_a_ctrl_c_also_where_the_workers_have_left(driver: SimpleNamespace) -> None:
    signal.raise_signal(signal.SIGTERM)
    driver.workers = False
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert not driver.notices.leaving


@pytest.mark.parametrize("workers", [True, False])
def test_no_signal_disturbs_the_way_out(driver: SimpleNamespace, workers: bool) -> None:
    signal.raise_signal(signal.SIGUSR2)
    driver.workers, driver.notices.followed = workers, True
    for number in SIGNALS:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            pytest.fail(f"{number.name} cuts the way out short")
    assert driver.notices.reason == "SIGUSR2"
    assert not driver.notices.leaving


def test_without_workers_there_is_nothing_to_wait_for(driver: SimpleNamespace) -> None:
    driver.workers = False
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGUSR2)
    assert driver.notices.leaving
    assert driver.notices.reason == "SIGUSR2"


def test_a_signal_after_another_notice_is_still_the_first(driver: SimpleNamespace) -> None:
    """A drain is followed by staying where the cluster can; a signal is not, and stays in force."""
    driver.notices.give("node 1234 drains")
    signal.raise_signal(signal.SIGTERM)
    driver.notices.give("the cluster grew")
    driver.notices.withdraw()
    assert driver.notices.reason == "SIGTERM"
    assert driver.notices.current.final


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyboardInterrupt), signals(Notices()):
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before
