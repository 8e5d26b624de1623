"""Credentials stay in the environment: no file, log, page, line of output or command line repeats one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.servers.seaweed import S3

#: All commands in one process and one cluster, as each would start it. While they run a thread looks at the command
#: lines of all processes; before the cluster ends its directory is searched. Its argument: the commands.
COMMANDS = """
import glob, json, os, shutil, sys, threading
from pathlib import Path
from plca_dist.cli import main
from plca_dist.config import ClusterSettings
from plca_dist.ray_cluster.connect import connection
from plca_dist.ray_cluster.internals import core

secrets, commands = json.loads(os.environ.pop("PLANTED")), json.loads(sys.argv[1])
over, found = threading.Event(), set()

def look():
    while not over.wait(0.2):
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                line = Path(path).read_bytes()
            except OSError:
                continue
            found.update(f"a command line has {name}" for name, value in secrets.items() if value.encode() in line)

threading.Thread(target=look).start()
try:
    with connection(ClusterSettings(workers=2), print):
        secrets["RAY_AUTH_TOKEN"] = os.environ["RAY_AUTH_TOKEN"]
        codes = [main(command) for command in commands]
        folder = Path(core.logs_directory()).parents[2]
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in files:
            data = path.read_bytes()
            found.update(f"{path} has {name}" for name, value in secrets.items() if value.encode() in data)
    kept = [str(path) for path in folder.rglob("*.log")]
finally:
    over.set()
shutil.rmtree(folder)
print(json.dumps({"found": sorted(found), "codes": codes, "logs": len(kept), "token": secrets["RAY_AUTH_TOKEN"]}))
"""
#: Whose variables are set by nobody but this test.
CLOUDS = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR", "RAY_AUTH")
SPACE = """
search: {optimizer.lr: {grid: [0.01]}}
metric: entropy
algorithm: grid
evaluations: 1
unlabelled: 2
concurrency: 1
resources: {workers: 1}
set: {schedule.steps: 2}
"""


def planted(folder: Path) -> dict[str, str]:
    """A value for each variable that holds a secret, and a file of Google's; no two are alike."""
    names = (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_CLIENT_SECRET", "AZURE_STORAGE_CLIENT_SECRET", "AZURE_PASSWORD", "GOOGLE_API_KEY", "HF_TOKEN",
        "RAY_REDIS_PASSWORD",
    )  # fmt: skip
    secrets = {name: f"plantedsecret{number:02}" for number, name in enumerate(names)}
    secrets["account"] = "plantedsecretaccount"
    secrets["private_key"] = "plantedsecretgoogle"
    account = {
        "type": "service_account",
        "private_key": secrets["private_key"],
        "client_email": "a@b",
        "token_uri": "c",
    }
    (folder / "google.json").write_text(json.dumps(account))
    return secrets


@pytest.mark.ci
def test_no_secret_is_repeated(
    s3_server: S3, toytown_shards: Path, toytown_settings: list[str], tmp_path: Path
) -> None:
    """By train, tune, doctor, evaluate and report."""
    secrets = planted(tmp_path)
    runs, temporary = tmp_path / "runs", tmp_path / ("é" + "long" * 20)
    temporary.mkdir()
    (tmp_path / "space.yaml").write_text(SPACE)
    few = ["schedule.steps=2", "checkpoint.every=1", "cluster.workers=1", f"storage.uri={runs}"]
    sets = [part for setting in (*toytown_settings, *few) for part in ("--set", setting)]
    run = str(runs / "run")
    commands = [
        ["train", "toytown", "--name", "run", *sets],
        ["tune", str(tmp_path / "space.yaml"), "--recipe", "toytown", "--name", "search", *sets],
        *(["doctor", "--storage", f"{scheme}://bucket/doctor"] for scheme in ("s3", "gs", "az")),
        ["evaluate", run, "--data", f"{toytown_shards}/val", "--workers", "2", "--json", str(tmp_path / "scores.json")],
        ["report", run, "--out", str(tmp_path / "page")],
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(CLOUDS)}
    environment |= {k: v for k, v in secrets.items() if k.isupper()}
    environment |= {
        "PLANTED": json.dumps(secrets),
        "TMPDIR": str(temporary),
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=mine;AccountKey={secrets['account']}",
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "google.json"),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *printed, last = done.stdout.splitlines()
    told = json.loads(last)
    assert told["codes"] == [0, 0, 1, 1, 1, *(0 for _ in commands[5:])], done.stdout + done.stderr
    assert told["found"] == []
    assert told["logs"] > 3, "Ray's logs were looked for elsewhere"
    secrets["RAY_AUTH_TOKEN"] = told["token"]
    (tmp_path / "output").write_text("\n".join(printed) + done.stderr)
    (tmp_path / "google.json").unlink()
    for path in tmp_path.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not [name for name, value in secrets.items() if value.encode() in data], path
    assert list(temporary.iterdir()) == [], "left in TMPDIR"
