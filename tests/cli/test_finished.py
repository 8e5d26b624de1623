"""`plca train` of a run that is finished shows what it left, with labels to evaluate on and without."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from plca_dist.cli import main


@pytest.mark.parametrize("with_labels", [True, False])
def test_a_finished_run_shows_its_result(
    run: Path,
    toytown_shards: Path,
    training: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    with_labels: bool,
) -> None:
    outcome = {"step": 600, "unlabelled": 4, "criteria": {"criteria/entropy": 0.25}}
    if with_labels:
        assert main(["evaluate", str(run), "--data", str(toytown_shards / "val")]) == 0
        outcome |= json.loads((run / "evaluations" / "val.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(outcome))
    capsys.readouterr()
    assert main([*training(run.parent), "--name", "made"]) == 0
    out, err = capsys.readouterr()
    assert "is finished; nothing to do" in err
    assert out.splitlines()[-1] == f"run: {run}"
    assert ("mIoU" in out) == with_labels
