"""Class-balanced self-training in rounds: thresholds of a class, labels above them, and the loss on these.

CBST: Zou et al., "Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training", ECCV 2018
(arXiv 1810.07911). MRKLD and LRENT: Zou et al., "Confidence Regularized Self-Training", ICCV 2019 (arXiv 1908.09822).

A threshold t_c is the confidence at the most confident share of the pixels that the network calls c, over the whole
target. A pixel gets the class with the largest p_c / t_c, and none where that is below 1: rare classes, of which the
network is never sure, get their share of labels too.

Shapes: B images, K classes, H x W pixels, N bins of confidence.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from plca_dist.ops.dense import at_least_float32

#: Confidence is counted by its log-odds log p/(1 − p), in bins of 1/128 from −8 (p = 0.0003) to 32 (1 − p = 1e-14).
_LOWEST, _BINS_OF_ONE, BINS = -8.0, 128, 40 * 128


class Labels(NamedTuple):
    """What an image is trained on.

    Attributes:
        of_class: (B, K, H, W), the weight of each class at a pixel, Σ_k = 1; None where `best` says it all.
        best: (B, H, W) int64, the class with the most of it.
        chosen: (B, H, W) bool, whether the pixel has a label at all.
    """

    of_class: Tensor | None
    best: Tensor
    chosen: Tensor


def log_probabilities(logits_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """log p (B, K, H, W), and the log-odds of the largest p (B, H, W), which stay apart where p rounds to 1.

    1 − p of the best class is summed from the others; 1 − (1 − 1e-9) would be 0 in float32.
    """
    below_BKHW = at_least_float32(logits_BKHW)
    best_B1HW = below_BKHW.argmax(1, keepdim=True)
    below_BKHW = below_BKHW - below_BKHW.gather(1, best_B1HW)
    others_B1HW = below_BKHW.exp().scatter(1, best_B1HW, 0.0).sum(1, keepdim=True)
    return below_BKHW - others_B1HW.log1p(), -others_B1HW.log()[:, 0]


def count_confidence(logits_BKHW: Tensor) -> Tensor:
    """How many pixels the network calls c with a confidence in each bin, (K, N) int64. Counts of images add up.

    A pixel whose logits are not finite has no class and is in no bin.
    """
    _, odds_BHW = log_probabilities(logits_BKHW)
    bin_BHW = ((odds_BHW - _LOWEST) * _BINS_OF_ONE).clamp(0, BINS - 1).long()
    classes = logits_BKHW.shape[1]
    cell = (logits_BKHW.argmax(1) * BINS + bin_BHW)[~odds_BHW.isnan()]
    return torch.bincount(cell, minlength=classes * BINS).view(classes, BINS)


def log_thresholds(count_KN: Tensor, share: float) -> Tensor:
    """log t_c, (K,) float64: the confidence that the ⌊share · n_c⌋ surest of the n_c pixels called c reach.

    It is the lower end of the bin of the last of them, so a few more pixels may reach it. A class with too few pixels
    to have a share has t = 1, as in the authors' code.
    """
    wanted_K = (count_KN.sum(1).double() * share).floor()
    surer_KN = count_KN.flip(1).cumsum(1).flip(1)  # pixels in this bin or a surer one
    reached_KN = surer_KN >= wanted_K[:, None].clamp(min=1)
    bin_K = reached_KN.sum(1) - 1
    odds_K = bin_K.double() / _BINS_OF_ONE + _LOWEST
    return torch.where(wanted_K >= 1, -torch.log1p(torch.exp(-odds_K)), 0.0)


def assign(logits_BKHW: Tensor, log_threshold_K: Tensor, temperature: float = 0.0) -> Labels:
    """The labels that a network's logits give with these thresholds. They carry no gradient.

    A `temperature` of 0 gives hard labels (CBST, MRKLD): argmax p/t, where p/t reaches 1. With a temperature a > 0
    labels are soft (LRENT): y_k ∝ (p_k/t_k)^(1/a), at the pixels where Σ_k (p_k/t_k)^(1/a) > 1: there the regularized
    objective −Σ y log(p/t) + a Σ y log y is below that of no label.
    """
    with torch.no_grad():
        log_BKHW, _ = log_probabilities(logits_BKHW)
        ratio_BKHW = log_BKHW - log_threshold_K.to(log_BKHW)[:, None, None]
        best_BHW, index_BHW = ratio_BKHW.max(1)
        if not temperature:
            return Labels(None, index_BHW, best_BHW >= 0)
        ratio_BKHW = ratio_BKHW / temperature
        return Labels(ratio_BKHW.softmax(1), index_BHW, ratio_BKHW.logsumexp(1) > 0)


def pseudo_label_loss(logits_BKHW: Tensor, labels: Labels, smoothness: float = 0.0) -> Tensor:
    """Cross-entropy with the labels, and `smoothness` times that with an even label, a scalar.

    −Σ_k y_k log p_k − smoothness/K Σ_k log p_k, the mean over an image's labelled pixels and then over images. MRKLD
    is a smoothness above 0: predictions on labels that may be wrong are kept from certainty. An image without labels
    counts as a zero that keeps the graph. The authors average over the labelled pixels of a batch.
    """
    log_BKHW = at_least_float32(logits_BKHW).log_softmax(1)
    if labels.of_class is None:
        loss_BHW = -log_BKHW.gather(1, labels.best[:, None])[:, 0]
    else:
        loss_BHW = -(labels.of_class * log_BKHW).sum(1)
    if smoothness:
        loss_BHW = loss_BHW - smoothness * log_BKHW.mean(1)
    loss_BHW = torch.where(labels.chosen, loss_BHW, 0.0)
    return (loss_BHW.sum((1, 2)) / labels.chosen.sum((1, 2)).clamp(min=1)).mean()


def share_of_round(turn: int, first: float, growth: float, most: float) -> float:
    """The share of each class's pixels that are labelled in round `turn`, from 0: it grows up to `most`."""
    return min(first + turn * growth, most)


def round_of(step: int, start: int, length: int, rounds: int) -> tuple[int, bool] | None:
    """(the round that step `step` is in, from 0, and whether it begins it); None before the first. The last one lasts.

    Raises ValueError for lengths that are no rounds.
    """
    if length < 1 or rounds < 1:
        raise ValueError(f"{rounds} rounds of {length} steps")
    if step < start:
        return None
    turn = min((step - start) // length, rounds - 1)
    return turn, step == start + turn * length
