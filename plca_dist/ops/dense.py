"""The N x N computations of the method, dense and readable: the oracle that every faster form is compared with.

Shapes: B pairs, N queries, M keys (the candidates of one row), C channels of the score, D channels of the value.

Precision: float64 stays float64; everything else is computed and returned in float32. Lower precisions are cast up
first, and autocast is switched off inside, because the contrast statistics amplify rounding by 1/σ.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: The authors' guard in the denominator of Eq. 5 and 6.
EPSILON = 1e-10
#: The least norm that Eq. 1 divides by: a zero feature stays zero.
NORM_EPSILON = 1e-12
#: A row is flat when its spread is within this many roundings of its scores.
FLAT_ROUNDINGS = 32


class Match(NamedTuple):
    """The best key of every query.

    `index` (B, N) int64: argmax over the keys of the raw score, the lowest index where several are equal.
    `log_probability` (B, N): log of the contrast-normalized softmax (Eq. 5, 6) at that index, differentiable.
    """

    index: Tensor  # type: ignore[assignment]  # the field's name; nobody looks up a tensor with tuple.index
    log_probability: Tensor


class Cycle(NamedTuple):
    """Cycles source -> target -> source, one from every source position i.

    `target_index` (B, N) int64: j*, the best target of i.  `source_index` (B, N) int64: i*, the best source of j*.
    `consistent` (B, N) bool: Î, the starts that are not ignored and whose i* has their own label.
    `log_probability` (B, N): log{p_i[j*] · p_j*[i*]} of Eq. 4 on Î, differentiable, and 0 elsewhere.
    """

    target_index: Tensor
    source_index: Tensor
    consistent: Tensor
    log_probability: Tensor


def match(query_BNC: Tensor, key_BMC: Tensor, *, cosine: bool = False) -> Match:
    """Eq. 2, 3 and one factor of Eq. 4: the best key of every query and how far it stands out among all keys.

    With D_j = <q_i, k_j>, or their cosine (Eq. 1), j* = argmax_j D_j and the contrast normalization
    D̃ = (D − μ)/(σ + ε) over the row:

        log softmax_j(D̃)[j*] = −log Σ_j exp((D_j − D_j*) / (σ + ε))

    μ cancels. σ, the unbiased standard deviation of the row, carries no gradient: the gradient of D is scaled by
    1/(σ + ε). σ of a single candidate is 0. A flat row (see `contrast_scale`) has the probability 1/M at its index.
    Raises ValueError where the shapes do not fit together.
    """
    check_shapes(query_BNC, key_BMC)
    return _match(_score(query_BNC, key_BMC, cosine))


def attend(
    query_BNC: Tensor,
    key_BMC: Tensor,
    value_BMD: Tensor,
    *,
    ratio: float = 1.0,
    contrast: bool = True,
    cosine: bool = False,
) -> Tensor:
    """Eq. 7: (1 − α) v_i + α Σ_j w_ij v_j, w_i = softmax_j D̃_ij (Eq. 8), or softmax_j D_ij without `contrast`.

    `ratio` is α; one that is not 1 needs as many queries as values. Returns (B, N, D). Gradients flow to query, key and
    value; σ carries none. A flat row averages all values. Raises ValueError where the shapes do not fit together.
    """
    check_shapes(query_BNC, key_BMC, value_BMD, ratio)
    score_BNM = _score(query_BNC, key_BMC, cosine)
    if contrast:
        score_BNM.mul_(contrast_scale(score_BNM))
    value_BMD = at_least_float32(value_BMD)
    with without_autocast(value_BMD.device):
        average_BND = score_BNM.softmax(-1) @ value_BMD
    return average_BND if ratio == 1 else torch.lerp(value_BMD, average_BND, ratio)


def cycle(
    source_query_BNC: Tensor,
    source_key_BNC: Tensor,
    target_query_BMC: Tensor,
    target_key_BMC: Tensor,
    labels_BN: Tensor,
    *,
    cosine: bool = False,
    ignore_index: int = 255,
) -> Cycle:
    """Eq. 2-4: the best target of every source position, and the best source of that target.

    `labels` (B, N) are integers; those equal to `ignore_index` do not start a cycle, but remain candidates.
    Raises ValueError where the shapes do not fit together.
    """
    check_cycle_shapes(source_query_BNC, source_key_BNC, target_query_BMC, target_key_BMC, labels_BN)
    score_BNM = _score(source_query_BNC, target_key_BMC, cosine)
    if source_query_BNC is source_key_BNC and target_query_BMC is target_key_BMC:
        backward = _match(score_BNM.mT)
    else:
        backward = _match(_score(target_query_BMC, source_key_BNC, cosine))
    forward = _match(score_BNM)
    source_index_BN = backward.index.gather(1, forward.index)
    consistent_BN = (labels_BN != ignore_index) & (labels_BN == labels_BN.gather(1, source_index_BN))
    log_probability_BN = forward.log_probability + backward.log_probability.gather(1, forward.index)
    return Cycle(forward.index, source_index_BN, consistent_BN, torch.where(consistent_BN, log_probability_BN, 0))


@torch.no_grad()
def contrast_scale(score_BNM: Tensor) -> Tensor:
    """1/(σ + ε) of every row, (B, N, 1), without gradient: the factor of the score and of its gradient in Eq. 5 and 6.

    It is 0 for a flat row, whose spread is rounding alone. All candidates of such a row are then equally likely, as the
    equation has it for σ = 0, and the row passes no gradient. The equation would pass 1/ε times noise.
    """
    M = score_BNM.shape[-1]
    centred_BNM = score_BNM - score_BNM.mean(-1, keepdim=True)
    # Not Tensor.std: several times slower on the CPU, and undefined for M = 1.
    std_BN1 = torch.linalg.vector_norm(centred_BNM, dim=-1, keepdim=True) / max(M - 1, 1) ** 0.5
    rounding_BN1 = FLAT_ROUNDINGS * torch.finfo(score_BNM.dtype).eps * score_BNM.amax(-1, keepdim=True).abs()
    return torch.where(std_BN1 <= rounding_BN1, 0.0, 1 / (std_BN1 + EPSILON))


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself in float32 or float64, cast to float32 from anything lower."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Autocast off: it would round the results of products as well as their operands."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def check_shapes(query_BNC: Tensor, key_BMC: Tensor, value_BMD: Tensor | None = None, ratio: float = 1) -> None:
    """Raises ValueError unless these are the arguments of `match` or `attend`."""
    query, key = tuple(query_BNC.shape), tuple(key_BMC.shape)
    if len(query) != 3 or len(key) != 3 or query[0] != key[0] or query[2] != key[2] or key[1] == 0:
        raise ValueError(f"expected query (B, N, C) and key (B, M, C) with M > 0, got {query} and {key}")
    if value_BMD is not None and (value_BMD.ndim != 3 or value_BMD.shape[:2] != key_BMC.shape[:2]):
        raise ValueError(f"expected value ({key[0]}, {key[1]}, D) to go with key {key}, got {tuple(value_BMD.shape)}")
    if ratio != 1 and query[1] != key[1]:
        raise ValueError(f"ratio {ratio} mixes an average with its own value, hence N = M, got {query} and {key}")


def check_cycle_shapes(
    source_query_BNC: Tensor, source_key_BNC: Tensor, target_query_BMC: Tensor, target_key_BMC: Tensor, labels: Tensor
) -> None:
    """Raises ValueError unless these are the arguments of `cycle`."""
    check_shapes(source_query_BNC, target_key_BMC)
    check_shapes(target_query_BMC, source_key_BNC)
    if source_query_BNC.shape != source_key_BNC.shape or labels.shape != source_key_BNC.shape[:2]:
        raise ValueError(
            f"expected source query and key of one shape (B, N, C) and labels (B, N), got "
            f"{tuple(source_query_BNC.shape)}, {tuple(source_key_BNC.shape)} and {tuple(labels.shape)}"
        )


def _score(query_BNC: Tensor, key_BMC: Tensor, cosine: bool) -> Tensor:
    query, key = at_least_float32(query_BNC), at_least_float32(key_BMC)
    if cosine:
        unit = F.normalize(query, dim=-1, eps=NORM_EPSILON)
        query, key = unit, unit if key_BMC is query_BNC else F.normalize(key, dim=-1, eps=NORM_EPSILON)
    with without_autocast(query.device):
        return query @ key.mT


def _match(score_BNM: Tensor) -> Match:
    best_BN1, index_BN1 = score_BNM.max(-1, keepdim=True)  # the first of equals
    scale_BN1 = contrast_scale(score_BNM)
    # One N x M map is all that is kept for the backward pass; the score is not altered, another match may share it.
    # No overflow: every exponent is at most 0 and the best one is 0.
    odds_BNM = (score_BNM - best_BN1).mul_(scale_BN1).exp_()
    return Match(index_BN1.squeeze(-1), -odds_BNM.sum(-1).log())
