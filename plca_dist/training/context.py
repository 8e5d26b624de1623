"""The context of a rank, given by the code that starts it: `run/attempt.py`, or a test without Ray."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from plca_dist.messages import RunEvent
from plca_dist.storage import Store


class Preempted(Exception):
    """The run was told to leave and did, on every rank, after a checkpoint of `step` was committed.

    Attributes:
        step: optimizer steps that are done and saved.
        reason: what `TrainContext.stop_reason` gave on the first rank that had one.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(step, reason)
        self.step, self.reason = step, reason

    def __str__(self) -> str:
        return f"preempted ({self.reason}): checkpoint at step {self.step} committed"


@dataclass(frozen=True)
class TrainContext:
    """One rank of one launch.

    Attributes:
        run: the run's directory; recipe, checkpoints, metrics and results live there.
        device: where this rank computes.
        report: shows a record or a message to the person watching; called on rank 0 alone, and must not block.
        stop_reason: why the run should checkpoint and leave (such as "SIGTERM"), else None. It is asked at every
            step on every rank, and must not block. One rank that knows is enough.
        lease_lost: whether another launch has taken the run over, so that nothing may be committed. It is asked on
            rank 0 just before a commit, in a thread, and may take a moment.
    """

    run: Store
    device: torch.device
    report: Callable[[RunEvent], None]
    stop_reason: Callable[[], str | None] = lambda: None
    lease_lost: Callable[[], bool] = lambda: False
