"""The metrics file: continued without gaps or repeats, written by one rank."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plca_dist.messages import Message
from plca_dist.run_files import METRICS, attempt
from plca_dist.storage import resolve
from plca_dist.training import metrics_log as metrics_log_module
from plca_dist.training.checkpoint.commit import Checkpoint, checkpoint_name
from plca_dist.training.metrics_log import MetricsLog, read_records, records_until


def keep(
    place: Path,
    *,
    generation: int = 1,
    start_step: int = 0,
    before: Sequence[dict[str, Any]] = (),
    rank_0: bool = True,
) -> tuple[MetricsLog, list[dict[str, Any]]]:
    shown: list[dict[str, Any]] = []
    return MetricsLog(
        resolve(str(place)), shown.append, generation=generation, start_step=start_step, before=before, keep=rank_0
    ), shown


def test_records_are_shown_at_once_and_written_one_a_line(tmp_path: Path) -> None:
    metrics_log, shown = keep(tmp_path)
    records = [{"step": 1, "loss/total": 2.5}, {"step": 2, "loss/total": float(1 / 3)}, {"step": 2, "miou": 30.25}]
    for record in records:
        metrics_log.add(record)
    metrics_log.show("checkpoint", "checkpoint written")
    assert shown == [*records, Message("checkpoint", "checkpoint written")]
    assert not list(tmp_path.rglob(METRICS))
    metrics_log.flush()
    lines = (tmp_path / attempt(1) / METRICS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == records
    assert read_records(resolve(str(tmp_path))) == records


def test_what_is_not_finite_is_null_in_the_file_and_nan_again_when_it_is_read(tmp_path: Path) -> None:
    metrics_log, _ = keep(tmp_path)
    metrics_log.add({"step": 2, "loss/total": 1.0, "miou": math.nan})
    metrics_log.flush()
    (line,) = (tmp_path / attempt(1) / METRICS).read_text().splitlines()
    assert line == '{"step": 2, "loss/total": 1.0, "miou": null}'
    (record,) = read_records(resolve(str(tmp_path)))
    assert record["loss/total"] == 1.0
    assert math.isnan(record["miou"])


def test_what_lies_past_the_resumed_step_is_dropped_and_written_again(tmp_path: Path) -> None:
    metrics_log, _ = keep(tmp_path)
    for step in range(1, 8):
        metrics_log.add({"step": step, "launch": 1})
        if step in (4, 6):
            metrics_log.add({"step": step, "miou": 10.0 * step})
    metrics_log.flush()
    run = resolve(str(tmp_path))
    before = records_until(run, Checkpoint(checkpoint_name(4, 1, 1), 4, 1, 0, "", None, {}))
    metrics_log, shown = keep(tmp_path, generation=2, start_step=4, before=before)
    assert shown == []
    for step in range(5, 9):
        metrics_log.add({"step": step, "launch": 2})
    metrics_log.flush()
    records = read_records(resolve(str(tmp_path)))
    assert [(r["step"], r.get("launch", "miou")) for r in records] == [
        (1, 1), (2, 1), (3, 1), (4, 1), (4, "miou"), (5, 2), (6, 2), (7, 2), (8, 2),
    ]  # fmt: skip


def test_a_run_that_starts_over_drops_everything(tmp_path: Path) -> None:
    metrics_log, _ = keep(tmp_path)
    metrics_log.add({"step": 1})
    metrics_log.flush()
    metrics_log, _ = keep(tmp_path, generation=2)
    metrics_log.add({"step": 1, "again": True})
    metrics_log.flush()
    assert read_records(resolve(str(tmp_path))) == [{"step": 1, "again": True}]


def test_other_ranks_neither_show_nor_read_nor_write(tmp_path: Path) -> None:
    metrics_log, shown = keep(tmp_path, start_step=5, rank_0=False)
    metrics_log.add({"step": 6})
    metrics_log.show("checkpoint", "hello")
    metrics_log.flush()
    metrics_log.leave()
    assert shown == []
    assert not list(tmp_path.iterdir())


def test_the_result_is_left_once_and_a_late_attempt_changes_nothing_of_it(tmp_path: Path) -> None:
    late, _ = keep(tmp_path)
    late.add({"step": 1})
    heir, _ = keep(tmp_path, generation=2)
    heir.add({"step": 1, "again": True})
    heir.flush()
    heir.leave()
    late.flush()
    late.leave()
    assert read_records(resolve(str(tmp_path))) == [{"step": 1, "again": True}]


def test_a_long_wait_for_the_next_checkpoint_is_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(metrics_log_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    metrics_log, _ = keep(tmp_path)
    metrics_log.add({"step": 1})
    assert not list(tmp_path.rglob(METRICS))
    now[0] = 16.0
    metrics_log.add({"step": 2})
    assert [r["step"] for r in read_records(resolve(str(tmp_path)))] == [1, 2]
