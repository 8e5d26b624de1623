"""What a rank needs of whoever launched it. The launcher hands one in; training never asks where it came from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from plca_dist.storage import Store

Record = dict[str, Any]


@dataclass(frozen=True)
class Session:
    """One rank of one launch.

    Attributes:
        run: the run's directory; recipe, checkpoints, metrics and results live there.
        device: where this rank computes.
        report: takes records for the person watching; called on rank 0 alone, and must not block.
    """

    run: Store
    device: torch.device
    report: Callable[[Record], None]
