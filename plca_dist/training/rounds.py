"""The beginning of a round of self-training: one pass of the network over the target, shared out over the ranks."""

from contextlib import closing
from typing import Any

import torch.distributed as dist

from plca_dist.config import Config
from plca_dist.data.whole_images import target_images
from plca_dist.training.collectives import ControlGroup
from plca_dist.training.context import TrainContext
from plca_dist.training.dataloading import open_shards
from plca_dist.training.engine import full_state
from plca_dist.training.self_training import SelfTraining


def round_begins(engine: Any, step: int) -> bool:
    """Whether a round begins before optimizer step `step` (from 0). The same on every rank."""
    training = engine.module.companions.get(SelfTraining.name)
    return isinstance(training, SelfTraining) and training.begins(step) is not None


def begin_round(engine: Any, config: Config, context: TrainContext, control: ControlGroup, step: int) -> str | None:
    """Begin the round that `round_begins` speaks of. A collective call.

    Nothing of a round that is not begun needs to be saved: a run resumed at this step counts again, with the same
    weights and the same images.

    Returns:
        None, or the reason to stop that came before the last image was counted. The round has not begun then.
    """
    training = engine.module.companions[SelfTraining.name]
    shards, skip = open_shards(config, config.target.uri), config.order.damaged == "skip"
    with closing(target_images(shards, dist.get_rank(), dist.get_world_size(), skip_damaged=skip)) as images:
        count_KN = training.count(full_state(engine), context.until_stopped(images))
    stop_reason = control.agree(stop_reason=context.stop_reason()).stop_reason
    if stop_reason is None:
        training.begin(training.begins(step), count_KN)
    return stop_reason
