"""The two operations that carry the whole paper: `match(q, k)` and `attend(q, k, v)` (derivation in README.md).

Both levels of association are bilinear scores D_ij = <q_i, k_j>; what q and k are is `method/similarity.py`'s matter.
`dense` is the definition. Another backend is a module with the same two functions and an entry in `_MODULES`.
"""

from types import ModuleType

from torch import Tensor

from plca_dist.errors import UserError, nearest
from plca_dist.ops import dense
from plca_dist.ops.dense import Match, at_least_float32

__all__ = ["BACKENDS", "Match", "at_least_float32", "attend", "implementation", "match"]

_MODULES: dict[str, ModuleType] = {"dense": dense}
#: What `backend` may be. "auto" leaves the choice to the device of the inputs.
BACKENDS = ("auto", *_MODULES)


def match(query_BNC: Tensor, key_BMC: Tensor, *, backend: str = "auto") -> Match:
    """The best key of every query and its contrast-normalized log-probability; see `dense.match`."""
    return implementation(backend).match(query_BNC, key_BMC)


def attend(
    query_BNC: Tensor, key_BMC: Tensor, value_BMD: Tensor, *, contrast: bool = True, backend: str = "auto"
) -> Tensor:
    """The (contrast-normalized) softmax average of values, (B, N, D); see `dense.attend`."""
    return implementation(backend).attend(query_BNC, key_BMC, value_BMD, contrast=contrast)


def implementation(backend: str) -> ModuleType:
    """The module behind `backend`; "auto" is "dense" on every device. Raises UserError for an unknown name."""
    if backend not in BACKENDS:
        raise UserError(
            f"association backend {backend!r} is unknown; known: {', '.join(BACKENDS)}.{nearest(backend, BACKENDS)}"
        )
    return dense if backend == "auto" else _MODULES[backend]
