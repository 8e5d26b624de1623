"""Self-training in rounds: the network at the end of a round labels the target for the next one.

The labels of a crop are made in the forward pass, by a copy of the network that ended the last round. Nothing is stored
but that copy and K thresholds: a crop of any scale gets labels of its own, made at the resolution that it is trained
at, a resumed run makes the same ones, and no shards of labels have to be written between rounds. It costs one forward
pass of the target without gradient, and the memory of the copy. The authors label whole images once a round and crop
the labels.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from plca_dist.data.augment import resize_for_test
from plca_dist.errors import TrainingFault
from plca_dist.method.on_target import target_logits, upsampled
from plca_dist.method.pseudo_labels import (
    BINS,
    assign,
    count_confidence,
    log_thresholds,
    pseudo_label_loss,
    round_of,
    share_of_round,
)
from plca_dist.method.terms import Scene
from plca_dist.models.deeplab import Network
from plca_dist.term_sections import SelfTrainingSettings


class SelfTraining:
    """A term and a companion in one. Before the first round its loss is 0 and it holds no network.

    Args:
        start: the step (from 0) that the first round begins before.
        length: steps of a round.
        make_network: an empty network of the recipe, on the device.
        classes: K.
        autocast: the passes of the count are in bfloat16, as those of training are.
    """

    name = "pseudo_labels"

    def __init__(
        self,
        settings: SelfTrainingSettings,
        start: int,
        length: int,
        make_network: Callable[[], Network],
        classes: int,
        device: torch.device,
        *,
        autocast: bool,
    ) -> None:
        self._settings, self._make_network = settings, make_network
        self._start, self._length = start, length
        self._classes, self._device, self._autocast = classes, device, autocast
        self._smoothness = settings.smoothness if settings.kind == "mrkld" else 0.0
        self._temperature = settings.temperature if settings.kind == "lrent" else 0.0
        self.turn = -1
        self._network: Network | None = None
        self._log_threshold_K = torch.zeros(classes, dtype=torch.float64, device=device)

    def __call__(self, scene: Scene) -> Mapping[str, Tensor]:
        """The loss, and the share of the target's pixels that have a label: per image, then the mean over images."""
        logits_BKHW, image_B3HW = target_logits(scene), scene.target_image_B3HW
        assert image_B3HW is not None
        if self._network is None:
            nothing = (0 * logits_BKHW.mean()).abs()  # no -0 in the records
            return {self.name: nothing, "labelled": nothing.detach()}
        with torch.no_grad():
            of_last_round = upsampled(self._network(image_B3HW).logits, image_B3HW)
        labels = assign(of_last_round, self._log_threshold_K, self._temperature)
        loss = pseudo_label_loss(logits_BKHW, labels, self._smoothness)
        return {self.name: loss, "labelled": labels.chosen.float().mean()}

    def begins(self, step: int) -> int | None:
        """The round that begins before optimizer step `step` (from 0); None where none does."""
        found = round_of(step, self._start, self._length, self._settings.rounds)
        return found[0] if found and found[1] else None

    def begin(self, turn: int, count_KN: Tensor) -> None:
        """Begin round `turn` with the weights and the pixels of `count`."""
        share = share_of_round(turn, self._settings.share, self._settings.growth, self._settings.most)
        self.turn, self._log_threshold_K = turn, log_thresholds(count_KN, share)

    @property
    def log_thresholds(self) -> Tensor:
        """log t_c of the round, (K,) float64."""
        return self._log_threshold_K

    @torch.no_grad()
    def count(self, weights: dict[str, Tensor], images: Iterable[Tensor]) -> Tensor:
        """How many pixels a network of these weights calls each class, by confidence: `count_confidence`, (K, N) int64.

        A collective call. Its network is the copy that labels from the next `begin` on.

        Args:
            images: this rank's share of the target, each (3, H, W) uint8. Counts of integers add up over ranks, so the
                thresholds are those of the whole target at any number of ranks.

        Raises TrainingFault, on every rank, where predictions are not finite.
        """
        self._freeze(weights)
        assert self._network is not None
        size, count_KN = self._settings.size, torch.zeros(self._classes, BINS, dtype=torch.int64, device=self._device)
        pixels = torch.zeros((), dtype=torch.int64, device=self._device)
        for image_3HW in images:
            resized = image_3HW if size is None else resize_for_test(image_3HW, size)
            image_13HW = resized[None].to(self._device)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                logits_1Khw = self._network(image_13HW).logits
            count_KN += count_confidence(upsampled(logits_1Khw, image_13HW))
            pixels += image_13HW[0, 0].numel()
        if dist.get_world_size() > 1:
            dist.all_reduce(count_KN)
            dist.all_reduce(pixels)
        if count_KN.sum() < pixels:
            raise TrainingFault(
                "the network's predictions of the target are not finite, so it cannot label it. Lower optimizer.lr or "
                "set optimizer.gradient_clipping."
            )
        return count_KN

    def _freeze(self, weights: dict[str, Tensor]) -> None:
        if self._network is None:
            self._network = self._make_network().eval().requires_grad_(False)
        self._network.load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        network = {} if self._network is None else self._network.state_dict()
        return {"turn": self.turn, "log_thresholds": self._log_threshold_K, "network": network}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.turn = int(state["turn"])
        self._log_threshold_K = state["log_thresholds"].to(self._device)
        if self.turn >= 0:
            self._freeze(state["network"])

    def after_step(self, network: nn.Module, done: int) -> None:
        """Rounds begin before a step (`rounds.begin_round`), where data is at hand."""
