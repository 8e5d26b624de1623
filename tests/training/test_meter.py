"""Averages and rates of the log records."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from plca_dist.training import meter as meter_module
from plca_dist.training import metrics
from plca_dist.training.meter import Meter

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("group")


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still until it is told to go on."""
    now = [1000.0]
    monkeypatch.setattr(meter_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def go_on(seconds: float) -> None:
        now[0] += seconds

    return go_on


def terms(total: float, **others: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in {"total": total, **others}.items()}


def test_terms_are_averaged_over_the_passes_since_the_last_record() -> None:
    meter = Meter(4, CPU)
    for step in range(3):
        for k in range(2):
            meter.add(terms(float(2 * step + k), consistent_feature=0.5 + 0.1 * k))
        meter.step()
    record = meter.record(lr=0.1)
    assert record[metrics.STEP] == 3
    assert record[metrics.TOTAL_LOSS] == pytest.approx(2.5)
    assert record["consistent/feature"] == pytest.approx(0.55)
    assert record[metrics.LEARNING_RATE] == 0.1
    meter.add(terms(7.0, consistent_feature=1.0))
    meter.step()
    record = meter.record(lr=0.2)
    assert (record[metrics.STEP], record[metrics.TOTAL_LOSS], record["consistent/feature"]) == (4, 7.0, 1.0)


def test_rates_count_neither_evaluation_nor_checkpoints(pass_time: Callable[[float], None]) -> None:
    meter = Meter(8, CPU)
    meter.begin(100)
    for _ in range(5):
        with meter.waiting():
            pass_time(0.5)
        meter.add(terms(1.0))
        pass_time(1.5)
        meter.step()
    with meter.paused():
        pass_time(90.0)
    record = meter.record(lr=0.1)
    assert record[metrics.STEP] == 105
    assert record[metrics.PAIRS_PER_SECOND] == pytest.approx(8 * 5 / 10)
    assert record[metrics.DATA_WAIT] == pytest.approx(0.25)
    assert record[metrics.ELAPSED] == pytest.approx(100.0)
    meter.add(terms(1.0))
    meter.step()
    pass_time(4.0)
    record = meter.record(lr=0.1)
    assert record[metrics.PAIRS_PER_SECOND] == pytest.approx(2.0)
    assert record[metrics.DATA_WAIT] == 0.0
    assert record[metrics.ELAPSED] == pytest.approx(104.0)


def test_a_meter_keeps_no_graph() -> None:
    meter = Meter(1, CPU)
    weight = torch.ones((), requires_grad=True)
    meter.add({"total": weight * 3})
    assert not meter._of_step["total"].requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_is_known_before_its_step_is_done(bad: float) -> None:
    meter = Meter(4, CPU)
    meter.add(terms(1.0, lovasz=0.3))
    assert meter.finite()
    meter.step()
    meter.add(terms(bad, lovasz=0.5))
    meter.add(terms(1.0, lovasz=0.7))  # the second pass of an accumulated step
    assert not meter.finite()
    assert meter.terms_of_step()["lovasz"] == pytest.approx(0.6)
    assert meter.terms_of_step()["total"] == pytest.approx(bad, nan_ok=True)
