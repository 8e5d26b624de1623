"""A run that is killed, signalled and started again at random moments, against one that nothing happens to.

    python benchmarks/chaos.py [--events 20] [--steps 2000] [--seed 0]

Both train toytown in two workers with `plca train`, each in a process and a Ray cluster of its own. Before anything is
reported, the weights of both must be equal in every bit and the metrics must hold every step once. A worker's SIGKILL
leaves the driver alive; after the others the same command is given again.
"""

import argparse
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from common import save

from plca_dist.data.prepare import prepare_toytown
from plca_dist.storage import resolve

EVENTS = ("SIGKILL of a worker", "SIGKILL of the driver", "SIGTERM", "SIGUSR2")
_EXIT_CODE = {"SIGKILL of the driver": -signal.SIGKILL, "SIGTERM": 85, "SIGUSR2": 85}
_CHECKPOINT_EVERY = 20
#: Seconds of training before an event.
_AFTER_S = (0.5, 6.0)
_PATIENCE_S = 180.0


class Training:
    """`plca train`, and what it says with the time of each line."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "plca_dist.cli", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))

    def wait(self) -> int:
        code = self.process.wait(_PATIENCE_S)
        self._reader.join(_PATIENCE_S)
        return code

    def wait_to_the_end(self) -> int:
        """As `wait`, for a run that may have long to go."""
        self._reader.join()
        return self.process.wait()

    def next_step(self, after: float) -> float | None:
        """When the first step was shown that was trained after the time `after`; None: it ended before."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            begun = False
            for at, line in list(self.lines):
                begun |= at > after and line.startswith(("continuing from step", "starting "))
                if begun and re.match(r"\d+/\d+ ", line):
                    return at
            if self.process.poll() is not None and not self._reader.is_alive():
                return None
            time.sleep(0.02)
        raise SystemExit(f"no step for {_PATIENCE_S:.0f} s: {self.lines[-5:]}")

    def workers(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        if self.process.poll() is not None:
            return found
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if any("RayTrainWorker" in word for word in process.cmdline()):
                    found.append(process)
            except psutil.Error:  # it went meanwhile
                continue
        return found


def command(folder: Path, name: str, steps: int) -> list[str]:
    settings = [
        f"data={folder}/data", "source.uri=source", "target.uri=target", "evaluation.uri=val", "deterministic=true",
        "source.crop=[32, 64]", "target.crop=[32, 64]", "batch.pairs=4", "cluster.workers=2",
        f"schedule.steps={steps}", f"checkpoint.every={_CHECKPOINT_EVERY}", "log.every=1",
    ]  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["train", "toytown", "--name", name, "--storage", f"{folder}/runs", *sets]


def disturbed(arguments: list[str], events: int, chance: random.Random) -> list[dict[str, Any]]:
    """Train to the end through so many events; what each cost."""
    told: list[dict[str, Any]] = []
    last = ""
    training = Training(arguments)
    ready = training.next_step(0.0)
    while len(told) < events and ready is not None:
        time.sleep(chance.uniform(*_AFTER_S))
        event, workers = chance.choice(EVENTS), training.workers()
        if not workers:  # it is at its end
            break
        at = time.monotonic()
        if event == EVENTS[0]:
            chance.choice(workers).kill()
        else:
            number = signal.SIGKILL if event == EVENTS[1] else signal.Signals[event]
            training.process.send_signal(number)
            code = training.wait()
            if code == 0:
                break
            assert code == _EXIT_CODE[event], (event, code, training.lines[-3:])
            last = training.lines[-1][1]
            training = Training(arguments)
        ready = training.next_step(at)
        told.append({"event": event, "seconds to the next step": round(ready - at, 1) if ready else None})
        if found := event in ("SIGTERM", "SIGUSR2") and re.search(r"committed (\d+\.\d) s after", last):
            told[-1]["seconds to the commit"] = float(found[1])
        print(json.dumps(told[-1]), flush=True)
    if code := training.wait_to_the_end():
        raise SystemExit(f"it ended with {code}: {training.lines[-3:]}")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plca-chaos-") as made:
        folder = Path(made)
        prepare_toytown(resolve(f"{folder}/data"), size=(32, 64), count=24, progress=lambda what, done, total: None)
        began = time.monotonic()
        calm = Training(command(folder, "calm", options.steps))
        if calm.wait_to_the_end():
            raise SystemExit(f"the undisturbed run failed: {calm.lines[-3:]}")
        calm_s = time.monotonic() - began
        began = time.monotonic()
        told = disturbed(command(folder, "chaos", options.steps), options.events, random.Random(options.seed))
        chaos_s = time.monotonic() - began
        steps = [
            record["step"]
            for record in map(json.loads, (folder / "runs/chaos/metrics.jsonl").read_text().splitlines())
            if "loss/total" in record
        ]
        if steps != list(range(1, options.steps + 1)):
            raise SystemExit("steps were lost or repeated in the metrics")
        if (folder / "runs/calm/model.safetensors").read_bytes() != (
            folder / "runs/chaos/model.safetensors"
        ).read_bytes():
            raise SystemExit("the weights differ")
    print(f"\n{len(told)} events, {options.steps} steps; the weights are equal in every bit; nothing lost.")
    print(f"undisturbed {calm_s:.0f} s, disturbed {chaos_s:.0f} s")
    for event in EVENTS:
        seconds = [t["seconds to the next step"] for t in told if t["event"] == event and t["seconds to the next step"]]
        if seconds:
            print(f"{event:24s} x {len(seconds):2d}  to the next step: median {statistics.median(seconds):5.1f} s, "
                  f"worst {max(seconds):5.1f} s")  # fmt: skip
    result = {"events": told, "steps": options.steps, "seed": options.seed, "checkpoint_every": _CHECKPOINT_EVERY}
    print(save("chaos", {**result, "undisturbed_s": round(calm_s, 1), "disturbed_s": round(chaos_s, 1)}))


if __name__ == "__main__":
    main()
