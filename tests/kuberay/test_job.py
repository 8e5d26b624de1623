"""The smoke overlay's jobs, run for real: its pods' Ray on this machine, its entrypoints through Ray's job server."""

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Iterator

import pytest
from pyarrow import fs

from benchmarks.servers.seaweed import ACCESS, S3, SECRET, s3_environment
from plca_dist.storage import Store, resolve
from plca_dist.training.checkpoint.survey import committed
from tests.environment import set_all
from tests.kuberay.manifests import ray_object
from tests.kuberay.pods import Running

TRAIN, TUNE = ray_object("overlays/cpu-smoke/train"), ray_object("overlays/cpu-smoke/tune")


def argument(entrypoint: str, option: str) -> str:
    words = shlex.split(entrypoint)
    return words[words.index(option) + 1]


@pytest.fixture(scope="module")
def cluster(s3_server: S3) -> Iterator[Running]:
    """The smoke overlay's pods, with the shards that its init container draws."""
    bucket = argument(TRAIN["spec"]["entrypoint"], "--storage").split("/")[2]
    fs.S3FileSystem(
        access_key=ACCESS, secret_key=SECRET, endpoint_override=s3_server.endpoint.removeprefix("http://"),
        scheme="http", region="us-east-1", allow_bucket_creation=True,
    ).create_dir(bucket)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        variables = s3_environment(s3_server)
        set_all(patch, variables)
        with Running(TRAIN, variables) as running:
            running.prepare()
            yield running


@pytest.mark.ci
@pytest.mark.timeout(600)
def test_a_training_finishes(cluster: Running) -> None:
    workers = cluster.start("workers"), cluster.start("workers")
    job = cluster.submit("plca-train-0", TRAIN["spec"]["entrypoint"])
    assert job.succeeded(400), job.text
    assert committed(_run())[0].step == 60
    assert _run().exists("model.safetensors")
    for pod in workers:
        pod.terminate()
        pod.wait(60)


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_a_training_outlives_a_pod_that_is_taken_away(cluster: Running) -> None:
    """The node drains at SIGTERM, the run checkpoints and leaves with 85, its pod ends; a retry finishes the run."""
    entrypoint, run = TRAIN["spec"]["entrypoint"], _run()
    run.delete_tree("")  # what a test before has left
    stays, goes = cluster.start("workers"), cluster.start("workers")
    first = cluster.submit("plca-train-1", entrypoint)
    first.wait_for("checkpoint step-", 120)
    began = time.monotonic()
    # To the shell in front of `ray start`, which is the pod's process 1: nothing may stand between it and Ray.
    os.kill(goes.pid, signal.SIGTERM)
    assert not first.succeeded(90)
    assert re.search(r"node \w+ drains\): checkpoint step-\d+-of-2-g\d+ committed", first.text), first.text
    assert "exit code 85" in first.text, first.text
    goes.wait(60)
    assert time.monotonic() - began < 100  # within the pod's grace, less a margin
    assert stays.poll() is None
    reached = committed(run)[0].step
    assert 0 < reached < 60

    cluster.start("workers")
    # The same command in a new attempt; the operator would make a new cluster too.
    second = cluster.submit("plca-train-2", entrypoint)
    assert second.succeeded(150), second.text
    assert f"continuing from step {reached}" in second.text, second.text
    steps = _steps(run)
    assert steps == sorted(set(steps)), "a step was trained twice"
    assert committed(run)[0].step == steps[-1] == 60
    assert run.exists("model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_finishes(cluster: Running) -> None:
    entrypoint = TUNE["spec"]["entrypoint"]
    cluster.start("workers")
    cluster.start("workers")
    job = cluster.submit("plca-tune-1", entrypoint)
    assert job.succeeded(500), job.text
    search = resolve(argument(entrypoint, "--storage")).child(argument(entrypoint, "--name"))
    assert search.exists("best.yaml")


def _run() -> Store:
    """Of the training's entrypoint."""
    entrypoint = TRAIN["spec"]["entrypoint"]
    return resolve(argument(entrypoint, "--storage")).child(argument(entrypoint, "--name"))


def _steps(run: Store) -> list[int]:
    """Steps with a loss in the run's metrics."""
    records = map(json.loads, run.read("metrics.jsonl").decode().splitlines())
    return [r["step"] for r in records if "loss/total" in r]
