"""Evaluation of the weights as they are, in the middle of training and on all ranks."""

from contextlib import closing
from typing import Any

import torch.distributed as dist

from plca_dist.config import Config
from plca_dist.data.whole_images import labelled_samples, whole_pairs
from plca_dist.run_files import EVALUATION, json_bytes
from plca_dist.storage import Store
from plca_dist.training import criteria, metrics
from plca_dist.training.build import empty_network
from plca_dist.training.checkpoint.commit import Checkpoint
from plca_dist.training.collectives import ControlGroup, on_rank_0
from plca_dist.training.context import TrainContext
from plca_dist.training.dataloading import open_shards
from plca_dist.training.due import due_after
from plca_dist.training.engine import full_state
from plca_dist.training.evaluation import evaluate_each, ratios
from plca_dist.training.further_terms import TEACHER
from plca_dist.training.metrics_log import MetricsLog, records_until


def validate(
    engine: Any, config: Config, context: TrainContext, control: ControlGroup, metrics_log: MetricsLog, step: int
) -> tuple[float | None, str | None]:
    """Measure the engine's weights: mIoU, the criteria, or both. Leaves evaluation.json. A collective call.

    The mIoU of an averaged teacher is measured too. The best checkpoint is chosen by that of the network that trains:
    it is the one that a run leaves as its result, and the one that runs without a teacher are compared with.

    Returns:
        (mIoU, None): the evaluation is complete. The mIoU is that without aggregation, or None without labels.
        (None, reason): a reason to stop came before the last image was done. Nothing is recorded then.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    labels, settings = config.label_set, config.evaluation
    # A copy outside the engine: at ZeRO 3 ranks with different numbers of images could not share one.
    network = empty_network(config).to(context.device)
    network.load_state_dict(full_state(engine))
    teacher = engine.module.companions.get(TEACHER)

    counts = of_teacher = measured = None
    if settings.uri:
        with closing(labelled_samples(open_shards(config, settings.uri), labels, rank, world_size)) as samples:
            found = evaluate_each(
                [network, teacher.network] if teacher else [network],
                context.until_stopped(samples),
                num_classes=len(labels),
                size=settings.size,
                ratios=ratios(settings.aggregation),
                inference=config.objective.inference,
            )
        counts, *rest = [c.over_ranks(context.device) for c in found]
        of_teacher = rest[0] if teacher else None
    if settings.unlabelled:
        domains = open_shards(config, config.source.uri), open_shards(config, config.target.uri)
        skip = config.order.damaged == "skip"
        pairs = whole_pairs(*domains, labels, settings.unlabelled, rank, world_size, skip_damaged=skip)
        with closing(pairs):
            measured = criteria.measure(
                network,
                context.until_stopped(pairs),
                size=settings.size,
                pairwise=config.objective.pairwise,
            ).over_ranks(context.device)
    stop_reason = control.agree(stop_reason=context.stop_reason()).stop_reason
    if stop_reason is not None:
        return None, stop_reason
    result: dict[str, Any] = {"step": step}
    record: dict[str, Any] = {metrics.STEP: step}
    if counts:
        result |= counts.result(labels)
        record |= _means((metrics.MIOU, metrics.MIOU_AGGREGATED), result["scores"])
    if of_teacher:
        result[TEACHER] = {"scores": of_teacher.result(labels)["scores"]}
        record |= _means((metrics.TEACHER_MIOU, metrics.TEACHER_MIOU_AGGREGATED), result[TEACHER]["scores"])
    if measured:
        result |= {"unlabelled": measured.images, "criteria": measured.result()}
        record |= measured.result()
    metrics_log.add(record)
    if rank == 0:
        context.own.write(EVALUATION, json_bytes(result))
    return record.get(metrics.MIOU), None


def _means(keys: tuple[str, ...], scores: list[dict[str, Any]]) -> dict[str, float]:
    """The mIoU of each ratio under its key, where there is one."""
    return {key: score["miou"] for key, score in zip(keys, scores, strict=False) if score["miou"] is not None}


def postponed(config: Config, run: Store, resumed: Checkpoint) -> bool:
    """Whether the checkpoint's evaluation is still to be made: a preemption postpones it. A collective call."""
    if resumed.miou is not None or not due_after(config, resumed.step).evaluation:
        return False
    if config.evaluation.uri is not None:
        return True
    # A checkpoint keeps the mIoU alone. But the records of its step were written before its commit.
    return not on_rank_0(lambda: _measured(run, resumed))


def _measured(run: Store, resumed: Checkpoint) -> bool:
    return any(r[metrics.STEP] == resumed.step and metrics.DENSITY in r for r in records_until(run, resumed))
