"""What SIGTERM, SIGUSR2 and a second writer do to a run of a real `plca train`."""

import os
import re
import signal
import time
from collections.abc import Callable
from socket import gethostname
from typing import Any

import psutil
import pytest

from plca_dist.run.directory import Run
from plca_dist.run.history import read_history
from plca_dist.training.checkpoint.survey import committed

LEFT = re.compile(
    r"plca: preempted \((\w+)\): checkpoint (step-\d+-of-2-g\d+) committed (\d+\.\d) s after the notice; "
    r"the same command continues it$"
)


def test_a_preempted_run_leaves_with_85_and_ends_as_if_nothing_had_been(
    undisturbed: Run, runs: Any, driver: Callable[[list[str]], Any]
) -> None:
    """SIGTERM, the same command and SIGUSR2, and the same command again; each goes on from the very step.

    While the first one lives a second is refused.
    """
    arguments = runs.command("preempted")
    stood = None
    for sign in (signal.SIGTERM, signal.SIGUSR2):
        one = driver(arguments)
        if stood is None:
            one.read_until("starting a Ray cluster")
            other = driver(arguments)
            assert other.end() == 2
            refused = (
                f"plca: {runs.store.uri}/preempted is being written by {gethostname()}, process {one.process.pid}, "
            )
            assert other.lines[-1].startswith(refused)
            assert sum("plca:" in line for line in other.lines) == 1
        one.read_until("checkpoint step")
        below = psutil.Process(one.process.pid).children(recursive=True)
        assert one.end(sign) == 85, one.lines
        assert not psutil.wait_procs(below, timeout=10)[1], "processes live on"
        found = LEFT.match(one.lines[-1])
        assert found, one.lines
        assert found[1] == sign.name
        assert float(found[3]) < 20
        newest = committed(runs.store.child("preempted"))[0]
        assert newest.name == found[2]
        assert not any("Traceback" in line for line in one.lines)
        assert not runs.of_ray("preempted")
        assert stood is None or any(line == f"continuing from step {stood.step} ({stood.name})" for line in one.lines)
        assert runs.recorded("preempted") == list(range(1, newest.step + 1)), "a step lost or repeated"
        stood = newest

    last = driver(arguments)
    assert last.end() == 0
    assert runs.recorded("preempted") == list(range(1, runs.steps + 1))
    assert runs.weights("preempted") == runs.weights("undisturbed")
    ends = [(a.launch, a.end) for a in read_history(runs.store.child("preempted"))]
    assert ends == [(1, "preempted"), (2, "preempted"), (3, "finished")]


@pytest.mark.ci
def test_a_terminal_that_is_gone_costs_no_step(runs: Any, driver: Callable[[list[str]], Any]) -> None:
    """The reader of its output leaves, and the run goes on; its whole process group gets SIGHUP, and it saves first."""

    def reached() -> int:
        return next((c.step for c in committed(runs.store.child("hung_up"))), 0)

    one = driver(runs.command("hung_up", "schedule.steps=100000"))
    one.read_until("checkpoint step")
    assert one.process.stdout
    one.process.stdout.close()
    stood, deadline = reached(), time.monotonic() + 60
    while reached() < stood + runs.every and time.monotonic() < deadline:
        time.sleep(0.2)
    assert one.process.poll() is None
    assert reached() >= stood + runs.every, "it stands still"
    below = psutil.Process(one.process.pid).children(recursive=True)
    for _ in range(2):
        os.killpg(one.process.pid, signal.SIGHUP)
    assert one.process.wait(60) == 85
    assert not psutil.wait_procs(below, timeout=10)[1], "processes live on"
    assert runs.recorded("hung_up") == list(range(1, reached() + 1)), "a step was lost"
