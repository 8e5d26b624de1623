"""A run that is killed, signalled, cut off from its store and started again, against one that nothing happens to.

    python -m benchmarks.chaos [--store s3|azure|gcs] [--events 40] [--steps 2800] [--seed 0]

Both train toytown in two workers with `plca train`, each in a process and a Ray cluster of its own, from and to one
server (SeaweedFS, Azurite or an emulator of Google's) behind a proxy that fails when told to. Events come at random
moments. Before anything is reported, the weights of both runs must be equal in every bit and the metrics must hold
every step once. A worker's SIGKILL and the store's faults leave the driver alone; after the others the same command
is given again. A whole run that is frozen is taken over by the same command, and thawed while that trains.
"""

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import save
from benchmarks.servers.proxy import FaultyProxy
from benchmarks.servers.stores import KINDS
from plca_dist.data.prepare import prepare_toytown
from plca_dist.storage import resolve

KILLED, DRIVER, AWAY, FAULTS = (
    "SIGKILL of a worker", "SIGKILL of the driver", "store away for 12 s", "503s, drops and cuts for 12 s"
)  # fmt: skip
TRUNCATED, STALE, FULL = (
    "SIGKILL of a worker, a third of all bodies truncated", "listings 2 s behind for 12 s", "scratch disk full for 12 s"
)  # fmt: skip
FROZEN, SECOND = "the whole run frozen, taken over, thawed", "a second launch of the live run"
EVENTS = (KILLED, DRIVER, "SIGTERM", "SIGUSR2", AWAY, FAULTS, TRUNCATED, STALE, FULL, FROZEN, SECOND)
_FAULT_S = 12.0
_EXIT_CODE = {DRIVER: -signal.SIGKILL, "SIGTERM": 85, "SIGUSR2": 85}
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

    def reached(self) -> int:
        """The last step shown."""
        return max((int(m[1]) for _, line in list(self.lines) if (m := re.match(r"(\d+)/\d+ ", line))), default=0)

    def resumed(self, after: float) -> int | None:
        """The step that it first went on from after the time `after`."""
        found = (re.match(r"continuing from step (\d+)", line) for at, line in list(self.lines) if at > after)
        return next((int(match[1]) for match in found if match), None)

    def next_step(self, after: float, *, restarted: bool = True) -> float | None:
        """When the first step was shown that was trained after the time `after`; None: it ended before.

        `restarted`: workers start in between.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            begun = not restarted
            for at, line in list(self.lines):
                begun |= at > after and line.startswith(("continuing from step", "starting "))
                if begun and at > after and re.match(r"\d+/\d+ ", line):
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


def command(name: str, bucket: str, steps: int) -> list[str]:
    settings = [
        f"data={bucket}/data", "source.uri=source", "target.uri=target", "evaluation.uri=val", "deterministic=true",
        "source.crop=[32, 64]", "target.crop=[32, 64]", "batch.pairs=4", "cluster.workers=2",
        f"schedule.steps={steps}", f"checkpoint.every={_CHECKPOINT_EVERY}", "log.every=1",
        "checkpoint.max_failed_saves=99", "cluster.max_failures=9",
    ]  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["train", "toytown", "--name", name, "--storage", f"{bucket}/runs", *sets]


def disturbed(
    arguments: list[str], proxy: FaultyProxy, scratch: Path, events: int, chance: random.Random
) -> list[dict[str, Any]]:
    """Train to the end through so many events, each kind as often as the others; what each cost."""
    told: list[dict[str, Any]] = []
    coming = [EVENTS[k % len(EVENTS)] for k in range(events)]
    chance.shuffle(coming)
    training = Training(arguments)
    ready = training.next_step(0.0)
    while len(told) < events and ready is not None:
        time.sleep(chance.uniform(*_AFTER_S))
        event, workers, reached = coming[len(told)], training.workers(), training.reached()
        if not workers:  # it is at its end
            break
        at, cost = time.monotonic(), {"event": event}
        if event in (AWAY, FAULTS, STALE, FULL):
            _fail(proxy, scratch, event)
            at = time.monotonic()
            ready = training.next_step(at, restarted=False)
        elif event in (KILLED, TRUNCATED):
            proxy.truncate = 1 / 3 if event == TRUNCATED else 0.0
            chance.choice(workers).kill()
            ready = training.next_step(at)
            proxy.truncate = 0.0
        elif event == SECOND:
            second = Training(arguments)
            code = second.wait()
            assert code == 2, (code, second.lines[-3:])
            assert "is being written by" in second.lines[-1][1], second.lines
            at = time.monotonic()
            ready = training.next_step(at, restarted=False)
        elif event == FROZEN:
            frozen, training, ready = _freeze(training, arguments, at)
            told_by_frozen = frozen.lines[-1][1]
            assert frozen.wait() == 1, told_by_frozen
            assert "another launch has taken" in frozen.lines[-1][1], frozen.lines[-3:]
        else:
            number = signal.SIGKILL if event == DRIVER else signal.Signals[event]
            training.process.send_signal(number)
            code = training.wait()
            if code == 0:
                break
            assert code == _EXIT_CODE[event], (event, code, training.lines[-3:])
            last = training.lines[-1][1]
            if found := re.search(r"committed (\d+\.\d) s after", last):
                cost["seconds to the commit"] = float(found[1])
            reached = max(reached, training.reached())
            training = Training(arguments)
            ready = training.next_step(at)
        cost["seconds to the next step"] = round(ready - at, 1) if ready else None
        resumed = training.resumed(at)
        cost["steps repeated"] = 0 if resumed is None else max(reached - resumed, 0)
        told.append(cost)
        print(json.dumps(cost), flush=True)
    if code := training.wait_to_the_end():
        raise SystemExit(f"it ended with {code}: {training.lines[-3:]}")
    return told


def _fail(proxy: FaultyProxy, scratch: Path, event: str) -> None:
    """The store, or the disk that checkpoints are written to first, fails for `_FAULT_S` seconds."""
    if event == AWAY:
        proxy.away(_FAULT_S)
    elif event == FAULTS:
        proxy.refuse, proxy.drop, proxy.cut = 0.4, 0.2, 0.1
    elif event == STALE:
        proxy.lag_s = 2.0
    filler = scratch / "filler"
    if event == FULL:
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
    time.sleep(_FAULT_S)
    proxy.refuse = proxy.drop = proxy.cut = proxy.lag_s = 0.0
    filler.unlink(missing_ok=True)


def _freeze(training: Training, arguments: list[str], at: float) -> tuple[Training, Training, float | None]:
    """Stop every process of a run, let the same command take over, and wake them up while that trains."""
    process = psutil.Process(training.process.pid)
    everything = [process, *process.children(recursive=True)]
    for one in everything:
        with suppress(psutil.NoSuchProcess):
            one.suspend()
    heir = Training(arguments)
    ready = heir.next_step(at)
    for one in everything:
        with suppress(psutil.NoSuchProcess):
            one.resume()
    return training, heir, ready


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A disk of 64 MB at `place`, for the files that checkpoints are written to first. Needs to be root."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=KINDS, default="s3")
    parser.add_argument("--events", type=int, default=40)
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    store = KINDS[options.store]
    bucket = store.bucket
    with (
        tempfile.TemporaryDirectory(prefix="plca-chaos-") as made,
        store.serving(Path(made)) as server,
        FaultyProxy(server.endpoint, kind=options.store) as proxy,
        small_disk(Path(made) / "scratch"),
    ):
        scratch = Path(made) / "scratch"
        os.environ |= store.through(server, proxy.endpoint) | {"TMPDIR": str(scratch)}
        data, runs = resolve(f"{bucket}/data"), resolve(f"{bucket}/runs")
        prepare_toytown(data, size=(32, 64), count=24, progress=lambda what, done, total: None)
        began = time.monotonic()
        calm = Training(command("calm", bucket, options.steps))
        if calm.wait_to_the_end():
            raise SystemExit(f"the undisturbed run failed: {calm.lines[-3:]}")
        calm_s = time.monotonic() - began
        began = time.monotonic()
        arguments = command("chaos", bucket, options.steps)
        told = disturbed(arguments, proxy, scratch, options.events, random.Random(options.seed))
        chaos_s = time.monotonic() - began
        faults = dict(proxy.faults)
        records = map(json.loads, runs.read("chaos/metrics.jsonl").decode().splitlines())
        if [r["step"] for r in records if "loss/total" in r] != list(range(1, options.steps + 1)):
            raise SystemExit("steps were lost or repeated in the metrics")
        if runs.read("calm/model.safetensors") != runs.read("chaos/model.safetensors"):
            raise SystemExit("the weights differ")
    print(f"\n{len(told)} events, {options.steps} steps; the weights are equal in every bit; nothing lost.")
    print(f"undisturbed {calm_s:.0f} s, disturbed {chaos_s:.0f} s")
    for event in EVENTS:
        seconds = [t["seconds to the next step"] for t in told if t["event"] == event and t["seconds to the next step"]]
        if seconds:
            repeated = max(t["steps repeated"] for t in told if t["event"] == event)
            print(f"{event:54s} x {len(seconds):2d}  to the next step: median {statistics.median(seconds):5.1f} s, "
                  f"worst {max(seconds):5.1f} s; at most {repeated} steps repeated")  # fmt: skip
    result = {
        "store": options.store,
        "events": told,
        "requests_failed": faults,
        "steps": options.steps,
        "seed": options.seed,
        "checkpoint_every": _CHECKPOINT_EVERY,
    }
    name = "chaos" if options.store == "s3" else f"chaos_{options.store}"
    print(save(name, {**result, "undisturbed_s": round(calm_s, 1), "disturbed_s": round(chaos_s, 1)}))


if __name__ == "__main__":
    main()
