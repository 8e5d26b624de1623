"""Random numbers of the pairs in a step, on the device where they are wanted."""

import torch
from torch import Tensor

from plca_dist.data.order import pair_draws


class Draws:
    """`Scene.draw` for the pairs with these keys (`Batch.keys`). The host does not wait for the device."""

    def __init__(self, keys_P3: Tensor, device: torch.device) -> None:
        self._keys_P3, self._device = keys_P3.numpy(), device

    def __call__(self, name: str, count: int) -> Tensor:
        drawn = torch.from_numpy(pair_draws(self._keys_P3, name, count))
        return drawn if self._device.type == "cpu" else drawn.pin_memory().to(self._device, non_blocking=True)
