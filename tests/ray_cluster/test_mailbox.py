"""Where workers are is known while an attempt is on, and at no other time."""

import pickle
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from plca_dist.messages import Message, TrialEvent
from plca_dist.ray_cluster import mailbox as under_test
from plca_dist.ray_cluster.mailbox import Left, Mailbox, WorkerPlace

PLACE = WorkerPlace("node", "actor")


class Remote:
    """A method of an actor that answers at once, in this process."""

    def __init__(self, method: Any) -> None:
        self.remote = method


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The mailbox's actor, without a cluster."""
    inner = under_test._Actor()
    names = ("put", "begin", "arrive", "leave", "reason", "exchange")
    monkeypatch.setattr(ray, "get", lambda answer, timeout=None: answer)
    return SimpleNamespace(**{name: Remote(getattr(inner, name)) for name in names})


@pytest.fixture
def mailbox(actor: SimpleNamespace) -> Mailbox:
    return Mailbox(actor, lambda event: None, lambda: None)


def test_between_attempts_no_worker_trains(mailbox: Mailbox, actor: SimpleNamespace) -> None:
    """The actor still has the workers of the last attempt, and the thread asks it again and again."""
    attempt = mailbox.begin()
    actor.arrive.remote(attempt, 0, PLACE)
    mailbox.exchange()
    assert mailbox.places == {0: PLACE}
    mailbox.end()
    mailbox.exchange()
    assert mailbox.places == {}, "a signal now would be taken for one that workers follow"


def test_a_worker_of_an_earlier_attempt_changes_nothing(mailbox: Mailbox, actor: SimpleNamespace) -> None:
    first = mailbox.begin()
    mailbox.end()
    second = mailbox.begin()
    actor.arrive.remote(first, 0, PLACE)
    actor.leave.remote(first, 20)
    mailbox.exchange()
    assert (mailbox.places, mailbox.left) == ({}, None)
    actor.arrive.remote(second, 1, PLACE)
    actor.leave.remote(second, 30)
    mailbox.exchange()
    assert mailbox.places == {1: PLACE}
    assert isinstance(mailbox.left, Left)
    assert mailbox.left.step == 30


def test_what_workers_left_in_their_last_moment_counts(mailbox: Mailbox, actor: SimpleNamespace) -> None:
    attempt = mailbox.begin()
    actor.leave.remote(attempt, 40)
    mailbox.end()
    assert mailbox.left
    assert mailbox.left.step == 40


def test_the_reason_to_leave_goes_to_the_workers_though_nothing_can_be_shown(actor: SimpleNamespace) -> None:
    shown: list[object] = []

    def closed(event: object) -> None:
        shown.append(event)
        if event != "the last":
            raise BrokenPipeError

    broken = Mailbox(actor, closed, lambda: "SIGTERM")
    broken.begin()
    for event in ("a record", "another", "the last"):
        actor.put.remote(event)
    broken.exchange()
    assert actor.reason.remote() == "SIGTERM"
    assert shown == []
    broken.show()
    assert shown == ["a record", "another", "the last"]


def test_events_of_trials_bring_nothing_heavy_into_the_mailboxs_process() -> None:
    """While it imported torch it would answer nobody, for seconds."""
    event = pickle.dumps(TrialEvent("trial-000", Message("died", "OSError: no space")))
    code = f"import pickle, sys; pickle.loads({event!r}); print({{'torch', 'ray'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
