"""The training loop of one rank: batch -> engine -> record, evaluation, checkpoint. Reads top to bottom."""

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import takewhile
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from plca_dist.config import Config
from plca_dist.data.labels import label_set
from plca_dist.data.stream import labelled_samples, whole_pairs
from plca_dist.models.weights import to_bytes
from plca_dist.run_files import EVALUATION, METRICS, WEIGHTS
from plca_dist.storage import Store
from plca_dist.training import criteria, health, metrics
from plca_dist.training.build import empty_network, fresh_network
from plca_dist.training.checkpoint import restore as checkpoint
from plca_dist.training.checkpoint.commit import Checkpoint
from plca_dist.training.checkpoint.save import Saver
from plca_dist.training.collectives import Control, on_rank_0
from plca_dist.training.context import Preempted, TrainContext
from plca_dist.training.dataloading import open_stream
from plca_dist.training.engine import average_buffers, build_engine, full_state, set_lr
from plca_dist.training.evaluation import evaluate, ratios
from plca_dist.training.meter import Meter
from plca_dist.training.metrics_log import MetricsLog, read_records
from plca_dist.training.watchdog import Watchdog


def run_worker(config: Config, context: TrainContext) -> None:
    """Train from the newest checkpoint (or the start) to the last step, and leave the result in the run's directory.

    Every rank of an initialized torch.distributed group calls this.

    Raises:
        Preempted: `context.stop` gave a reason on some rank; on every rank, after a checkpoint of the step reached.
        TrainingFault: training cannot go on.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    _, accumulation = config.accumulation(world_size)
    prepare_torch(config)
    engine = build_engine(config, fresh_network(config), context.device)
    resumed = checkpoint.restore(engine, config, context.run)
    start, steps = (resumed.step if resumed else 0), config.schedule.steps
    metrics_log = MetricsLog(context.run, context.report, upto=start, keep=rank == 0)
    if resumed:
        metrics_log.say(f"continuing from step {start} ({resumed.name})")
    meter = Meter(config.batch.pairs, context.device, start)

    with_target = engine.module.objective.needs_target
    stream = open_stream(config, rank, world_size, start, with_target=with_target)
    with (
        closing(stream),
        Control() as control,
        Saver(engine, config, context.run, metrics_log, context.fenced) as saver,
        Watchdog(context.run, rank, config.cluster.step_timeout_s, start) as watchdog,
        health.naming_faults(meter, context.run),
    ):
        if resumed and _put_off(config, context, resumed):
            with watchdog.patient("evaluation"):
                miou, stop = _evaluate(engine, config, context, control, metrics_log, start)
            if stop is not None:
                raise Preempted(start, stop)
            saver.score(resumed, miou)
        for step in range(start, steps):
            lr = set_lr(engine, config, step)
            for _ in range(accumulation):
                with meter.waiting():
                    batch = next(stream).to(context.device)
                terms = engine(batch)
                engine.backward(terms.total)
                meter.add(terms.as_dict())
                if engine.is_gradient_accumulation_boundary():  # before the weights change
                    finite = meter.finite()
                    all_finite, stop, saving = control.agree(finite=finite, stop=context.stop(), busy=saver.busy)
                    if not all_finite:
                        raise health.loss_fault(meter, context.run, saver.finish, finite=finite)
                engine.step()
            average_buffers(engine.module)
            meter.step()
            watchdog.step(step + 1)
            due = due_after(config, step + 1, leaving=stop is not None)
            if any(due):
                health.check(engine, meter, context.run, saver.finish)
            if due.record:
                metrics_log.add(meter.record(lr, stream.skipped))
            with meter.paused(), watchdog.patient("evaluation or checkpoint"):
                miou = None
                if due.evaluation:
                    miou, stop = _evaluate(engine, config, context, control, metrics_log, step + 1)
                if due.checkpoint or stop is not None:
                    saver.save(step + 1, miou=miou)
                elif not saving:
                    saver.advance()
                if stop is not None:
                    saver.finish(needed=True)
            if stop is not None:
                raise Preempted(step + 1, stop)
        with watchdog.patient("checkpoint"):
            saver.finish(needed=True)

    _leave_weights(engine, config, context)


class Due(NamedTuple):
    """What is to be done after a step."""

    record: bool
    evaluation: bool
    checkpoint: bool


def due_after(config: Config, step: int, *, leaving: bool = False) -> Due:
    """After `step` steps; the last one has it all. A run that is leaving saves, and puts its evaluation off."""
    last = step == config.schedule.steps

    def due(every: int) -> bool:
        return last or (every > 0 and step % every == 0)

    return Due(
        record=due(config.log.every),
        evaluation=_wanted(config) and due(config.evaluation.every) and not leaving,
        checkpoint=due(config.checkpoint.every) or leaving,
    )


def _wanted(config: Config) -> bool:
    return config.evaluation.uri is not None or config.evaluation.unlabelled > 0


def _put_off(config: Config, context: TrainContext, resumed: Checkpoint) -> bool:
    """Whether the checkpoint's evaluation is still to be made, because a preemption put it off. A collective call."""
    if resumed.miou is not None or not due_after(config, resumed.step).evaluation:
        return False
    if config.evaluation.uri is not None:
        return True
    # A checkpoint keeps the mIoU alone; but the records of its step were written before its commit.
    return not on_rank_0(lambda: _recorded(context.run, resumed.step))


