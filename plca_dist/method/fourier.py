"""FDA: the source in the target's colours and light, by its low frequencies (Yang and Soatto, CVPR 2020, 2004.05498).

Shapes: B pairs, H x W pixels of both images.
"""

import math

import torch
from torch import Tensor


def in_style_of(source_B3HW: Tensor, target_B3HW: Tensor, beta: float) -> Tensor:
    """The k-th source image with the low-frequency amplitudes of the k-th target image; phases stay. uint8 RGB.

    Of each channel of the pixels, 0-255, the spectrum's amplitudes are swapped in a square of half-width
    b = ⌊β · min(H, W)⌋ around frequency 0: (2b + 1)² of them, the mean colour among them. The phases hold the shapes,
    so labels stay true. What leaves 0-255 is clamped and the rest rounded, as an image file would; the authors pass the
    numbers on as they are.

    Raises ValueError for images of two sizes.
    """
    if source_B3HW.shape != target_B3HW.shape:
        raise ValueError(f"expected images of one size, got {source_B3HW.shape[1:]} and {target_B3HW.shape[1:]}")
    height, width = source_B3HW.shape[2:]
    half = math.floor(beta * min(height, width))
    # Images are real: half of the spectrum says it all. Rows of negative frequencies are at the end.
    source, target = (torch.fft.rfft2(image.float()) for image in (source_B3HW, target_B3HW))
    for rows in (slice(0, half + 1), slice(height - half, height)):
        low = (..., rows, slice(0, half + 1))
        source[low] = torch.polar(target[low].abs(), source[low].angle())
    styled_B3HW = torch.fft.irfft2(source, s=(height, width))
    return styled_B3HW.round().clamp(0, 255).to(torch.uint8)
