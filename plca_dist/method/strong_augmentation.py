"""Colour jitter and blur of whole batches on their device, each image by numbers of its own.

Shapes: B images, H x W pixels. Images are float RGB in 0-255.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

#: Numbers that `strongly_augmented` takes for an image.
DRAWS = 7
_JITTERED, _BLURRED = 0.8, 0.5
_LEAST_SIGMA, _MOST_SIGMA = 0.15, 1.15
_RADIUS = 4  # more than three times the largest sigma
#: RGB -> luma and two axes of colour (YIQ): a turn of hue is a rotation of the two.
_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def strongly_augmented(image_B3HW: Tensor, draws_B7: Tensor, *, jitter: float, blur: bool) -> Tensor:
    """Colour jitter on 4 of 5 images, then blur on every other one, as DACS (arXiv 2007.08702) has it.

    Args:
        draws_B7: uniform in [0, 1). An image depends on its own row alone.
        jitter: strength s. Brightness, contrast and saturation are multiplied by factors from [1 − s, 1 + s], and hue
            is turned by up to s of a full turn. 0: none.
        blur: Gaussian, σ from [0.15, 1.15] pixels.
    """
    image_B3HW = image_B3HW.float()
    with torch.autocast(image_B3HW.device.type, enabled=False):  # pixels are no features
        if jitter:
            image_B3HW = _jittered(image_B3HW, draws_B7[:, 0] < _JITTERED, draws_B7[:, 1:5], jitter)
        if blur:
            sigma_B = _LEAST_SIGMA + (_MOST_SIGMA - _LEAST_SIGMA) * draws_B7[:, 6]
            image_B3HW = _blurred(image_B3HW, draws_B7[:, 5] < _BLURRED, sigma_B)
    return image_B3HW


@lru_cache(maxsize=8)
def _colours(device: torch.device) -> tuple[Tensor, Tensor]:
    """RGB -> YIQ and back. Kept, because the host waits for the copy to a GPU."""
    to_yiq_33 = torch.tensor(_YIQ)
    return to_yiq_33.to(device), torch.linalg.inv(to_yiq_33).to(device)


def _jittered(image_B3HW: Tensor, chosen_B: Tensor, draws_B4: Tensor, strength: float) -> Tensor:
    """All of it is one affine map of the colours: x ↦ M x + m, where m keeps the mean grey through the contrast."""
    factors_B3 = 1 - strength + 2 * strength * draws_B4[:, :3]
    brightness_B, contrast_B, saturation_B = (f[:, None, None] for f in factors_B3.unbind(1))
    turn_B = 2 * math.pi * strength * (2 * draws_B4[:, 3] - 1)
    to_yiq_33, to_rgb_33 = _colours(image_B3HW.device)
    cos, sin, zero, one = turn_B.cos(), turn_B.sin(), torch.zeros_like(turn_B), torch.ones_like(turn_B)
    turned_B33 = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(-1, 3, 3)
    hue_B33 = to_rgb_33 @ turned_B33 @ to_yiq_33
    eye_33, grey_33 = torch.eye(3, device=image_B3HW.device), to_yiq_33[:1].expand(3, 3)
    saturation_B33 = saturation_B * eye_33 + (1 - saturation_B) * grey_33
    before_contrast_B33 = brightness_B * (hue_B33 @ saturation_B33)
    mean_B31 = before_contrast_B33 @ image_B3HW.mean((2, 3))[:, :, None]
    offset_B31 = (1 - contrast_B) * (to_yiq_33[:1] @ mean_B31).expand(-1, 3, 1)
    jittered_B3N = (contrast_B * before_contrast_B33) @ image_B3HW.flatten(2) + offset_B31
    jittered_B3HW = jittered_B3N.view_as(image_B3HW).clamp(0, 255)
    return torch.where(chosen_B[:, None, None, None], jittered_B3HW, image_B3HW)


def _blurred(image_B3HW: Tensor, chosen_B: Tensor, sigma_B: Tensor) -> Tensor:
    """Rows, then columns; each image with a kernel of its own. Beyond its edge an image is mirrored."""
    batch, _, height, width = image_B3HW.shape
    offsets_T = torch.arange(-_RADIUS, _RADIUS + 1, device=image_B3HW.device)
    kernel_BT = torch.softmax(-(offsets_T**2) / (2 * sigma_B[:, None] ** 2), 1)
    kernel_BT = torch.where(chosen_B[:, None], kernel_BT, (offsets_T == 0).float())
    kernel_C1T = kernel_BT.repeat_interleave(3, 0)[:, None]
    planes_1CHW = image_B3HW.reshape(1, batch * 3, height, width)
    down, across = kernel_C1T[..., None], kernel_C1T[:, :, None]
    for kernel, margins in ((down, (0, 0, _RADIUS, _RADIUS)), (across, (_RADIUS, _RADIUS, 0, 0))):
        planes_1CHW = F.conv2d(F.pad(planes_1CHW, margins, mode="reflect"), kernel, groups=batch * 3)
    return planes_1CHW.view_as(image_B3HW)
