"""Eq. 13: adaptive label smoothing, on source and on target alike.

Shapes: B pairs, K classes.
"""

from torch import Tensor

from plca_dist.method.settings import check_smoothness
from plca_dist.ops.dense import at_least_float32


def smoothing_loss(logits_BKHW: Tensor, gamma: float = 10.0) -> Tensor:
    """mean_i sg(ℓ_i/γ − 1) · ℓ_i with ℓ_i = −1/K Σ_c log P_i(c), the cross-entropy of position i with a uniform label.

    The stop-gradient sg matters: a prediction is smoothed while ℓ > γ, sharpened while ℓ < γ, and rests at ℓ = γ.
    Without it the rest would be at γ/2. The logits are those of the grid, before upsampling, as in the authors' code.
    All pairs have equally many positions: the mean over all positions is the mean over pairs of the mean per pair.

    Raises UserError for a γ that is not positive.
    """
    logits_BKHW = at_least_float32(logits_BKHW)
    # −mean_c log softmax(z)_c = logsumexp(z) − mean(z)
    uniform_BHW = logits_BKHW.logsumexp(1) - logits_BKHW.mean(1)
    return ((uniform_BHW.detach() / check_smoothness(gamma) - 1) * uniform_BHW).mean()
