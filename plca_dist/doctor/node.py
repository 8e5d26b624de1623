"""The checks that a node of the cluster makes of itself, for `plca doctor --cluster`.

This module travels to the node by value, so that it works where this package is missing, which is one of the findings.
So it imports nothing but the standard library and versions.py, which travels with it, and takes plain values only.
"""

import importlib.util
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


def look(storage: tuple[str, str | None], token: tuple[str, bytes] | None, answer: str, metrics: str) -> dict[str, Any]:
    """Versions, GPUs, shared memory and the store as they are on this node.

    Args:
        storage: the fields of the `Location` of the store to try.
        token: name and content of an object that the driver left in the store; None: do not try the store.
        answer: name of the object to write into the store.
        metrics: URL of this node's metrics agent.

    Returns:
        python, versions (None: not installed), wuffs (whether pywuffs is installed), gpus (their names), shm_bytes
        (None: there is no /dev/shm), metrics (whether the agent answers); gpus_problem and store_problem ("": none).
    """
    gpus, gpus_problem = _gpus()
    return {
        "python": platform.python_version(),
        "versions": installed(),
        "wuffs": importlib.util.find_spec("pywuffs") is not None,
        "gpus": gpus,
        "gpus_problem": gpus_problem,
        "shm_bytes": shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,
        "store_problem": _store_problem(storage, token, answer) if token else "",
        "metrics": _answers(metrics),
    }


def _gpus() -> tuple[list[str], str]:
    """Names of all GPUs of the node, and a problem or "".

    Ray gives this task none of them, so CUDA_VISIBLE_DEVICES is left out. A broken driver may end a process, so a
    process of its own asks torch.
    """
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


def _store_problem(storage: tuple[str, str | None], token: tuple[str, bytes], answer: str) -> str:
    name, content = token
    try:
        from plca_dist.storage import Location, probe  # here: the package may be missing on the node

        store = probe(Location(*storage))
        if not store.exists(name):
            return f"{store.uri}: what the driver wrote is not there; {SHARED}"
        if store.read(name) != content:
            return f"{store.uri}: reads other bytes than the driver wrote; {SHARED}"
        store.write(answer, content)
    except Exception as error:  # whatever it is, it is a finding
        for_people = any(kind.__name__ == "UserError" for kind in type(error).__mro__)
        return str(error) if for_people else f"{type(error).__name__}: {error}"
    return ""


def _answers(url: str) -> bool:
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with directly.open(url, timeout=10) as response:
            return bool(response.status == 200)
    except OSError:
        return False
