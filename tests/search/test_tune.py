"""What a search shows of its trials' messages."""

from typing import get_args

import pytest

from plca_dist.messages import Message, MessageKind, TrialEvent
from plca_dist.search.tune import line_of

#: What the table of trials tells already.
ROUTINE = {"starting", "continuing", "checkpoint", "died"}


@pytest.mark.parametrize("kind", get_args(MessageKind))
def test_a_search_shows_every_message_but_the_routine(kind: MessageKind) -> None:
    """By its kind: a failed checkpoint's text begins as a committed one's does."""
    line = line_of(TrialEvent("trial-001", Message(kind, "checkpoint step-00000002-of-1 …")))
    assert line == ("" if kind in ROUTINE else "trial-001: checkpoint step-00000002-of-1 …")


def test_records_are_not_shown() -> None:
    assert line_of(TrialEvent("trial-001", {"step": 1, "loss/total": 2.0})) == ""
