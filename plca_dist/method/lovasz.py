"""Lovász-softmax on the source (Berman, Triki, Blaschko: *The Lovász-Softmax Loss*, CVPR 2018): a surrogate of 1 − IoU.

Shapes: B images, K classes, P pixels of one set.
"""

import torch
from torch import Tensor

from plca_dist.method.settings import check_scope
from plca_dist.ops.dense import at_least_float32


def lovasz_softmax(
    probabilities_BKHW: Tensor, labels_BHW: Tensor, *, ignore_index: int = 255, scope: str = "image"
) -> Tensor:
    """Mean over the classes present of the Lovász extension of their Jaccard loss, a scalar.

    For class c, pixel p errs by m_p = |[y_p = c] − P_p(c)|. With the errors in falling order and J_n the Jaccard loss
    (1 − intersection/union) when the n worst pixels are wrong, the loss of the class is Σ_n m_n (J_n − J_{n−1}).

    `labels` that are negative are ignored, as `ignore_index` is.

    scope "image": per image, then the mean over images. It needs no communication and does not depend on how a batch is
    split over devices. An image without a valid pixel counts as a zero that keeps the graph.
    scope "batch": one set of all pixels of the batch at hand (the authors' code: of all devices' batches).

    Raises UserError for another scope, ValueError for shapes.
    """
    check_scope(scope)
    shape = tuple(probabilities_BKHW.shape)
    if len(shape) != 4 or tuple(labels_BHW.shape) != (shape[0], *shape[2:]):
        raise ValueError(
            f"expected probabilities (B, K, H, W) and labels (B, H, W), got {shape} and {tuple(labels_BHW.shape)}"
        )
    probabilities_BKP, labels_BP = at_least_float32(probabilities_BKHW).flatten(2), labels_BHW.flatten(1)
    if scope == "batch":
        probabilities_BKP = probabilities_BKP.transpose(0, 1).flatten(1)[None]
        labels_BP = labels_BP.flatten()[None]

    valid_B1P = ((labels_BP != ignore_index) & (labels_BP >= 0))[:, None]
    classes_K1 = torch.arange(shape[1], device=labels_BP.device)[:, None]
    foreground_BKP = (labels_BP[:, None] == classes_K1) & valid_B1P
    error_BKP = (foreground_BKP.to(probabilities_BKP.dtype) - probabilities_BKP).abs()
    with torch.no_grad():
        # One image at a time: the sort is the peak of this loss's memory.
        images = zip(error_BKP, foreground_BKP, valid_B1P, strict=True)
        weight_BKP = torch.stack([_lovasz_weight(*image) for image in images])
        present_B = foreground_BKP.any(-1).sum(1)
    loss_B = (error_BKP * weight_BKP).sum((1, 2)) / present_B.clamp(min=1)
    return loss_B.mean()


def _lovasz_weight(error_KP: Tensor, foreground_KP: Tensor, valid_1P: Tensor) -> Tensor:
    """∂loss/∂error of every pixel, (K, P): J_n − J_{n−1} in the sorted order, put back in place.

    Written out rather than as a difference of the J_n, which float32 would cancel away at a million pixels. With I the
    intersection and U the union after the pixel: a foreground pixel that turns wrong takes 1 from I, hence 1/U; a
    background pixel adds 1 to U, hence I/(U − 1) − I/U = I/(U(U − 1)). With I = 0 the latter is 0, as it should be for
    ignored pixels, which come last, and for classes that are absent.
    """
    order_KP = _worst_first(error_KP, valid_1P)
    is_foreground_KP = foreground_KP.gather(-1, order_KP)
    missed_KP = is_foreground_KP.cumsum(-1, dtype=torch.int32)
    total_K1 = missed_KP[:, -1:]
    seen_P = torch.arange(1, error_KP.shape[-1] + 1, dtype=torch.int32, device=error_KP.device)
    union_KP = (total_K1 + seen_P - missed_KP).to(error_KP.dtype)
    intersection_KP = (total_K1 - missed_KP).to(error_KP.dtype)
    # U − 1 is 0 at the first pixel of an absent class, and there alone.
    as_background_KP = intersection_KP / (union_KP * (union_KP - 1).clamp(min=1))
    weight_KP = torch.where(is_foreground_KP, 1 / union_KP, as_background_KP)
    return torch.empty_like(error_KP).scatter_(-1, order_KP, weight_KP)


def _worst_first(error_KP: Tensor, valid_1P: Tensor) -> Tensor:
    """Indices that put errors in falling order, with ignored pixels last, where they change no other pixel's weight."""
    # The bits of non-negative floats are integers of the same order, which sort several times faster.
    integer = torch.int32 if error_KP.dtype == torch.float32 else torch.int64
    last = torch.iinfo(integer).max
    key_KP = torch.where(valid_1P, last - 1 - error_KP.contiguous().view(integer), last)
    if key_KP.is_cuda:
        return key_KP.argsort(-1)
    # On the CPU torch has a radix sort, but only for one dimension: hence a class at a time.
    return torch.stack([key_P.argsort() for key_P in key_KP])
