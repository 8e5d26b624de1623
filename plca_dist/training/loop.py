"""The training loop of one rank: batch -> engine -> record, evaluation, checkpoint. Reads top to bottom."""

from contextlib import closing
from typing import Any

import torch
import torch.distributed as dist

from plca_dist.config import Config
from plca_dist.data.label_record import own_record
from plca_dist.messages import Record
from plca_dist.models.weights import to_bytes
from plca_dist.run_files import EVALUATION, TEACHER_WEIGHTS, WEIGHTS
from plca_dist.storage import Store
from plca_dist.training import health
from plca_dist.training.ahead import Ahead
from plca_dist.training.attempts import newest
from plca_dist.training.build import empty_network
from plca_dist.training.checkpoint.restore import restore
from plca_dist.training.checkpoint.save import Saver
from plca_dist.training.collectives import ControlGroup, on_rank_0
from plca_dist.training.context import Preempted, TrainContext
from plca_dist.training.dataloading import open_stream
from plca_dist.training.due import due_after
from plca_dist.training.engine import after_step, average_buffers, build_engine, full_state, set_lr
from plca_dist.training.further_terms import TEACHER
from plca_dist.training.meter import Meter
from plca_dist.training.metrics_log import MetricsLog, records_until
from plca_dist.training.precision import set_products
from plca_dist.training.rounds import begin_round, round_begins
from plca_dist.training.trained import fresh_network
from plca_dist.training.validation import postponed, validate
from plca_dist.training.watchdog import Watchdog, longest_wait


def run_worker(config: Config, context: TrainContext) -> None:
    """Train from the newest checkpoint (or the start) to the last step, and leave the result in the run's directory.

    Every rank of an initialized torch.distributed group calls this.

    Raises:
        Preempted: `context.stop_reason` gave a reason on some rank; on every rank, after a checkpoint of the step
            reached.
        LeaseLost: a newer attempt exists. This one saves nothing more.
        TrainingFault: training cannot go on.
    """
    meter = Meter(config.batch.pairs, context.device)
    with health.naming_out_of_memory(meter, context.run):
        _train(config, context, meter)


def _train(config: Config, context: TrainContext, meter: Meter) -> None:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    _, accumulation = config.accumulation(world_size)
    prepare_torch(config)
    engine = build_engine(config, fresh_network(config), context.device)
    resumed = restore(engine, config, context.run)
    start, steps = (resumed.step if resumed else 0), config.schedule.steps
    before: list[Record] = []
    if resumed:
        on_rank_0(lambda: before.extend(records_until(context.run, resumed)))  # rank 0 alone keeps them
    metrics_log = MetricsLog(
        context.run, context.report, generation=context.generation, start_step=start, before=before, keep=rank == 0
    )
    if resumed:
        metrics_log.show("continuing", f"continuing from step {start} ({resumed.name})")
    meter.begin(start)

    stream = Ahead(open_stream(config, rank, world_size, start, with_target=config.needs_target), context.device)
    with (
        closing(stream),
        ControlGroup(longest_wait(config.cluster.step_timeout_s)) as control,
        Saver(engine, config, context.run, metrics_log, context.generation) as saver,
        Watchdog(context.own, rank, config.cluster.step_timeout_s, start) as watchdog,
    ):
        if resumed and postponed(config, context.run, resumed):
            with watchdog.patient("evaluation"):
                miou, stop_reason = validate(engine, config, context, control, metrics_log, start)
            if stop_reason is not None:
                raise Preempted(start, stop_reason)
            saver.save(start, miou=miou)
        miou = None
        for step in range(start, steps):
            if round_begins(engine, step):
                health.check_finite(engine, meter, context.run, saver.finish)
                with meter.paused(), watchdog.patient("labels of a round"):
                    stop_reason = begin_round(engine, config, context, control, step)
                    if stop_reason is not None:
                        saver.finish()
                        if saver.committed != step and step > start:
                            saver.save(step, miou=miou)
                            saver.finish(needed=True)
                        raise Preempted(step, stop_reason)
            lr = set_lr(engine, config, step)
            for _ in range(accumulation):
                with meter.waiting():
                    batch = next(stream)
                terms = engine(batch)
                meter.add(terms.as_dict())
                engine.backward(terms.total)
                if engine.is_gradient_accumulation_boundary():  # before the weights change
                    finite = meter.finite()
                    all_finite, stop_reason, saving = control.agree(
                        finite=finite, stop_reason=context.stop_reason(), saving=saver.busy
                    )
                    if not all_finite:
                        raise health.loss_fault(meter, context.run, saver.finish, finite=finite)
                engine.step()
            average_buffers(engine.module)
            after_step(engine, step + 1)
            meter.step()
            watchdog.step(step + 1)
            due = due_after(config, step + 1, leaving=stop_reason is not None)
            if any(due):
                health.check_finite(engine, meter, context.run, saver.finish)
            if due.record:
                metrics_log.add(meter.record(lr, stream.skipped))
            with meter.paused(), watchdog.patient("evaluation or checkpoint"):
                miou = None
                if due.evaluation:
                    miou, stop_reason = validate(engine, config, context, control, metrics_log, step + 1)
                if due.checkpoint or stop_reason is not None:
                    saver.save(step + 1, miou=miou)
                elif not saving:
                    saver.advance()
                if stop_reason is not None:
                    saver.finish(needed=True)
            if stop_reason is not None:
                raise Preempted(step + 1, stop_reason)
        with watchdog.patient("checkpoint"):
            saver.finish(needed=True)

    leave_result(engine, config, context.run, metrics_log)


def prepare_torch(config: Config) -> None:
    """Threads, determinism, precision and seed of this process."""
    set_products(config.precision)
    torch.set_num_threads(config.cluster.cpus_per_worker)
    torch.use_deterministic_algorithms(config.deterministic)
    torch.backends.cudnn.benchmark = not config.deterministic  # crops have one size
    torch.manual_seed(config.seed)


def leave_result(engine: Any, config: Config, run: Store, metrics_log: MetricsLog) -> None:
    """Leave metrics.jsonl, evaluation.json and the weights, which say that the run is finished. A collective call.

    Those of an averaged teacher come before.

    Each is created once and never replaced. Where an earlier attempt that ended here has left some of them, these stay:
    they are of the same step.
    """
    weights = full_state(engine)

    def leave() -> None:
        metrics_log.leave()
        if evaluation := newest(run, EVALUATION):
            run.create(EVALUATION, run.read(evaluation))
        labels = config.label_set
        if teacher := engine.module.companions.get(TEACHER):
            run.create(TEACHER_WEIGHTS, to_bytes(teacher.network, labels.classes, own_record(labels)))
        network = empty_network(config)
        network.load_state_dict(weights)
        run.create(WEIGHTS, to_bytes(network, labels.classes, own_record(labels)))

    on_rank_0(leave)
