"""State dicts: read from bytes without running code in them, compared with a module, and loaded whole.

A file that does not fit changes nothing. The complaint names the first few differences of each kind: they show the
cause (another backbone, another class count, a prefix) better than six hundred would.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from plca_dist.errors import UserError

_SHOWN = 3
#: What helps a damaged weight file.
RESTORE = (
    "restore it from a copy; or, if a run left it, delete it, and the same `plca train` writes it again from the last "
    "checkpoint"
)


def torch_payload(data: bytes, origin: str) -> Any:
    """The object that torch.save wrote: tensors, on the CPU, and plain containers. UserError for anything else."""
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make the unpickler raise nearly anything
        raise UserError(
            f"{origin} is not a file of tensors written by torch.save ({type(error).__name__}): give a state-dict file,"
            " and check that it was copied whole."
        ) from None


def state_dict_of(value: Any, origin: str) -> dict[str, Tensor]:
    """`value` as a plain dict, if it maps names to tensors and nothing else; UserError if not."""
    if not isinstance(value, Mapping) or not all(isinstance(v, Tensor) for v in value.values()):
        raise UserError(
            f"{origin} holds no state dict (names to tensors): save `model.state_dict()` and give that file."
        )
    return dict(value)


def safetensors_of(data: bytes, origin: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file. UserError where it is damaged."""
    try:
        return safetensors.torch.load(data)
    except Exception:  # a manipulated header makes it raise nearly anything
        raise UserError(f"{origin} is damaged or cut short: {RESTORE}.") from None


def differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """The reasons why `state` cannot replace `own`: missing, unexpected, misshapen. Empty: it fits."""
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} {_shape(state[key])} where {_shape(own[key])} is expected"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    return [f"{len(keys)} {kind}: {first_few(keys)}" for kind, keys in kinds.items() if keys]


def load_strict(module: nn.Module, state: Mapping[str, Tensor], complaint: str, remedy: str) -> None:
    """Copy all of `state` into `module`; where it does not fit, nothing: UserError `complaint: differences: remedy.`"""
    if wrong := differences(module.state_dict(), state):
        raise UserError(f"{complaint}: {'; '.join(wrong)}: {remedy}.")
    module.load_state_dict(state)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def first_few(names: Sequence[str]) -> str:
    """The first names, comma-separated, with an ellipsis for the rest; `none` for none."""
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "") if names else "none"
