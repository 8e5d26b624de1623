"""The whole way on a real Ray cluster with real S3 storage, and what kills, Ctrl-C and damage do to it.

One undisturbed run is the measure: every other one, however it was disturbed, must end with the same bytes.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from plca_dist.cli import main
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.prepare import prepare_toytown
from plca_dist.launch.run import Run
from plca_dist.launch.train import train
from plca_dist.recipe import load
from plca_dist.storage import Store, resolve
from plca_dist.training.commits import committed

pytestmark = pytest.mark.usefixtures("ray_session")

STEPS, EVERY = 40, 5
#: A run of some seconds after its start; deterministic, so that bytes can be compared.
SETTINGS = [
    "data=s3://bucket/cluster/shards", "source.uri=source", "target.uri=target", "evaluation.uri=val",
    "source.crop=[32, 64]", "target.crop=[32, 64]", f"schedule.steps={STEPS}", f"checkpoint.every={EVERY}",
    "checkpoint.keep=2", "log.every=1", "deterministic=true", "seed=3", "batch.pairs=4", "cluster.workers=2",
]  # fmt: skip
STORAGE = "s3://bucket/cluster/runs"


def command(name: str, *more: str) -> list[str]:
    sets = [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
    return ["train", "toytown", "--name", name, "--storage", STORAGE, *sets]


@pytest.fixture(scope="module")
def runs(ray_session: object) -> Store:
    """Where runs are kept; the shards lie beside."""
    store = resolve("s3://bucket/cluster")
    prepare_toytown(store.child("shards"), size=(32, 64), count=24, progress=lambda what, done, total: None)
    return resolve(STORAGE)


@pytest.fixture(scope="module")
def undisturbed(runs: Store) -> Run:
    """A run that nothing happened to."""
    return train(load("toytown", [*SETTINGS, f"storage.uri={STORAGE}"]), "undisturbed", lambda record: None)


def weights(runs: Store, name: str) -> bytes:
    return runs.read(f"{name}/model.safetensors")


def steps_recorded(runs: Store, name: str) -> list[int]:
    records = [json.loads(line) for line in runs.read(f"{name}/metrics.jsonl").decode().splitlines()]
    return [r["step"] for r in records if "loss/total" in r]


def training_workers(driver: int) -> list[psutil.Process]:
    """The processes of ranks, of the cluster that this driver started; none of anyone else's."""
    below = psutil.Process(driver).children(recursive=True)
    return [p for p in below if any("RayTrainWorker" in word for word in _words(p))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_run_leaves_its_result_and_nothing_else(undisturbed: Run, runs: Store) -> None:
    names = {e.name.removeprefix("undisturbed/") for e in runs.list("undisturbed")}
    checkpoints = committed(undisturbed.store)
    assert [c.step for c in checkpoints][:2] == [STEPS, STEPS - EVERY]
    inside = {f"{c.place}/{file}" for c in checkpoints for file in (*c.files, "commit.json")}
    assert names - inside == {"recipe.yaml", "data.json", "metrics.jsonl", "evaluation.json", "model.safetensors"}
    assert steps_recorded(runs, "undisturbed") == list(range(1, STEPS + 1))
    assert json.loads(runs.read("undisturbed/evaluation.json"))["images"] == 6


def test_the_same_command_finds_it_finished(undisturbed: Run, runs: Store, capfd: pytest.CaptureFixture[str]) -> None:
    before = {e: runs.read(e.name) for e in runs.list("undisturbed")}
    assert main(command("undisturbed")) == 0
    out, err = capfd.readouterr()
    assert err == f"run {STORAGE}/undisturbed is finished; nothing to do\n"
    assert out.endswith(f"\nrun: {STORAGE}/undisturbed\n")
    assert "mIoU" in out
    assert {e: runs.read(e.name) for e in runs.list("undisturbed")} == before


def test_evaluation_is_the_same_in_one_process_in_two_workers_and_in_the_run(
    undisturbed: Run, runs: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = json.loads(runs.read("undisturbed/evaluation.json"))["scores"]
    base = ["evaluate", "--data", "s3://bucket/cluster/shards/val", "--json"]
    newest = committed(undisturbed.store)[0]
    for name, place, more in (
        ("one", f"{STORAGE}/undisturbed", []),
        ("two", f"{STORAGE}/undisturbed", ["--workers", "2"]),
        ("checkpoint", f"{STORAGE}/undisturbed/{newest.place}", []),
        ("file", f"{STORAGE}/undisturbed/model.safetensors", ["--workers", "2"]),
    ):
        assert main([*base, str(tmp_path / name), place, *more]) == 0
        assert json.loads((tmp_path / name).read_text())["scores"] == own, name
    assert "Traceback" not in capfd.readouterr().err


def test_a_bad_image_set_is_refused_by_workers_too(
    undisturbed: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    base = ["predict", undisturbed.store.uri, "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    assert main([*base, "--workers", "2"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"plca: {tmp_path}/photos/broken.png cannot be read")


def test_a_killed_worker_costs_only_the_way_back_to_the_checkpoint(
    undisturbed: Run, runs: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a budget for errors: a lost process must not need one."""
    said: list[str] = []
    killed: list[int] = []

    def show(record: dict[str, object]) -> None:
        if message := record.get("message"):
            said.append(str(message))
            if not killed and "checkpoint step" in said[-1]:
                victim = training_workers(os.getpid())[-1]
                killed.append(victim.pid)
                victim.kill()

    train(load("toytown", [*SETTINGS, f"storage.uri={STORAGE}", "cluster.max_failures=0"]), "worker-killed", show)
    assert capfd.readouterr() == ("", ""), "Ray chats"
    assert killed, "it ended before anything was killed"
    assert any("worker failed" in line and "restarting from step" in line for line in said)
    assert any("continuing from step" in line for line in said)
    assert steps_recorded(runs, "worker-killed") == list(range(1, STEPS + 1))
    assert weights(runs, "worker-killed") == weights(runs, "undisturbed")
    assert not [e for e in runs.list("worker-killed") if ".ray/" in e.name]


def test_a_shard_damaged_after_its_manifest_ends_the_run_in_one_line(
    runs: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    store = resolve("s3://bucket/cluster")
    for entry in store.list("shards/source"):
        data = bytearray(store.read(entry.name))
        if entry.name.endswith(".parquet"):
            data[len(data) // 8 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 8)
        store.write(entry.name.replace("source", "damaged"), bytes(data))
    assert main(command("damaged", "source.uri=damaged", "checkpoint.every=1000")) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if not line.startswith(tuple("0123456789"))]
    assert line.startswith("plca: s3://bucket/cluster/shards/damaged/shard-00000.parquet: ")
    assert "write the shards again" in line
    assert not runs.exists("damaged/model.safetensors")
    assert not [e for e in runs.list("damaged") if ".ray/" in e.name]


class Driver:
    """`plca train` in a process of its own, with its own cluster."""

    def __init__(self, arguments: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "plca_dist.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []

    def read_until(self, part: str) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if part in line:
                return
        pytest.fail(f"it ended without {part!r}: {self.lines}")

    def end(self, sign: signal.Signals | None = None) -> int:
        """Read to the end, after the signal went to all of a terminal's processes (SIGKILL: to the driver alone)."""
        if sign == signal.SIGKILL:
            self.process.kill()
        elif sign:
            os.killpg(self.process.pid, sign)
        assert self.process.stdout
        self.lines += [line.rstrip() for line in self.process.stdout]
        return self.process.wait(60)


@pytest.fixture
def driver() -> Iterator[Callable[[list[str]], Driver]]:
    started: list[Driver] = []

    def start(arguments: list[str]) -> Driver:
        started.append(Driver(arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


def test_a_killed_driver_and_a_ctrl_c_cost_nothing_either(
    undisturbed: Run, runs: Store, driver: Callable[[list[str]], Driver]
) -> None:
    """SIGKILL, then the same command and Ctrl-C, then the same command again."""
    arguments = command("driver-killed")
    first = driver(arguments)
    first.read_until("checkpoint step")
    ranks = training_workers(first.process.pid)
    assert len(ranks) == 2
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert gone(ranks, 30), "the dead driver's workers live on"
    reached = committed(runs.child("driver-killed"))[0].step

    second = driver(arguments)
    second.read_until("checkpoint step")
    below = psutil.Process(second.process.pid).children(recursive=True)
    assert second.end(signal.SIGINT) == 130
    assert gone(below, 10)
    assert any(line.startswith(f"continuing from step {reached} ") for line in second.lines)
    (last,) = [line for line in second.lines if line.startswith("plca: ")]
    assert "interrupted" in last
    assert "the same command continues it" in last
    assert last == second.lines[-1]
    assert not any("Traceback" in line for line in second.lines)
    assert not [e for e in runs.list("driver-killed") if ".ray/" in e.name]

    third = driver(arguments)
    assert third.end() == 0
    assert third.lines[-1] == f"run: {STORAGE}/driver-killed"
    expected = (
        "run: ",
        "checkpoint ",
        "continuing ",
        "step ",
        "class ",
        "─",
        "mIoU",
        "–",
        *LABEL_SETS["toytown"].classes,
    )
    assert not [line for line in third.lines if not line.startswith(expected) and f"/{STEPS} " not in line], "chatter"
    assert steps_recorded(runs, "driver-killed") == list(range(1, STEPS + 1))
    assert weights(runs, "driver-killed") == weights(runs, "undisturbed")


def test_the_doctor_finds_all_well(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--storage", "s3://bucket/cluster"]) == 0
    out, err = capfd.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == [
        f"ok    {what}" for what in ("Python", "torch", "CUDA", "DeepSpeed", "Ray", "store")
    ]
    assert err == ""
