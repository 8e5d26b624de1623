"""A step that does not end, ends. In a process of its own, for it is the process that goes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from plca_dist.training.watchdog import EXIT_CODE

STORY = """
import ctypes, sys, time
from plca_dist.storage import resolve
from plca_dist.training import watchdog as module
from plca_dist.training.watchdog import Watchdog

def hang():
    time.sleep(60)

def hang_with_the_lock():
    ctypes.PyDLL(None).sleep(60)  # unlike CDLL, it keeps Python's global lock while the C function runs

def timer_after(seconds):
    module._TIMER_MARGIN_S = seconds

with Watchdog(resolve(sys.argv[1]), rank=3, limit_s=0.4, done=7) as watchdog:
    {}
print("went on")
"""


def play(place: Path, *lines: str) -> tuple[int, str, str, float]:
    """Exit code, output, errors and seconds of a process that does these lines under a limit of 0.4 s a step."""
    began = time.monotonic()
    code = [sys.executable, "-c", STORY.format("\n    ".join(lines)), str(place)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=50, check=False)
    return done.returncode, done.stdout, done.stderr, time.monotonic() - began


def test_a_step_that_hangs_ends_the_process_with_its_stacks(tmp_path: Path) -> None:
    code, out, err, seconds = play(tmp_path, "watchdog.step(8)", "hang()")
    assert (code, out) == (EXIT_CODE, "")
    assert seconds < 40
    assert err.startswith("step 9 did not end within 0.4 s on rank 3 (cluster.step_timeout_s = 0.4); the stacks of all")
    assert "in hang" in err
    assert (tmp_path / "stacks-rank-3.txt").read_text() == err


@pytest.mark.parametrize(
    "lines",
    [
        ["for k in range(8, 13): time.sleep(0.2); watchdog.step(k)"],
        ["watchdog.step(8)", "with watchdog.patient('checkpoint'): time.sleep(1.5)"],
        ["time.sleep(1.5)"],  # the first step waits for others to arrive
        ["watchdog.step(8)", "watchdog.__exit__(None, None, None)", "time.sleep(1.5)"],
        ["timer_after(0.5)", "watchdog.step(8)", "watchdog.__exit__(None, None, None)", "time.sleep(2)"],
        ["timer_after(0.5)", "for k in range(8, 18): time.sleep(0.2); watchdog.step(k)"],
    ],
)
def test_what_goes_on_is_left_alone(tmp_path: Path, lines: list[str]) -> None:
    code, out, err, _ = play(tmp_path, *lines)
    assert (code, out, err) == (0, "went on\n", "")
    assert not list(tmp_path.iterdir())


def test_an_evaluation_that_hangs_is_named(tmp_path: Path) -> None:
    code, _, err, _ = play(tmp_path, "watchdog.step(8)", "with watchdog.patient('evaluation'): hang()")
    assert code == EXIT_CODE
    assert err.startswith("evaluation before step 9 did not end within 4 s on rank 3")


def test_a_store_that_refuses_does_not_keep_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err, _ = play(tmp_path / "file", "watchdog.step(8)", "hang()")
    assert code == EXIT_CODE
    assert "step 9 did not end" in err
    assert "Traceback" not in err


def test_code_that_hangs_with_pythons_lock_ends_too(tmp_path: Path) -> None:
    """The watching thread cannot run then, so the stacks reach stderr alone, and the code is faulthandler's."""
    code, out, err, seconds = play(tmp_path, "timer_after(1)", "watchdog.step(8)", "hang_with_the_lock()")
    assert (code, out) == (1, "")
    assert seconds < 40
    assert err.startswith("Timeout (0:00:01.44")
    assert "in hang_with_the_lock" in err
    assert not list(tmp_path.iterdir())


def test_a_limit_beyond_all_clocks_is_no_error(tmp_path: Path) -> None:
    code, out, err, _ = play(tmp_path, "module._set_timer(1e300)")
    assert (code, out, err) == (0, "went on\n", "")
