"""Objects with state beside the network, as one: built with the engine, told of every step, saved and restored."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plca_dist.errors import UserError
from plca_dist.method.terms import Companion
from plca_dist.run_files import CHECKPOINTS
from plca_dist.training.checkpoint import internals

#: Their file in a checkpoint, which rank 0 writes and every rank reads.
COMPANIONS = "companions.pt"


class Companions(Mapping[str, Companion]):
    """The companions of a run by name. False where there are none: nothing is saved then, and nothing done."""

    def __init__(self, members: Mapping[str, Companion] | None = None) -> None:
        self._members = dict(members or {})

    def __getitem__(self, name: str) -> Companion:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def after_step(self, network: nn.Module, done: int) -> None:
        for companion in self._members.values():
            companion.after_step(network, done)

    def tensors(self) -> list[Tensor]:
        """All tensors of their states."""
        return [t for companion in self._members.values() for t in _tensors(companion.state_dict())]

    def save(self, folder: Path) -> None:
        """Write the file of a checkpoint. Raises OSError or RuntimeError where the disk does not take it."""
        torch.save({name: companion.state_dict() for name, companion in self._members.items()}, folder / COMPANIONS)

    def restore(self, folder: Path) -> None:
        """Read it. Raises UserError where the file is not of these companions."""
        states: dict[str, Any] = internals.load(folder / COMPANIONS) if (folder / COMPANIONS).exists() else {}
        try:
            for name, companion in self._members.items():
                companion.load_state_dict(states[name])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{CHECKPOINTS}/{folder.name}: {COMPANIONS} does not hold the state of {', '.join(self._members)} "
                f"({type(error).__name__}): restore it from a copy, or delete its directory."
            ) from error


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping | list | tuple):
        for part in state.values() if isinstance(state, Mapping) else state:
            yield from _tensors(part)
