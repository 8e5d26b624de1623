"""How ranks act as one: what they agree on at every step boundary, and an error of one that is raised on all."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from plca_dist.errors import UserError


class Agreed(NamedTuple):
    """The same on every rank.

    Attributes:
        finite: every rank's loss is.
        stop: why the run should checkpoint and leave, if any rank was told to.
        busy: some rank still uploads or commits.
    """

    finite: bool
    stop: str | None
    busy: bool


class Control:
    """One small all-reduce in a gloo group of its own: it neither waits for the device nor meets other collectives."""

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo")

    def __enter__(self) -> "Control":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        dist.destroy_process_group(self._group)

    def agree(self, *, finite: bool = True, stop: str | None, busy: bool = False) -> Agreed:
        """One bad loss is everyone's, one reason to stop is everyone's. A collective call."""
        flags = torch.tensor([not finite, stop is not None, busy], dtype=torch.int32)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._group)
        unsound, stopping, at_work = flags.tolist()
        return Agreed(not unsound, self._first(stop) if stopping else None, bool(at_work))

    def _first(self, reason: str | None) -> str:
        reasons: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(reasons, reason, group=self._group)
        return next(r for r in reasons if r is not None)


def on_every_rank(work: Callable[[], Any]) -> list[Any]:
    """What `work` gives on each rank, by rank, on all of them; a UserError that any rank meets is raised on all.

    An error that one rank keeps to itself would leave the others waiting for it.
    """
    try:
        mine = work()
    except UserError as error:
        mine = error
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    for one in everyone:
        if isinstance(one, UserError):
            raise one
    return everyone


def on_rank_0(work: Callable[[], Any]) -> Any:
    """What `work` gives on rank 0, which alone does it, on every rank; its UserError is raised on all of them."""
    return on_every_rank(work if dist.get_rank() == 0 else lambda: None)[0]
