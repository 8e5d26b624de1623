"""The two N x N computations of the method, dense and readable: the oracle that every faster form is compared with.

Shapes: B pairs, N queries, M keys (the candidates of one row), C channels of the score, D channels of the value.

Precision: float64 stays float64, everything else is computed and returned in float32. Lower precisions are cast up
first and autocast is switched off inside, because the contrast statistics amplify rounding by 1/σ.
"""

from typing import NamedTuple

import torch
from torch import Tensor

#: The authors' guard in the denominator of Eq. 5 and 6.
EPSILON = 1e-10
#: A row is flat when its spread is within this many roundings of its scores.
_FLAT_ROUNDINGS = 32


class Match(NamedTuple):
    """The best key of every query.

    `index` (B, N) int64: argmax over the keys of the raw score, the lowest index where several are equal.
    `log_probability` (B, N): log of the contrast-normalized softmax (Eq. 5, 6) at that index, differentiable.
    """

    index: Tensor  # type: ignore[assignment]  # the field's name; nobody looks up a tensor with tuple.index
    log_probability: Tensor


def match(query_BNC: Tensor, key_BMC: Tensor) -> Match:
    """Eq. 2, 3 and one factor of Eq. 4: the best key of every query and how far it stands out among all keys.

    With D_j = <q_i, k_j>, j* = argmax_j D_j and the contrast normalization D̃ = (D − μ)/(σ + ε) over the row:

        log softmax_j(D̃)[j*] = −log Σ_j exp((D_j − D_j*) / (σ + ε))

    μ cancels; σ, the unbiased standard deviation of the row, carries no gradient, so that of D is scaled by 1/(σ + ε).
    σ of a single candidate is 0. A flat row (see `contrast_scale`) gives index as found and probability 1/M.
    Raises ValueError where the shapes do not fit together.
    """
    _check_shapes(query_BNC, key_BMC)
    with torch.autocast(query_BNC.device.type, enabled=False):
        score_BNM = at_least_float32(query_BNC) @ at_least_float32(key_BMC).mT
        best_BN1, index_BN1 = score_BNM.max(-1, keepdim=True)  # the first of equals
        scale_BN1 = contrast_scale(score_BNM)
        # In place: one N x M map is all that is kept for the backward pass.
        # No overflow: every exponent is at most 0 and the best one is 0.
        odds_BNM = score_BNM.sub_(best_BN1).mul_(scale_BN1).exp_()
        return Match(index_BN1.squeeze(-1), -odds_BNM.sum(-1).log())


def attend(query_BNC: Tensor, key_BMC: Tensor, value_BMD: Tensor, *, contrast: bool = True) -> Tensor:
    """The average in Eq. 7: Σ_j w_ij v_j with w_i = softmax_j D̃_ij (Eq. 8), or softmax_j D_ij without `contrast`.

    Returns (B, N, D). Gradients flow to query, key and value; σ carries none. A flat row gives the plain mean.
    Raises ValueError where the shapes do not fit together.
    """
    _check_shapes(query_BNC, key_BMC, value_BMD)
    with torch.autocast(query_BNC.device.type, enabled=False):
        score_BNM = at_least_float32(query_BNC) @ at_least_float32(key_BMC).mT
        if contrast:
            score_BNM.mul_(contrast_scale(score_BNM))
        return score_BNM.softmax(-1) @ at_least_float32(value_BMD)


@torch.no_grad()
def contrast_scale(score_BNM: Tensor) -> Tensor:
    """1/(σ + ε) of every row, (B, N, 1), without gradient: what Eq. 5 and 6 multiply the score and its gradient with.

    0 for a flat row, one whose spread is rounding and nothing else: all its candidates are then equally likely, as
    they are for σ = 0 under the equation, and it passes no gradient where the equation would pass 1/ε times noise.
    """
    M = score_BNM.shape[-1]
    centred_BNM = score_BNM - score_BNM.mean(-1, keepdim=True)
    # Not Tensor.std: several times slower on the CPU, and undefined for M = 1.
    std_BN1 = torch.linalg.vector_norm(centred_BNM, dim=-1, keepdim=True) / max(M - 1, 1) ** 0.5
    rounding_BN1 = _FLAT_ROUNDINGS * torch.finfo(score_BNM.dtype).eps * score_BNM.amax(-1, keepdim=True).abs()
    return torch.where(std_BN1 <= rounding_BN1, 0.0, 1 / (std_BN1 + EPSILON))


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself in float32 or float64, cast to float32 from anything lower."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _check_shapes(query_BNC: Tensor, key_BMC: Tensor, value_BMD: Tensor | None = None) -> None:
    query, key = tuple(query_BNC.shape), tuple(key_BMC.shape)
    if len(query) != 3 or len(key) != 3 or query[0] != key[0] or query[2] != key[2] or key[1] == 0:
        raise ValueError(f"expected query (B, N, C) and key (B, M, C) with M > 0, got {query} and {key}")
    if value_BMD is not None and (value_BMD.ndim != 3 or value_BMD.shape[:2] != key_BMC.shape[:2]):
        raise ValueError(f"expected value ({key[0]}, {key[1]}, D) to go with key {key}, got {tuple(value_BMD.shape)}")
