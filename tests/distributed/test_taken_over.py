"""Every process of a run is stopped, another launch takes the run over and finishes it, and the first ones wake up."""

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest

from plca_dist.run.directory import Run


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_a_run_that_was_asleep_changes_nothing_that_its_heir_wrote(
    undisturbed: Run, runs: Any, driver: Callable[[list[str]], Any]
) -> None:
    arguments = runs.command("asleep")
    first = driver(arguments)
    first.read_until("checkpoint step")
    everything = [psutil.Process(first.process.pid), *psutil.Process(first.process.pid).children(recursive=True)]
    try:
        for process in everything:
            process.send_signal(signal.SIGSTOP)
        heir = driver(arguments)
        assert heir.end() == 0, heir.lines
        before = {e.name: runs.store.read(e.name) for e in runs.store.list("asleep")}
    finally:
        for process in everything:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
    assert first.end() == 1, first.lines
    assert "another launch has taken" in first.lines[-1]
    assert not any("Traceback" in line for line in first.lines)
    after = {e.name: runs.store.read(e.name) for e in runs.store.list("asleep")}
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert all(_is_of_the_first_attempt(name) for name in changed), changed
    assert not {name for name in changed & set(before) if "/checkpoints/" in name}
    assert runs.weights("asleep") == runs.weights("undisturbed")
    assert runs.recorded("asleep") == list(range(1, runs.steps + 1))


def _is_of_the_first_attempt(name: str) -> bool:
    """Whether a name carries generation 1: a change that was on its way when its writer was stopped still arrives."""
    return "/attempts/00000001/" in name or name.endswith(".00000001") or "-g1/" in name
