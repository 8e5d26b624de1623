"""The whole way on a real Ray cluster with real S3 storage: what a run leaves, and what can be done with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from plca_dist.cli import main
from plca_dist.run.directory import Run
from plca_dist.training.checkpoint.survey import committed


def test_a_run_leaves_its_result_and_nothing_else(undisturbed: Run, runs: Any) -> None:
    names = {e.name.removeprefix("undisturbed/") for e in runs.store.list("undisturbed")}
    checkpoints = committed(undisturbed.store)
    assert [c.step for c in checkpoints][:2] == [runs.steps, runs.steps - runs.every]
    inside = {f"{c.place}/{file}" for c in checkpoints for file in (*c.files, "commit.json")}
    left = {"recipe.yaml", "data.json", "metrics.jsonl", "evaluation.json", "model.safetensors"}
    own = ("recipe.yaml", "history.json", "metrics.jsonl", "evaluation.json")
    left |= {f"attempts/00000001/{file}" for file in own}
    (events,) = [name for name in names if name.startswith("tensorboard/")]
    assert names - inside == {*left, events, "lease/00000001.json"}
    assert runs.recorded("undisturbed") == list(range(1, runs.steps + 1))
    assert json.loads(runs.store.read("undisturbed/evaluation.json"))["images"] == 6


def test_the_same_command_finds_it_finished(undisturbed: Run, runs: Any, capfd: pytest.CaptureFixture[str]) -> None:
    before = {e: runs.store.read(e.name) for e in runs.store.list("undisturbed")}
    assert main(runs.command("undisturbed")) == 0
    out, err = capfd.readouterr()
    assert err == f"run {runs.store.uri}/undisturbed is finished; nothing to do\n"
    assert out.endswith(f"\nrun: {runs.store.uri}/undisturbed\n")
    assert "mIoU" in out
    assert {e: runs.store.read(e.name) for e in runs.store.list("undisturbed")} == before


def test_evaluation_is_the_same_in_one_process_in_two_workers_and_in_the_run(
    undisturbed: Run, runs: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = json.loads(runs.store.read("undisturbed/evaluation.json"))["scores"]
    base = ["evaluate", "--data", f"{runs.shards.uri}/val", "--json"]
    newest = committed(undisturbed.store)[0]
    for name, place, more in (
        ("one", f"{runs.store.uri}/undisturbed", []),
        ("two", f"{runs.store.uri}/undisturbed", ["--workers", "2"]),
        ("checkpoint", f"{runs.store.uri}/undisturbed/{newest.place}", []),
        ("file", f"{runs.store.uri}/undisturbed/model.safetensors", ["--workers", "2"]),
    ):
        assert main([*base, str(tmp_path / name), place, *more]) == 0
        assert json.loads((tmp_path / name).read_text())["scores"] == own, name
    assert main(["evaluate", "--data", f"{runs.shards.uri}/val", f"{runs.store.uri}/undisturbed/{newest.place}"]) == 0
    beside = f"undisturbed/evaluations/val-{newest.name}.json"
    assert json.loads(runs.store.read(beside))["scores"] == own, "not where the run's own evaluations go"
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


@pytest.mark.usefixtures("ray_session")
def test_the_doctor_finds_all_well(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--storage", "s3://bucket/cluster"]) == 0
    out, err = capfd.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == [
        f"ok    {what}" for what in ("Python", "torch", "images", "CUDA", "DeepSpeed", "Ray", "store")
    ]
    assert err == ""
