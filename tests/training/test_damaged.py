"""Damaged rows that training passes over are counted, from the stream to the run's metrics."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plca_dist.config import Config
from plca_dist.data.datasets.layouts import open_dataset
from plca_dist.data.order import Order
from plca_dist.data.shards import Damaged, write_shards
from plca_dist.storage import resolve
from plca_dist.training import loop as worker
from plca_dist.training import meter as meter_module
from plca_dist.training import metrics
from plca_dist.training.meter import Meter

PAIRS, STEPS = 4, 6
ROW_GROUPS = (4, 4, 4, 4, 4, 4)
LOST = range(8, 12)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """24 scenes in row groups of 4, of which the source's third is damaged."""
    place = resolve(str(tmp_path / "damaged"))
    for name, labelled in (("source", True), ("target", False)):
        reader = open_dataset("toytown", None, name, with_labels=labelled, count=24, size=(32, 64))
        write_shards(reader, place.child(name), with_labels=labelled, shard_rows=4)
    shard = "source/shard-00002.parquet"
    data = bytearray(place.read(shard))
    data[len(data) // 4] ^= 1
    place.write(shard, bytes(data))
    return Path(place.root)


def in_metrics(run: Path) -> list[int]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [r.get(metrics.DATA_SKIPPED, 0) for r in lines if metrics.TOTAL_LOSS in r]


def test_a_run_counts_what_it_passes_over_step_by_step_and_once(
    make_config: Callable[..., Config],
    train: Callable[..., Any],
    damaged: Path,
    tmp_path: Path,
    interrupt: SimpleNamespace,
) -> None:
    """The stream prepares samples ahead of the steps, and a resumed one starts to count anew: neither is seen."""
    config = make_config(f"data={damaged}", "order.damaged=skip", "checkpoint.every=3")
    order = Order(ROW_GROUPS, PAIRS, config.seed, "source", config.order.window)
    expected = [sum(order.sample(step, slot) in LOST for slot in range(PAIRS)) for step in range(STEPS)]
    assert sum(expected) == len(LOST)
    train(config, tmp_path / "whole")
    assert in_metrics(tmp_path / "whole") == expected

    interrupt.at(worker, "average_buffers", 5)
    with pytest.raises(interrupt.error):
        train(config, tmp_path / "cut")
    interrupt.end()
    train(config, tmp_path / "cut")
    assert in_metrics(tmp_path / "cut") == expected


def test_a_run_that_was_not_told_to_pass_over_damage_stops_at_it(
    make_config: Callable[..., Config], train: Callable[..., Any], damaged: Path, tmp_path: Path
) -> None:
    with pytest.raises(Damaged, match=r"source/shard-00002\.parquet.*rows 0 to 3.*order\.damaged=skip"):
        train(make_config(f"data={damaged}"), tmp_path / "run")


@pytest.mark.usefixtures("group")
def test_a_record_holds_what_all_ranks_passed_over_since_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, of_the_other = Meter(4, torch.device("cpu")), iter([2, 0, 0, 0])

    def with_another_rank(values: torch.Tensor) -> None:
        """Of the same losses."""
        values.mul_(torch.tensor([2.0, 1.0])).add_(torch.tensor([0.0, float(next(of_the_other))]))

    monkeypatch.setattr(meter_module.dist, "all_reduce", with_another_rank)
    monkeypatch.setattr(meter_module.dist, "get_world_size", lambda: 2)
    found = []
    for so_far in (3, 3, 4, 4):
        meter.add({"total": torch.tensor(1.5)})
        meter.step()
        record = meter.record(0.1, skipped=so_far)
        assert record[metrics.TOTAL_LOSS] == 1.5, "the count is no loss: it is not averaged"
        found.append(record.get(metrics.DATA_SKIPPED))
    assert found == [5, None, 1, None]
