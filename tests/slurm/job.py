"""A job in Slurm's queue, as the person sees it who submitted it: its state, its exit code and its log."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@dataclass(frozen=True)
class Job:
    """`run` runs Slurm's commands."""

    number: int
    folder: Path
    run: Callable[..., str]

    @property
    def log(self) -> str:
        file = self.folder / f"plca-{self.number}.log"
        return file.read_text() if file.exists() else ""

    def of_ray(self, name: str) -> Path:
        """A file beside the log, with what Ray said."""
        return self.folder / f"plca-{self.number}.ray" / name

    def field(self, name: str) -> str:
        """A field of `scontrol show job`."""
        shown = self.run("scontrol", "show", "job", str(self.number))
        found = re.search(rf"\b{name}=(\S*)", shown)
        assert found, shown
        return found[1]

    @property
    def state(self) -> str:
        return self.field("JobState")

    @property
    def exit_code(self) -> int:
        return int(self.field("ExitCode").partition(":")[0])

    def wait_until(self, what: str, met: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < deadline, f"job {self.number}: no {what} in {seconds} s: {self.state}\n{self.log}"
            time.sleep(0.25)

    def wait_for(self, part: str, seconds: float = 240, times: int = 1) -> None:
        """Until the log has it, so many times."""
        self.wait_until(repr(part), lambda: self.log.count(part) >= times or self._ended(part), seconds)

    def _ended(self, part: str) -> bool:
        assert self.state not in OVER, f"job {self.number} is {self.state} without {part!r}\n{self.log}"
        return False

    def wait_state(self, state: str, seconds: float = 240) -> None:
        self.wait_until(state, lambda: self.state in (state, *OVER), seconds)
        assert self.state == state, self.run("scontrol", "show", "job", str(self.number)) + self.log

    def tell(self, signal: str) -> None:
        """What Slurm does some time before it ends the job."""
        self.run("scancel", "--batch", f"--signal={signal}", str(self.number))

    def start_now(self) -> None:
        """Once it is requeued, without the two minutes that Slurm would let pass."""
        self.wait_state("PENDING")
        time.sleep(2)  # nodes refuse a job that starts again in the second of its end: "Job credential revoked"
        self.run("scontrol", "update", f"JobId={self.number}", "StartTime=now")
