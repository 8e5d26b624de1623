"""Eq. 2-6 and 10: cycles source -> target -> source, their consistency, and the losses on the consistent ones.

Shapes: B pairs, C channels or classes, Ns = H·W source positions, Nt target positions.
Symbols: i a starting source position, j* its target, i* the source position that j* comes back to, Î the starts whose
cycle is consistent.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from plca_dist.method.aggregation import aggregate
from plca_dist.method.settings import AssociationSettings
from plca_dist.method.similarity import Embedding, aligned_similarity, embed
from plca_dist.ops.dense import Cycle
from plca_dist.ops.operations import cycle


class Association(NamedTuple):
    """A loss and its cycles.

    `loss` (): mean over pairs of the mean over Î; a pair whose Î is empty counts as a zero that keeps the graph.
    `consistent` (B, Ns) bool: Î, the starts that are not ignored and whose cycle ends at their own label.
    `target_index` (B, Ns) int64: j*.  `source_index` (B, Ns) int64: i*.
    """

    loss: Tensor
    consistent: Tensor
    target_index: Tensor
    source_index: Tensor


def association_loss(
    source: Tensor, target: Tensor, labels: Tensor, settings: AssociationSettings = AssociationSettings()
) -> Association:
    """Eq. 4: −1/|Î| Σ_{i∈Î} log{softmax_j'(D̃(F^s_i, F^t_j'))[j*] · softmax_i'(D̃(F^t_j*, F^s_i'))[i*]}.

    D̃ is the contrast-normalized similarity (Eq. 5, 6). `source` and `target` are (B, C, H, W): features with
    similarity "cosine" (Eq. 4), class probabilities with "kl" (Eq. 10). They may differ in H and W. `labels` (B, H, W)
    are integers on the source's grid (`labels_to_grid`); negative ones are ignored, as `ignore_index` is. The target is
    aggregated first (Eq. 7, 8).

    Unlike the authors' code the mean is taken per pair and then over pairs, so that the loss does not depend on how a
    batch is split over devices. As there, ignored source pixels are dropped as starts only: they remain candidates, and
    a cycle that starts at a label and ends at an ignored pixel is inconsistent.

    Raises ValueError where the shapes do not fit together.
    """
    *_, found = _associate(source, target, labels, settings)
    loss = _mean_over_consistent(-found.log_probability, found.consistent)
    return Association(loss, found.consistent, found.target_index, found.source_index)


def similarity_loss(
    source: Tensor, target: Tensor, labels: Tensor, settings: AssociationSettings = AssociationSettings()
) -> Association:
    """Sim-PLCA, the paper's ablation without contrast: −1/|Î| Σ_{i∈Î} {D(F^s_i, F^t_j*) + D(F^t_j*, F^s_i*)}.

    The same cycles are pulled together directly instead of against all candidates. D is the cosine, or −KL itself with
    its entropy. Arguments, means and errors are those of `association_loss`.
    """
    of_source, of_target, found = _associate(source, target, labels, settings)
    there, back = _take(of_target, found.target_index), _take(of_source, found.source_index)
    closeness = aligned_similarity(of_source, there) + aligned_similarity(there, back)
    loss = _mean_over_consistent(-closeness, found.consistent)
    return Association(loss, found.consistent, found.target_index, found.source_index)


def cycles(
    source: Tensor, target: Tensor, labels: Tensor, settings: AssociationSettings = AssociationSettings()
) -> Cycle:
    """Eq. 2, 3: the cycles that both losses are computed from. Arguments and errors as in `association_loss`."""
    *_, found = _associate(source, target, labels, settings)
    return found


def labels_to_grid(labels_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels on a grid of `size` (h, w) by nearest neighbour, the same as torch's interpolate; dtype kept."""
    # Through float32, which interpolate takes on every device and which is exact up to 2^24.
    return F.interpolate(labels_BHW[:, None].float(), size=size, mode="nearest")[:, 0].to(labels_BHW.dtype)


def _associate(
    source: Tensor, target: Tensor, labels: Tensor, settings: AssociationSettings
) -> tuple[Embedding, Embedding, Cycle]:
    """Embeddings of the source and of the aggregated target, and the cycles between them."""
    _check_shapes(source, target, labels)
    similarity = settings.similarity
    contrast = settings.kl_aggregation_contrast if similarity == "kl" else None
    aggregated = aggregate(target, settings.aggregation, similarity, contrast=contrast, pairwise=settings.pairwise)
    of_source, of_target = embed(source, similarity), embed(aggregated, similarity)
    found = cycle(
        of_source.query,
        of_source.key,
        of_target.query,
        of_target.key,
        torch.where(labels < 0, settings.ignore_index, labels).flatten(1),
        cosine=of_source.cosine,
        ignore_index=settings.ignore_index,
        pairwise=of_source.computed(settings.pairwise),
    )
    return of_source, of_target, found


def _take(embedding: Embedding, index_BN: Tensor) -> Embedding:
    """The embeddings at `index`, lined up with it."""
    index_BNC = index_BN[..., None].expand(-1, -1, embedding.query.shape[-1])
    return Embedding(embedding.query.gather(1, index_BNC), embedding.key.gather(1, index_BNC), embedding.cosine)


def _mean_over_consistent(loss_BN: Tensor, consistent_BN: Tensor) -> Tensor:
    """Mean over Î of every pair, then over pairs; an empty Î gives a zero with a graph."""
    return (torch.where(consistent_BN, loss_BN, 0).sum(1) / consistent_BN.sum(1).clamp(min=1)).mean()


def _check_shapes(source_BCHW: Tensor, target_BCHW: Tensor, labels_BHW: Tensor) -> None:
    source, target, labels = tuple(source_BCHW.shape), tuple(target_BCHW.shape), tuple(labels_BHW.shape)
    if len(source) != 4 or len(target) != 4 or source[:2] != target[:2]:
        raise ValueError(f"expected source and target (B, C, H, W) with equal B and C, got {source} and {target}")
    if labels != (source[0], *source[2:]):
        raise ValueError(f"expected labels {(source[0], *source[2:])} on the source's grid {source}, got {labels}")
