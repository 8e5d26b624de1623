"""The pods of a Ray cluster as processes of this machine, started by the command that the operator makes."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.kuberay.manifests import Object, Pod, environment, pods


class Running:
    """Head and workers, each with the environment and `rayStartParams` of its pod, in an image's working directory.

    What differs from a cluster: ports and temporary directory, of which there is one each on this machine; and CPUs,
    that the operator would take from the limits too.
    """

    def __init__(self, item: Object, bucket: dict[str, str]) -> None:
        self._pods = {pod.role: pod for pod in pods(item)}
        self._folder = Path(tempfile.mkdtemp(prefix="plca-", dir="/tmp"))  # sockets lie in it: a short path
        self._home = self._folder / "home"
        self._home.mkdir()
        self._port, self._dashboard = _free_port(), _free_port()
        self._bucket = bucket
        # As the operator hands the token out; on a cluster it is in a Secret that the operator makes.
        self._token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.address = f"http://127.0.0.1:{self._dashboard}"

    def __enter__(self) -> "Running":
        try:
            self.start("head")
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # Each leads a session of its own, and so do Ray's parts: by their working files they are ours.
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        _end_all_of(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, role: str) -> subprocess.Popen[bytes]:
        """One more pod; returns its process 1."""
        pod = self._pods[role]
        limits = pod.main["resources"]["limits"]
        given = {"num-cpus": str(limits["cpu"]), **pod.start}
        if role == "head":
            given |= {"port": self._port, "dashboard-port": self._dashboard, "dashboard-host": "127.0.0.1"}
            given |= {"temp-dir": self._folder / "ray", "ray-client-server-port": _free_port()}
        else:
            given |= {"address": f"127.0.0.1:{self._port}"}
        given |= {"dashboard-agent-listen-port": 0, "metrics-export-port": _free_port()}
        words = " ".join(f"--{key}={value}" for key, value in given.items())
        command = f"ulimit -n 65536; ray start {'--head ' if role == 'head' else ''}{words} --block"
        log = self._folder / f"{role}-{len(self.processes)}.log"
        process = subprocess.Popen(
            ["/bin/bash", "-c", "--", command],
            cwd=self._home,
            # The operator gives every Ray container the head's address.
            env={**self._environment(pod), "RAY_ADDRESS": f"127.0.0.1:{self._port}"},
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes.append(process)
        # One after the other: two that start at once in one session directory take each other's sockets.
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)
        return process

    def prepare(self) -> None:
        """What the head's init containers do."""
        head = self._pods["head"]
        for container in head.spec.get("initContainers", ()):
            done = subprocess.run(container["command"], cwd=self._home, env=self._environment(head), check=False)
            assert done.returncode == 0

    def submit(self, name: str, entrypoint: str) -> "Submitted":
        """As the submitter's pod: through a shell, and following the log to the end."""
        command = f"ray job submit --address {self.address} --submission-id {name} -- {entrypoint}"
        log = self._folder / f"{name}.log"
        process = subprocess.Popen(
            ["/bin/bash", "-c", "--", command],
            env=self._environment(self._pods["submitter"]),
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes.append(process)
        return Submitted(process, log)

    def _environment(self, pod: Pod) -> dict[str, str]:
        """Of this machine what an image has, of the pod what it names itself, and what site and operator add."""
        image = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self._home),
            "OMP_NUM_THREADS": "1",
        }
        return {**image, **environment(pod.main), **self._bucket, **self._token}

    def _wait_until_it_answers(self) -> None:
        """The job server is the last part to come up."""
        asked = urllib.request.Request(
            f"{self.address}/api/version", headers={"Authorization": f"Bearer {self._token['RAY_AUTH_TOKEN']}"}
        )
        deadline = time.monotonic() + 90
        while not _answers(asked):
            said = (self._folder / "head-0.log").read_text()[-2000:]
            assert self.processes[0].poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.3)


class Submitted:
    """A job as the person at its log sees it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log

    @property
    def text(self) -> str:
        return self._log.read_text()

    def wait_for(self, part: str, seconds: float) -> None:
        """Until the log has `part`."""
        deadline = time.monotonic() + seconds
        while part not in self.text:
            assert self._process.poll() is None, f"it ended without {part!r}: {self.text[-4000:]}"
            assert time.monotonic() < deadline, f"no {part!r} in {seconds:g} s: {self.text[-4000:]}"
            time.sleep(0.1)

    def succeeded(self, seconds: float) -> bool:
        """Wait for its end."""
        try:
            return self._process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not at its end after {seconds:g} s: {self.text[-4000:]}") from None


def _answers(asked: urllib.request.Request) -> bool:
    try:
        urllib.request.urlopen(asked, timeout=5).close()
    except OSError:  # among them urllib's own
        return False
    return True


def _end_all_of(folder: Path) -> None:
    """End what Ray left behind: processes whose command line names `folder`, which is new and nobody else's."""
    import psutil

    for process in psutil.process_iter():
        try:
            if any(str(folder) in word for word in process.cmdline()):
                process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
