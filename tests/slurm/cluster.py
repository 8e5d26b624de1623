"""A real Slurm on this machine: two nodes that are one host, told apart by their names and ports.

Nothing of the system is used but the programs: configuration, key, sockets and state are in one directory, the ports
are free ones, and all processes are ended by their ids.
"""

import contextlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from tests.slurm.job import Job

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "srun")
NODES = ("n1", "n2")
_SYSTEM = "/usr/sbin:/sbin"

_CONFIGURATION = """
ClusterName=plca
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=0,sched_interval=1
MpiDefault=none
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=30
MinJobAge=3600
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]},{ports[2]}] CPUs=2 RealMemory=8000 Gres=gpu:1
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    """Ports below those that systems hand out, so that nobody gets them before they are listened at."""
    found: list[int] = []
    for port in random.sample(range(12000, 20000), 500):
        with socket.socket() as taken:
            if taken.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == count:
            break
    return sorted(found)


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if not _program(name)]


class Slurm:
    """A running cluster. A context manager.

    Attributes:
        environment: of a shell in which its commands work.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("state", "munge", *(f"spool.{node}" for node in NODES)):
            (folder / name).mkdir(mode=0o700)
        # Tests' own Ray settings are not those of a person who submits a job.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_", "SBATCH_", "PLCA_"))}
        self.environment = {**kept, "SLURM_CONF": str(folder / "slurm.conf")}
        user = pwd.getpwuid(os.getuid()).pw_name
        told = {"host": socket.gethostname(), "folder": folder, "ports": free_ports(3), "user": user}
        (folder / "slurm.conf").write_text(_CONFIGURATION.format(**told))
        # A device that is there, for Slurm counts none without; nothing opens it.
        (folder / "gres.conf").write_text(f"NodeName={','.join(NODES)} Name=gpu File=/dev/null\n")
        (folder / "munge" / "key").write_bytes(secrets.token_bytes(128))
        (folder / "munge" / "key").chmod(0o600)

    def __enter__(self) -> "Slurm":
        here = self.folder / "munge"
        files = [f"--{name}-file={here / name}" for name in ("key", "pid", "log", "seed")]
        self.run("munged", "--force", f"--socket={here / 'socket'}", *files)
        self.run("slurmctld")
        for node in NODES:
            self.give_back(node)
        return self

    def __exit__(self, *_: object) -> None:
        self.run("scancel", "--full", "--signal=KILL", f"--user={os.getuid()}", check=False)
        _kill(self._found(lambda process: process.cwd() == str(self.folder) or self._ours(process)))

    def run(self, program: str, *arguments: str, check: bool = True, **options: Any) -> str:
        """What a command prints."""
        done = subprocess.run(
            [_program(program) or program, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            **options,
        )
        assert not check or done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stdout}"
        return done.stdout

    def sbatch(self, *arguments: str, cwd: Path) -> Job:
        """Submit from the directory `cwd`, where the job's log goes."""
        number = self.run("sbatch", "--parsable", *arguments, cwd=cwd).strip()
        return Job(int(number), cwd, self.run)

    def processes(self, belongs: Callable[[dict[str, str]], bool] = lambda environment: True) -> list[psutil.Process]:
        """Those that were started by jobs of this cluster, and whose environment is as asked for."""
        return self._found(lambda p: self._ours(p) and "SLURM_JOB_ID" in p.environ() and belongs(p.environ()))

    def _ours(self, process: psutil.Process) -> bool:
        return process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]

    def _found(self, wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                found += [process] if wanted(process) else []
        return found

    def take_away(self, node: str) -> None:
        """The node is gone from one moment to the next, with all that ran on it, and Slurm gets to know it."""
        os.kill(int((self.folder / f"slurmd.{node}.pid").read_text()), signal.SIGKILL)
        here = self.processes(lambda environment: environment.get("SLURMD_NODENAME") == node)
        assert here, f"nothing runs on {node}"
        _kill([p for one in here if (p := one.parent()) and p.name() == "slurmstepd"] + here)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=gone")

    def give_back(self, node: str) -> None:
        """Start the node, and wait until Slurm counts on it."""
        self.run("slurmd", "-N", node)
        deadline = time.monotonic() + 30
        while "State=IDLE" not in (told := self.run("scontrol", "show", "node", node)):
            assert time.monotonic() < deadline, told
            time.sleep(0.1)


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # its end was that of another one
            process.kill()


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:{_SYSTEM}")
