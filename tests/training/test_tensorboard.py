"""TensorBoard's own reader finds in the files what the metrics hold, across kills and resumes."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing import event_accumulator, tag_types

from plca_dist.run_files import TENSORBOARD, attempt
from plca_dist.storage import resolve
from plca_dist.training.metrics_log import MetricsLog
from plca_dist.training.tensorboard import EventFile


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw for the run."""
    reader = event_accumulator.EventAccumulator(str(run / TENSORBOARD))
    reader.Reload()
    return {tag: [(s.step, s.value) for s in reader.Scalars(tag)] for tag in reader.Tags()[tag_types.SCALARS]}


def keep(run: Path, *, start_step: int = 0) -> MetricsLog:
    return MetricsLog(resolve(str(run)), lambda record: None, generation=1, start_step=start_step, keep=True)


def test_what_is_measured_is_read_back_and_nothing_else(tmp_path: Path) -> None:
    metrics_log = keep(tmp_path)
    metrics_log.add({"step": 1, "loss/total": 2.5, "data_wait": 0.25, "elapsed_s": 3.0, "note": "no number"})
    metrics_log.add({"step": 300, "loss/total": -1e-3, "data_wait": 0.0})
    metrics_log.add({"step": 300, "miou": 31.5})
    metrics_log.show("checkpoint", "checkpoint", checkpoint_s=1.0)
    metrics_log.flush()
    assert curves(tmp_path) == {
        "loss/total": [(1, 2.5), (300, pytest.approx(-1e-3))],
        "data_wait": [(1, 0.25), (300, 0.0)],
        "miou": [(300, 31.5)],
    }


def test_steps_that_a_kill_undid_are_drawn_once_as_they_ended(tmp_path: Path) -> None:
    for launch, (start_step, last) in enumerate(((0, 7), (4, 6), (6, 9))):
        metrics_log = keep(tmp_path, start_step=start_step)
        for step in range(start_step + 1, last + 1):
            metrics_log.add({"step": step, "loss/total": float(10 * launch + step)})
        metrics_log.flush()
    expected = [1, 2, 3, 4, 15, 16, 27, 28, 29]
    assert curves(tmp_path)["loss/total"] == [(i + 1, float(v)) for i, v in enumerate(expected)]
    assert len(list((tmp_path / TENSORBOARD).iterdir())) == 3


def test_a_step_undone_and_never_reached_again_is_gone(tmp_path: Path) -> None:
    metrics_log = keep(tmp_path)
    for step in range(1, 6):
        metrics_log.add({"step": step, "loss/total": 1.0})
    metrics_log.flush()
    metrics_log = keep(tmp_path, start_step=2)
    metrics_log.add({"step": 3, "miou": 5.0})
    metrics_log.flush()
    assert curves(tmp_path) == {"loss/total": [(1, 1.0), (2, 1.0)], "miou": [(3, 5.0)]}


def test_a_large_step_and_a_long_name_survive(tmp_path: Path) -> None:
    events = EventFile(start_step=2**33, generation=1)
    events.add({"step": 2**33 + 1, "x" * 300: 1.5})
    (tmp_path / TENSORBOARD).mkdir()
    (tmp_path / events.name).write_bytes(events.encoded())
    assert curves(tmp_path) == {"x" * 300: [(2**33 + 1, 1.5)]}


def test_other_ranks_leave_no_file_and_a_store_that_refuses_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = MetricsLog(resolve(str(tmp_path)), lambda record: None, generation=1, start_step=0, keep=False)
    other.add({"step": 1, "miou": 1.0})
    other.flush()
    assert not list(tmp_path.iterdir())
    (tmp_path / TENSORBOARD).write_text("a file where the folder should be")
    metrics_log = keep(tmp_path)
    metrics_log.add({"step": 1, "miou": 1.0})
    metrics_log.flush()
    assert (tmp_path / attempt(1) / "metrics.jsonl").exists()
    assert "TensorBoard's file could not be written" in caplog.text
