"""What a run remembers of its attempts, and that remembering never endangers it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from plca_dist.errors import LeaseLost, UserError
from plca_dist.run.history import Attempt, History, read_history
from plca_dist.run_files import HISTORY, attempt
from plca_dist.storage import Store, resolve

VERSIONS = {"torch": "2.11", "ray": None}


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return resolve(str(tmp_path))


def test_attempts_of_all_launches_are_kept_with_what_ended_them(run: Store) -> None:
    first = History(run, VERSIONS)
    first.begin(0, 4, 1)
    (on,) = read_history(run)
    assert (on.end, on.ended, on.reached) == ("", None, None), "a killed driver leaves it so"
    second = History(run, VERSIONS)
    second.begin(20, 2, 2)
    second.end("restarted", "ValueError: a bug", 35)
    second.begin(30, 2, 3)
    second.end("finished", reached=60)
    second.end("failed", "nothing is on", 70)
    read = read_history(run)
    assert [(a.launch, a.step, a.workers, a.reached, a.end, a.why) for a in read] == [
        (1, 0, 4, None, "", ""),
        (2, 20, 2, 35, "restarted", "ValueError: a bug"),
        (2, 30, 2, 60, "finished", ""),
    ]
    assert all(a.versions == VERSIONS for a in read)
    assert read[1].began <= (read[1].ended or 0) <= read[2].began
    assert (second.count("restarted"), second.count("preempted")) == (1, 0)


def test_who_lost_the_run_writes_nothing_more(run: Store) -> None:
    def lost() -> None:
        raise LeaseLost("another launch took over")

    zombie = History(replace(run, guard=lost), VERSIONS)
    zombie.begin(0, 1, 1)
    zombie.end("failed", "another launch took over", 3)
    assert run.list() == []


def test_a_store_that_is_away_does_not_end_the_run(
    run: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(run, VERSIONS)
    with monkeypatch.context() as away:

        def refuse(self: Store, name: str, data: bytes) -> None:
            raise UserError("the store is away")

        away.setattr(Store, "write", refuse)
        history.begin(0, 1, 1)
        history.end("restarted", "a bug", 3)
    assert history.count("restarted") == 1
    assert "history.json could not be written: the store is away" in caplog.text
    history.begin(2, 1, 2)
    assert [a.end for a in read_history(run)] == ["restarted", ""], "the next write holds it all"


UNVERSIONED = json.dumps([{"launch": 1, "began": 1.0, "step": 0, "workers": 2, "versions": None}]).encode()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"7", json.dumps([{"launch": 1, "new": 2}]).encode(), b"\xff", UNVERSIONED]
)
def test_a_damaged_history_is_passed_over_with_a_warning(
    content: bytes, run: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run.write(f"{attempt(1)}/{HISTORY}", content)
    history = History(run, VERSIONS)
    assert "history.json is damaged" in caplog.text
    history.begin(5, 1, 2)
    assert read_history(run) == [Attempt(1, read_history(run)[0].began, 5, 1, VERSIONS)]
