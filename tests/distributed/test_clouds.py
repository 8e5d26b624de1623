"""The whole way with Azure's and Google's stores: shards, run, evaluation. On S3 the other files here go it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plca_dist.cli import main
from plca_dist.data.prepare import prepare_toytown
from plca_dist.errors import RunPreempted
from plca_dist.messages import Message, RunEvent
from plca_dist.run.directory import Run
from plca_dist.run.history import read_history
from plca_dist.run.preemption import StopRequests
from plca_dist.run.train import train
from plca_dist.storage import resolve
from plca_dist.training.checkpoint.survey import committed


@pytest.mark.parametrize(
    ("server", "bucket"),
    [
        pytest.param("gcs_server", "gs://bucket", marks=pytest.mark.slow),
        pytest.param("azure_server", "az://bucket", marks=pytest.mark.ci),
    ],
)
def test_a_run_left_and_continued_is_the_one_on_s3_in_every_bit(
    server: str,
    bucket: str,
    undisturbed: Run,
    runs: Any,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Left with a checkpoint after a notice, continued by `plca train`, and evaluated in one process."""
    request.getfixturevalue(server)
    store, shards = (resolve(f"{bucket}/cluster/{folder}") for folder in ("runs", "shards"))
    there = replace(runs, store=store, shards=shards)
    prepare_toytown(there.shards, size=(32, 64), count=24, progress=lambda what, done, total: None)
    data, requests = f"data={there.shards.uri}", StopRequests()

    def show(event: RunEvent) -> None:
        if isinstance(event, Message) and event.kind == "checkpoint":
            requests.give("signal", "SIGTERM", final=True)

    with pytest.raises(RunPreempted, match="the same command continues it"):
        train(there.config(data), "left", show, requests)
    newest = committed(there.store.child("left"))[0]
    assert there.every <= newest.step < there.steps
    assert there.recorded("left") == list(range(1, newest.step + 1))
    assert not there.of_ray("left")
    assert capfd.readouterr() == ("", ""), "a library chats"

    assert main(there.command("left", data)) == 0
    out, err = capfd.readouterr()
    assert out.endswith(f"\nrun: {there.store.uri}/left\n")
    assert f"continuing from step {newest.step} ({newest.name})" in err.splitlines()
    told = ("starting ", "continuing ", "checkpoint ", f"step {there.steps}: ")
    assert not [line for line in err.splitlines() if not line.startswith(told) and f"/{there.steps} " not in line]
    assert there.weights("left") == runs.weights("undisturbed")
    assert there.recorded("left") == list(range(1, there.steps + 1))
    assert [a.end for a in read_history(there.store.child("left"))] == ["preempted", "finished"]
    assert not there.of_ray("left")
    assert committed(there.store.child("left"))[0].step == there.steps

    scores = json.loads(undisturbed.store.read("evaluation.json"))["scores"]
    assert json.loads(there.store.read("left/evaluation.json"))["scores"] == scores
    place = f"{there.store.uri}/left"
    assert main(["evaluate", place, "--data", f"{there.shards.uri}/val", "--json", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["scores"] == scores
    chat = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("images ")]
    assert not chat, "a library chats"
