"""The adversarial term and the discriminator that it trains: a network with an optimizer of its own, beside the engine.

Each forward pass adds to the discriminator's gradient; after the optimizer's step of the segmenter the ranks average it
and the discriminator makes one step of its own. So it sees the same batch at any number of ranks and passes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from plca_dist.method.adversarial import Discriminator, discriminator_loss, fooling_loss, seen_by_discriminator
from plca_dist.method.on_target import target_logits, upsampled
from plca_dist.method.terms import Scene
from plca_dist.term_sections import AdversarySettings


class Adversary:
    """A term and a companion in one. Every rank holds the whole discriminator, and the same.

    Args:
        classes: K.
        seed: of the initial weights, which depend on nothing else.
        decay: the factor of the learning rate at an optimizer step (from 0).
        device: where the segmenter computes.
    """

    name = "adversarial"

    def __init__(
        self,
        settings: AdversarySettings,
        classes: int,
        seed: int,
        decay: Callable[[int], float],
        device: torch.device,
    ) -> None:
        self._settings, self._decay = settings, decay
        with torch.random.fork_rng(devices=[]):  # what is drawn later stays as it is without a discriminator
            torch.default_generator.manual_seed(seed)
            self.discriminator = Discriminator(classes).to(device)
        self._optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=settings.lr, betas=settings.betas)
        self._passes = 0

    def __call__(self, scene: Scene) -> Mapping[str, Tensor]:
        """The segmenter's loss, and the discriminator's own, whose gradient is added up on the way."""
        logits = upsampled(scene.source.logits, scene.source_image_B3HW), target_logits(scene)
        source_BKHW, target_BKHW = (seen_by_discriminator(x, self._settings.sees) for x in logits)
        own = discriminator_loss(self.discriminator, source_BKHW, target_BKHW)
        if own.requires_grad:
            own.backward()
            self._passes += 1
        return {self.name: fooling_loss(self.discriminator, target_BKHW), "discriminator": own.detach()}

    def state_dict(self) -> dict[str, Any]:
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        self._optimizer.load_state_dict(state["optimizer"])

    def after_step(self, network: nn.Module, done: int) -> None:
        """One step on the mean over ranks and passes of the gradients since the last."""
        if not self._passes:
            raise RuntimeError("a step of the discriminator without a forward pass before it")
        _average([w.grad for w in self.discriminator.parameters() if w.grad is not None], self._passes)
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.lr * self._decay(done - 1)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._passes = 0


def _average(gradients: list[Tensor], passes: int) -> None:
    """Replace the sums over passes by the mean over passes and ranks. One all-reduce."""
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    if dist.get_world_size() > 1:
        dist.all_reduce(flat)
    flat /= passes * dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
