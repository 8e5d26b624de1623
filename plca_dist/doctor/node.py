"""What a node of the cluster finds out about itself for `plca doctor --cluster`.

It travels there by value, so that it works where this package is missing, which is one of the things to find out:
nothing but the standard library is imported up here.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from plca_dist.versions import installed

SHARED = "give --storage a bucket, or a directory that all nodes share"

_GPU_NAMES = (
    "import json, torch; c = torch.cuda; print(json.dumps([c.get_device_name(i) for i in range(c.device_count())]))"
)


def look(
    storage: str, endpoint: str | None, token: tuple[str, bytes] | None, answer: str, metrics: str
) -> dict[str, Any]:
    """Versions, GPUs, shared memory and the store as they are on this node.

    Args:
        storage: URI of the store to try.
        token: name and content of an object that the asker left there; None: do not try the store.
        answer: name of the object to leave there.
        metrics: URL of this node's metrics agent.

    Returns:
        python, versions (None: not installed), gpus (their names), shm_bytes (None: there is no /dev/shm), metrics
        (whether the agent answers); gpus_problem and store_problem ("": none).
    """
    gpus, gpus_problem = _gpus()
    return {
        "python": platform.python_version(),
        "versions": installed(),
        "gpus": gpus,
        "gpus_problem": gpus_problem,
        "shm_bytes": shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,
        "store_problem": _store_problem(storage, endpoint, token, answer) if token else "",
        "metrics": _answers(metrics),
    }


def _gpus() -> tuple[list[str], str]:
    """All of the node's, though Ray gives this task none: in a process of its own, as a broken driver may end one."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-c", _GPU_NAMES]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        return [], "torch did not list its GPUs within 90 s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [], f"torch could not list its GPUs (exit code {done.returncode}: {last[:200]})"
    return json.loads(done.stdout.splitlines()[-1]), ""


def _store_problem(storage: str, endpoint: str | None, token: tuple[str, bytes], answer: str) -> str:
    name, content = token
    try:
        from plca_dist.storage import probe

        store = probe(storage, endpoint)
        if not store.exists(name):
            return f"{store.uri}: what the driver wrote is not there; {SHARED}"
        if store.read(name) != content:
            return f"{store.uri}: reads other bytes than the driver wrote; {SHARED}"
        store.write(answer, content)
    except Exception as error:  # whatever it is, it belongs into the report
        ours = any(kind.__name__ == "UserError" for kind in type(error).__mro__)
        return str(error) if ours else f"{type(error).__name__}: {error}"
    return ""


def _answers(url: str) -> bool:
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with directly.open(url, timeout=10) as response:
            return bool(response.status == 200)
    except OSError:
        return False