def _recorded(run: Store, step: int) -> bool:
    records = read_records(run) if run.exists(METRICS) else []
    return any(r[metrics.STEP] == step and metrics.DENSITY in r for r in records)


def prepare_torch(config: Config) -> None:
    """Threads, determinism and seed of this process."""
    torch.set_num_threads(config.cluster.cpus_per_worker)
    torch.use_deterministic_algorithms(config.deterministic)
    torch.manual_seed(config.seed)


def _evaluate(
    engine: Any, config: Config, context: TrainContext, control: Control, metrics_log: MetricsLog, step: int
) -> tuple[float | None, str | None]:
    """Measure the weights as they are, on all ranks: mIoU, the criteria, or both; leaves evaluation.json.

    Returns:
        The mIoU without aggregation, None without labels; or None and the reason to stop, where one came before the
        last image was done.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    labels, settings, endpoint = label_set(config.labels), config.evaluation, config.storage.endpoint
    # A copy outside the engine: at ZeRO 3 ranks with different numbers of images could not share one.
    network = empty_network(config).to(context.device)
    network.load_state_dict(full_state(engine))

    def until_told(images: Iterable[Any]) -> Iterator[Any]:
        return takewhile(lambda _: context.stop() is None, images)

    counts = found = None
    if settings.uri:
        samples = labelled_samples(config.data_uri(settings.uri), labels, rank, world_size, endpoint)
        counts = evaluate(
            network,
            until_told(samples),
            num_classes=len(labels),
            size=settings.size,
            ratios=ratios(settings.aggregation),
            inference=config.objective.inference,
        ).over_ranks(context.device)
    if settings.unlabelled:
        domains = config.data_uri(config.source.uri), config.data_uri(config.target.uri)
        skip = config.order.damaged == "skip"
        pairs = whole_pairs(*domains, labels, settings.unlabelled, rank, world_size, endpoint, skip_damaged=skip)
        found = criteria.measure(
            network,
            until_told(pairs),
            size=settings.size,
            pairwise=config.objective.pairwise,
        ).over_ranks(context.device)
    stop = control.agree(stop=context.stop()).stop
    if stop is not None:
        return None, stop
    outcome: dict[str, Any] = {"step": step}
    record: dict[str, Any] = {metrics.STEP: step}
    if counts:
        outcome |= counts.result(labels)
        keys = (metrics.MIOU, metrics.MIOU_AGGREGATED)
        record |= {key: score["miou"] for key, score in zip(keys, outcome["scores"], strict=False)}
    if found:
        outcome |= {"unlabelled": found.images, "criteria": found.result()}
        record |= found.result()
    metrics_log.add(record)
    if rank == 0:
        context.run.write(EVALUATION, json.dumps(outcome, indent=1).encode())
    return record.get(metrics.MIOU), None


def _leave_weights(engine: Any, config: Config, context: TrainContext) -> None:
    """The result, whose existence says that the run is finished."""
    weights = full_state(engine)
    if dist.get_rank() == 0:
        network = empty_network(config)
        network.load_state_dict(weights)
        context.run.write(WEIGHTS, to_bytes(network, classes=label_set(config.labels).classes))
    dist.barrier()
