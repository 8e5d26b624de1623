"""DeepSpeed is kept from remarking on what we chose, and from nothing else."""

import logging
import subprocess
import sys

import plca_dist.training  # noqa: F401  (it does it)


def test_importing_deepspeed_through_us_says_nothing() -> None:
    """In a process of its own: DeepSpeed remarks on the CPU once, while it is imported."""
    code = "import plca_dist.training.engine, logging; logging.getLogger('DeepSpeed').warning('a real warning')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].endswith("a real warning")


def test_only_what_we_mean_is_left_out_of_deepspeeds_warnings() -> None:
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("DeepSpeed")
    log.addHandler(handler)
    try:
        log.warning("**** You are using ZeRO with an untested optimizer, proceed with caution *****")
        log.warning("gradients are %s", "lost")
    finally:
        log.removeHandler(handler)
    assert heard == ["gradients are lost"]
