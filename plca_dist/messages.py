"""What a run tells while it trains: records of what it measures, and messages for the person watching."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

#: What was measured at a step, by the names of `training.metrics`.
Record = dict[str, Any]

#: What a message is about; programs go by it, never by the text.
MessageKind = Literal[
    "cluster",  # a cluster is started or waited for
    "lease",  # another launch may still write
    "classes",  # what the label sets of the data and of the recipe do not share
    "starting",  # workers start
    "continuing",  # they continue from a checkpoint
    "checkpoint",  # a checkpoint is committed
    "checkpoint failed",
    "restarting",  # after a failure
    "left",  # the workers left on request, and the run goes on
    "finished",  # there was nothing to do
    "died",  # the process of a search's trial is about to end
    "warning",
]


@dataclass(frozen=True)
class Message:
    """One line for a person.

    Attributes:
        values: numbers that go with it, by the names of `training.metrics`.
    """

    kind: MessageKind
    text: str
    values: Mapping[str, float] = field(default_factory=dict)


RunEvent = Record | Message


class TrialEvent(NamedTuple):
    """An event of a trial's run. A message of kind "died" says why the trial's process is about to end.

    It stands here because the mailbox's process imports its module: that of the trials would bring torch along.
    """

    trial: str
    event: RunEvent


#: Takes what is counted, the number done, and the number in all.
Progress = Callable[[str, int, int], None]


@contextmanager
def warnings_shown(show: Callable[[Message], None]) -> Iterator[None]:
    """Inside the block warnings of this package, in this process, are messages instead of lines on stderr."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: show(Message("warning", f"warning: {record.getMessage()}"))  # type: ignore[method-assign]
    logger = logging.getLogger("plca_dist")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
