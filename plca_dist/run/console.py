"""The progress of a run on a terminal or in a log.

The most important fields come first, because a narrow terminal cuts off the last ones.
"""

import time
from collections.abc import Callable
from typing import Self, TextIO

from plca_dist.messages import Message, Record, RunEvent
from plca_dist.terminal import Line, Pace, duration
from plca_dist.training import metrics

_SHORT = {
    "cross_entropy": "ce", "lovasz": "lov", "feature": "feat", "prediction": "pred",
    "smoothing_source": "lsr-s", "smoothing_target": "lsr-t",
    "class_mix": "mix", "masked_consistency": "mask", "feature_distance": "dist",
    "entropy": "ent", "max_square": "sq", "adversarial": "adv", "discriminator": "disc", "pseudo_labels": "self",
}  # fmt: skip
_RATES: dict[str, Callable[[float], str]] = {
    metrics.PAIRS_PER_SECOND: lambda v: f"{v:.1f} pairs/s",
    metrics.DATA_WAIT: lambda v: f"data wait {100 * v:.0f}%",
    metrics.GPU_MEMORY: lambda v: f"GPU {v:.1f} GB",
}
#: Criteria without labels -> their name in a line, and their format.
_CRITERIA: dict[str, tuple[str, Callable[[float], str]]] = {
    metrics.DENSITY: ("density", lambda v: f"{v:.3f}"),
    metrics.ENTROPY: ("entropy", lambda v: f"{v:.3f}"),
    metrics.CYCLES_FEATURE: ("cycles", lambda v: f"{100 * v:.0f}%"),
    metrics.CYCLES_PREDICTION: ("cycles", lambda v: f"{100 * v:.0f}%"),
}


class Console:
    """Shows a run's records (metrics, evaluations, messages): `with Console(steps) as console: train(…, console.show)`.

    Args:
        total_steps: optimizer steps of the whole run.
        stream: standard error where none is given.
        label: of the run, e.g. "source-only"; put before every line.
        clock: seconds since any moment.
    """

    def __init__(
        self,
        total_steps: int,
        stream: TextIO | None = None,
        label: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._label = total_steps, label
        self._line = Line(stream, clock)
        self._last: Record = {}
        self._miou: list[float] = []
        self._pace = Pace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def show(self, event: RunEvent) -> None:
        """Show an event. Messages and evaluations always appear, training metrics only every so often."""
        if isinstance(event, Message):
            self._say(event.text)
        else:
            self._show_record(event)

    def _show_record(self, record: Record) -> None:
        if evaluation := evaluation_line(record):
            self._miou = [record[k] for k in (metrics.MIOU, metrics.MIOU_AGGREGATED) if k in record]
            self._say(f"step {record[metrics.STEP]}: {evaluation}")
            if self._last and self._line.live:
                self._line.progress(self._fields(self._last), now=True)
        else:
            if metrics.ELAPSED in record:
                self._pace.add(record[metrics.STEP], record[metrics.ELAPSED])
            self._last = record
            self._line.progress(self._fields(record), now=record[metrics.STEP] >= self._total)

    def _say(self, message: str) -> None:
        self._line.say(f"{self._label}: {message}" if self._label else message)

    def _fields(self, record: Record) -> list[str]:
        step = record[metrics.STEP]
        left = self._pace.left(self._total - step)
        fields = [" ".join(filter(None, [self._label, self._line.bar(step, self._total), f"{step}/{self._total}"]))]
        if left is not None:
            fields.append(f"{duration(left)} left")
        if metrics.TOTAL_LOSS in record:
            fields.append(f"loss {_number(record[metrics.TOTAL_LOSS])}")
        if self._miou:
            fields.append("mIoU " + "/".join(f"{v:.1f}" for v in self._miou))
        fields += [text(record[key]) for key, text in _RATES.items() if key in record]
        terms = {k.removeprefix(metrics.LOSS_PREFIX): v for k, v in record.items() if k.startswith(metrics.LOSS_PREFIX)}
        fields += [f"{_SHORT.get(k, k)} {_number(v)}" for k, v in terms.items() if k != "total"]
        cycles = [f"{100 * v:.0f}%" for k, v in record.items() if k.startswith(metrics.CONSISTENT_PREFIX)]
        if cycles:
            fields.append("cycles " + "/".join(cycles))
        return fields


def evaluation_line(record: Record) -> str:
    """The measurements of an evaluation in a line; "" for another record.

    `mIoU 41.3 %, with aggregation 43.0 %; teacher 42.0 %; without labels: density 3.21, entropy 0.12, cycles 62%/71%`,
    without those that were not measured. Density is in nats, entropy is a share of its largest value, cycles are of
    both levels.
    """
    parts = []
    if metrics.MIOU in record:
        aggregated = record.get(metrics.MIOU_AGGREGATED)
        more = "" if aggregated is None else f", with aggregation {aggregated:.1f} %"
        parts.append(f"mIoU {record[metrics.MIOU]:.1f} %{more}")
    if metrics.TEACHER_MIOU in record:
        parts.append(f"teacher {record[metrics.TEACHER_MIOU]:.1f} %")
    criteria: dict[str, list[str]] = {}
    for key, (name, text) in _CRITERIA.items():
        if key in record:
            criteria.setdefault(name, []).append(text(record[key]))
    if criteria:
        parts.append("without labels: " + ", ".join(f"{name} {'/'.join(v)}" for name, v in criteria.items()))
    return "; ".join(parts)


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
