"""The beginning of a round of self-training: one pass of the network over the target, shared out over the ranks."""

from typing import Any

import torch.distributed as dist

from plca_dist.config import Config
from plca_dist.data.whole_images import target_images
from plca_dist.training.dataloading import open_shards
from plca_dist.training.engine import full_state
from plca_dist.training.self_training import SelfTraining


def round_begins(engine: Any, step: int) -> bool:
    """Whether a round begins before optimizer step `step` (from 0). The same on every rank."""
    training = engine.module.companions.get(SelfTraining.name)
    return isinstance(training, SelfTraining) and training.begins(step) is not None


def begin_round(engine: Any, config: Config, step: int) -> None:
    """Begin the round that `round_begins` speaks of. A collective call.

    A checkpoint of this step was written before the round began. A run resumed from it begins the round again, from the
    same weights and the same images: nothing of a round under way needs to be saved.
    """
    training = engine.module.companions[SelfTraining.name]
    shards, skip = open_shards(config, config.target.uri), config.order.damaged == "skip"
    images = target_images(shards, dist.get_rank(), dist.get_world_size(), skip_damaged=skip)
    training.begin(training.begins(step), full_state(engine), images)
