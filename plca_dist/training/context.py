"""The context of a rank, given by the code that starts it: `run/attempt.py`, or a test without Ray."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import torch

from plca_dist.messages import RunEvent
from plca_dist.run_files import attempt
from plca_dist.storage import Store

Item = TypeVar("Item")


class Preempted(Exception):
    """The run was told to leave and did, on every rank, after a checkpoint of `step` was committed.

    Attributes:
        step: optimizer steps that are done and saved; at 0 there is nothing to save.
        reason: what `TrainContext.stop_reason` gave on the first rank that had one.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(step, reason)
        self.step, self.reason = step, reason

    def __str__(self) -> str:
        saved = f"checkpoint at step {self.step} committed" if self.step else "before the first step"
        return f"preempted ({self.reason}): {saved}"


#: The reason to stop that lets nothing be saved: what this attempt would write no longer counts.
LEASE_LOST = "another launch took over"


@dataclass(frozen=True)
class TrainContext:
    """One rank of one attempt.

    Attributes:
        run: the run's directory. It refuses every change once a newer attempt exists.
        device: where this rank computes.
        report: shows a record or a message to the person watching; called on rank 0 alone, and must not block.
        generation: the attempt's number, higher than that of every earlier attempt at the run.
        stop_reason: why the run should checkpoint and leave (such as "SIGTERM"), else None. It is asked at every
            step on every rank, and must not block. One rank that knows is enough. After `LEASE_LOST` nothing is saved.
    """

    run: Store
    device: torch.device
    report: Callable[[RunEvent], None]
    generation: int
    stop_reason: Callable[[], str | None] = lambda: None

    @property
    def own(self) -> Store:
        """The attempt's own directory."""
        return self.run.child(attempt(self.generation))

    def until_stopped(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items until there is a reason to stop. Ranks may end at different ones, and have to agree behind them."""
        return takewhile(lambda _: self.stop_reason() is None, items)
