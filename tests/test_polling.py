"""A polling thread is ended by nothing but its block."""

import logging
import time
from collections.abc import Callable
from threading import Event

import pytest

from plca_dist.polling import polling, start_polling


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_tasks_are_called_in_turn_until_the_block_ends() -> None:
    calls: list[str] = []
    with polling("test", 0.005, lambda: calls.append("a"), lambda: calls.append("b")):
        wait_for(lambda: len(calls) >= 6)
    assert calls[:6] == ["a", "b"] * 3
    done = len(calls)
    time.sleep(0.05)
    assert len(calls) == done


@pytest.mark.parametrize("error", [AttributeError("no such attribute"), OSError("the store is away\nmore")])
def test_an_error_ends_neither_the_thread_nor_the_other_tasks_and_is_told_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def fail() -> None:
        calls.append("failed")
        raise error

    with caplog.at_level(logging.WARNING), polling("watch", 0.005, fail, lambda: calls.append("next")):
        wait_for(lambda: calls.count("next") >= 3)
    assert calls[:6] == ["failed", "next"] * 3
    (warning,) = caplog.messages
    assert warning == f"watch: {type(error).__name__}: {str(error).splitlines()[0]}"


def test_a_warning_that_cannot_be_shown_does_not_end_it_either() -> None:
    class Closed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise BrokenPipeError

    handler, logger, calls = Closed(), logging.getLogger("plca_dist"), list[int]()

    def fail() -> None:
        calls.append(len(calls))
        raise ValueError(f"number {len(calls)}")

    logger.addHandler(handler)
    try:
        with polling("test", 0.005, fail):
            wait_for(lambda: len(calls) >= 3)
    finally:
        logger.removeHandler(handler)


def test_the_block_waits_for_a_task_under_way() -> None:
    entered, ended = Event(), Event()

    def slow() -> None:
        entered.set()
        time.sleep(0.1)
        ended.set()

    with polling("test", 0.005, slow):
        assert entered.wait(10)
    assert ended.is_set()


def test_without_a_block_it_ends_when_it_should() -> None:
    calls: list[int] = []
    thread = start_polling("test", 0.005, lambda: calls.append(1), until=lambda: len(calls) >= 3)
    thread.join(10)
    assert not thread.is_alive()
    assert len(calls) == 3
    assert thread.daemon
