"""How ranks act as one: they agree at every step boundary, and an error of one rank is raised on all."""

from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from plca_dist.errors import LeaseLost, UserError
from plca_dist.training.context import LEASE_LOST


class Agreement(NamedTuple):
    """The same on every rank.

    Attributes:
        finite: the loss of every rank is finite.
        stop_reason: why the run should checkpoint and leave, if any rank has a reason.
        saving: some rank still uploads or commits a checkpoint.
    """

    finite: bool
    stop_reason: str | None
    saving: bool


class ControlGroup:
    """A gloo group of its own for control messages: they neither wait for the device nor mix with other collectives.

    Args:
        timeout: how long a rank waits for the others.
    """

    def __init__(self, timeout: timedelta) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=timeout)

    def __enter__(self) -> "ControlGroup":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        dist.destroy_process_group(self._group)

    def agree(self, *, finite: bool = True, stop_reason: str | None, saving: bool = False) -> Agreement:
        """All-reduce the flags: one rank's bad loss or reason to stop is that of all ranks. A collective call.

        Raises LeaseLost on every rank where the reason is `LEASE_LOST`.
        """
        flags = torch.tensor([not finite, stop_reason is not None, saving], dtype=torch.int32)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._group)
        not_finite, stopping, any_saving = flags.tolist()
        reason = self._first(stop_reason) if stopping else None
        if reason == LEASE_LOST:
            raise LeaseLost(LEASE_LOST)
        return Agreement(not not_finite, reason, bool(any_saving))

    def _first(self, reason: str | None) -> str:
        reasons: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(reasons, reason, group=self._group)
        return next(r for r in reasons if r is not None)


def on_every_rank(work: Callable[[], Any]) -> list[Any]:
    """Do `work` on every rank and give the results of all ranks, by rank, to each. A collective call.

    A UserError of one rank is raised on all. If one rank raised it alone, the others would wait for that rank.
    """
    try:
        result = work()
    except UserError as error:
        result = error
    results: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(results, result)
    for result in results:
        if isinstance(result, UserError):
            raise result
    return results


def on_rank_0(work: Callable[[], Any]) -> Any:
    """Do `work` on rank 0 alone and give its result, or raise its UserError, on every rank. A collective call."""
    return on_every_rank(work if dist.get_rank() == 0 else lambda: None)[0]
