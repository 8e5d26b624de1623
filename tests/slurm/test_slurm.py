"""What `sbatch cluster/slurm/train.sbatch` does on a real Slurm of two nodes: runs, notices, errors, a lost node.

All runs train the same recipe on two workers, one on each node, so that their weights can be compared in every bit.
"""

import json
import re
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import Slurm
from tests.slurm.job import Job

#: The first test waits for two runs at once, each of which starts Ray on two nodes.
pytestmark = [pytest.mark.timeout(900), pytest.mark.ci]

HERE = Path(__file__).resolve().parents[2] / "cluster" / "slurm"
STEPS, EVERY = 100, 10
SETTINGS = [
    "source.uri=source", "target.uri=target", "evaluation.uri=val", "source.crop=[32, 64]", "target.crop=[32, 64]",
    f"schedule.steps={STEPS}", f"checkpoint.every={EVERY}", "log.every=1", "seed=3", "batch.pairs=4",
    "cluster.workers=2", "cluster.max_failures=0",
]  # fmt: skip

#: A stand-in that outlives a signal to all processes, and leaves its directory behind if the node does not wait for it.
SLOW_MKDIR = "trap '' TERM; /bin/sleep 3; exec /bin/mkdir \"$@\""


@dataclass(frozen=True)
class Operator:
    """Who submits jobs, from a directory of their own that all nodes see."""

    slurm: Slurm
    folder: Path
    data: Path

    def site(self, more: str) -> Path:
        """A site file: the project of this interpreter, and each of its commands noted where it runs."""
        inside = self.folder / "inside"
        inside.write_text('#!/bin/sh\necho "$SLURMD_NODENAME $1" >> "$0.$SLURM_JOB_ID"\nexec "$@"\n')
        inside.chmod(0o755)
        file = self.folder / f"site-{zlib.crc32(more.encode())}.sh"
        lines = [f". {HERE}/site.sh", f"PATH={Path(sys.executable).parent}:$PATH", f"container=({inside})", more]
        file.write_text("\n".join(lines) + "\n")
        return file

    def stand_ins(self, *, ready: str = "echo job: Ray stands", driver: str = "exit 1", **others: str) -> str:
        """For a site file: Ray does nothing until it is told to end, and the rest is as given."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        for name, does in {"ray": "exec sleep 600", "python": ready, "plca": driver, **others}.items():
            (place / name).write_text(f"#!/bin/bash\n{does}\n")
            (place / name).chmod(0o755)
        return f"PATH={place}:$PATH"

    def train(self, name: str, *options: str, recipe: str = "toytown", more: str = "") -> Job:
        sets = [part for setting in [f"data={self.data}", *SETTINGS] for part in ("--set", setting)]
        exported = f"--export=ALL,OMP_NUM_THREADS=1,PLCA_SITE={self.site(more)}"
        return self.slurm.sbatch(
            exported, *options, str(HERE / "train.sbatch"), recipe, "--name", name, "--storage", "runs", *sets,
            cwd=self.folder,
        )  # fmt: skip

    def weights(self, name: str) -> bytes:
        return (self.folder / "runs" / name / "model.safetensors").read_bytes()

    def recorded(self, name: str) -> list[int]:
        """Steps in the run's metrics."""
        lines = (self.folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
        return [record["step"] for record in map(json.loads, lines) if "loss/total" in record]


@pytest.fixture(scope="module")
def operator(slurm: Slurm, toytown_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(slurm, tmp_path_factory.mktemp("operator"), toytown_shards)


@pytest.fixture
def leaves_nothing(slurm: Slurm) -> Callable[[Job], None]:
    """Fails where a job that is over left processes or files on its nodes."""

    def check(job: Job) -> None:
        left = slurm.processes(lambda has: has["SLURM_JOB_ID"] == str(job.number))
        assert not psutil.wait_procs(left, timeout=10)[1]
        assert not list(Path("/tmp").glob(f"plca-{job.number}-*"))

    return check


@pytest.fixture(scope="module")
def two(operator: Operator) -> tuple[Job, Job]:
    """Two jobs at once on the same two nodes; while both train, the second is told that its time is up."""
    undisturbed = operator.train("undisturbed")
    told = operator.train("told")
    told.wait_for("checkpoint step")
    undisturbed.wait_for("checkpoint step")
    told.tell("USR2")
    told.wait_for("job: requeued")
    assert undisturbed.state == "RUNNING", "it was to outlive the other's Ray"
    told.start_now()
    return undisturbed, told


def test_a_run_over_two_nodes_finishes_whatever_another_job_on_them_does(
    operator: Operator, two: tuple[Job, Job], leaves_nothing: Callable[[Job], None]
) -> None:
    undisturbed, _ = two
    undisturbed.wait_state("COMPLETED")
    assert undisturbed.exit_code == 0
    lines = undisturbed.log.splitlines()
    assert lines[0] == f"job: {undisturbed.number}, attempt 1, on n1 n2"
    assert re.fullmatch(r"job: Ray at [\d.]+:2\d{4} has 2 nodes, 2 CPUs and 0 GPUs", lines[1])
    assert lines[-1] == f"run: {operator.folder}/runs/undisturbed"
    assert "worker failed" not in undisturbed.log
    assert operator.recorded("undisturbed") == list(range(1, STEPS + 1))
    ran = (operator.folder / f"inside.{undisturbed.number}").read_text().splitlines()
    assert sorted(ran) == ["n1 plca", "n1 python", "n1 ray", "n2 ray"]
    leaves_nothing(undisturbed)


def test_a_job_told_to_leave_is_requeued_and_goes_on_at_the_exact_step(
    operator: Operator, two: tuple[Job, Job], leaves_nothing: Callable[[Job], None]
) -> None:
    undisturbed, told = two
    told.wait_state("COMPLETED")
    assert told.exit_code == 0
    first, second = told.log.split(f"job: {told.number}, attempt 2, on n1 n2")
    (left,) = [line for line in first.splitlines() if line.startswith("plca: ")]
    assert left.startswith("plca: preempted (SIGUSR2): checkpoint step-")
    step = int(left.partition("checkpoint step-")[2][:8])
    assert step < STEPS
    assert f"continuing from step {step} (step-{step:08d}-of-2-g1)" in second.splitlines()
    assert operator.recorded("told") == list(range(1, STEPS + 1))
    undisturbed.wait_state("COMPLETED")
    assert operator.weights("told") == operator.weights("undisturbed")
    leaves_nothing(told)


@pytest.mark.slow
def test_a_node_taken_away_costs_only_the_way_back_to_the_checkpoint(
    slurm: Slurm, operator: Operator, two: tuple[Job, Job], leaves_nothing: Callable[[Job], None]
) -> None:
    for job in two:
        job.wait_state("COMPLETED")
    job = operator.train("lost")
    job.wait_for("checkpoint step")
    slurm.take_away("n2")
    job.wait_state("PENDING")
    slurm.give_back("n2")
    job.start_now()
    job.wait_state("COMPLETED")
    second = job.log.split(f"job: {job.number}, attempt 2, on n1 n2")[1]
    assert "continuing from step " in second
    assert operator.recorded("lost") == list(range(1, STEPS + 1))
    assert operator.weights("lost") == operator.weights("undisturbed")
    leaves_nothing(job)


def test_an_error_of_the_driver_fails_the_job_with_its_code_and_keeps_the_logs_of_all_nodes(
    operator: Operator, leaves_nothing: Callable[[Job], None]
) -> None:
    job = operator.train("typing-error", "--gpus-per-node=1", "--cpus-per-task=2", recipe="toytwon")
    job.wait_state("FAILED")
    assert job.exit_code == 2
    assert "has 2 nodes, 4 CPUs and 2 GPUs\n" in job.log
    (error,) = [line for line in job.log.splitlines() if line.startswith("plca: ")]
    assert "toytwon" in error
    assert f"exit code 2; Ray's logs of all nodes are in {job.of_ray('')}".rstrip("/") in job.log
    for node in ("n1", "n2"):
        assert job.of_ray(f"{node}/raylet.out").exists()
    leaves_nothing(job)


def test_a_run_that_does_not_fit_into_the_job_ends_instead_of_waiting_for_nodes(operator: Operator) -> None:
    job = operator.train("too-big", "--nodes=1")
    job.wait_state("FAILED")
    assert job.exit_code == 2
    assert (
        "plca: the recipe wants 2 CPUs where the cluster has 1 free, and the cluster is not one that grows" in job.log
    )


def test_a_node_whose_ray_does_not_start_fails_the_job_at_once_and_shows_why(
    operator: Operator, leaves_nothing: Callable[[Job], None]
) -> None:
    broken = "[[ ${SLURMD_NODENAME:-n1} == n1 ]] || scratch=/proc"
    job = operator.train("no-ray", more=f"{operator.stand_ins(ready='exec sleep 600')}\n{broken}")
    job.wait_state("FAILED", 30)
    assert job.exit_code == 1
    assert "cannot create directory" in job.log.partition("the end of")[2]
    leaves_nothing(job)


def test_a_job_that_somebody_cancels_is_not_requeued(operator: Operator, leaves_nothing: Callable[[Job], None]) -> None:
    """Its driver is told to leave as by a notice, and obeys; a node is told while it still prepares."""
    obeys = "trap 'echo told; exit 85' USR2; trap '' TERM; echo trains; while :; do sleep 0.2; done"
    job = operator.train("cancelled", more=operator.stand_ins(mkdir=SLOW_MKDIR, driver=obeys))
    job.wait_for("trains")
    operator.slurm.run("scancel", str(job.number))
    job.wait_until("end", lambda: not operator.slurm.run("squeue", "--noheader"), 40)
    assert job.state == "CANCELLED"
    assert "told" in job.log.splitlines()
    assert job.log.splitlines()[-1] == "job: not requeued: it is being ended"
    leaves_nothing(job)


@pytest.mark.parametrize("told_while", ["Ray starts", "the driver starts"])
def test_a_notice_before_there_is_anything_to_save_requeues_the_job(
    operator: Operator, leaves_nothing: Callable[[Job], None], told_while: str
) -> None:
    unprepared = operator.stand_ins(driver="echo trains; exec sleep 600")
    busy = operator.stand_ins(ready="exec sleep 600")
    job = operator.train("early", more=busy if told_while == "Ray starts" else unprepared)
    job.wait_for("attempt 1" if told_while == "Ray starts" else "trains")
    job.tell("USR2")
    job.wait_state("PENDING", 30)
    assert "job: requeued" in job.log
    operator.slurm.run("scancel", str(job.number))
    leaves_nothing(job)


def test_the_code_of_the_driver_is_that_of_the_job_and_its_arguments_arrive_as_they_were(operator: Operator) -> None:
    job = operator.train("a name  with spaces", more=operator.stand_ins(driver='printf "<%s>" "$@"; exit 7'))
    job.wait_state("FAILED", 30)
    assert job.exit_code == 7
    assert "<train><toytown><--name><a name  with spaces>" in job.log
