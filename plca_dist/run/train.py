"""A run from start to end, through failures and a cluster that changes: fit, and fit again from where it stands."""

from collections.abc import Callable

from plca_dist.config import Config
from plca_dist.errors import RunFailed, RunPreempted, TrainingFault, UserError
from plca_dist.ray_cluster.capacity import hopeless, next_width, shortage
from plca_dist.ray_cluster.connect import connection, logs, warnings_shown
from plca_dist.ray_cluster.mailbox import Mailbox, board
from plca_dist.run.attempt import ControllerFailed, WorkersFailed, WorkersLeft, clear, fit
from plca_dist.run.directory import Run, open_run
from plca_dist.run.lease import Lease
from plca_dist.run.preemption import StopRequests, can_go_on, signals, watch
from plca_dist.run.prometheus import RunGauges, telemetry
from plca_dist.training.checkpoint.commit import checkpoint_name, committed
from plca_dist.training.context import Record


def train(config: Config, name: str, show: Callable[[Record], None], stop_requests: StopRequests | None = None) -> Run:
    """Train the recipe as run `name`, or continue it; returns when the result stands in its directory.

    Args:
        config: the recipe; `storage.uri` says where runs are kept.
        name: of the run. The same name continues it, and a finished one is returned as it is.
        show: gets every record (metrics, or `{"message": …}`) while training goes on.
        stop_requests: a final one, given from another thread, ends the run as a signal would.

    Raises:
        UserError: bad input; nothing was started, or it could only be met on the way.
        RunFailed: a fault in training; names the newest checkpoint.
        RunPreempted: SIGTERM, SIGUSR2, a final notice, or a node that drains and that the run cannot do without.
        KeyboardInterrupt: Ctrl-C; says where the run stands.
    """
    run = open_run(config, name)
    if run.finished:
        show({"message": f"run {run.store.uri} is finished; nothing to do"})
        return run
    stop_requests = stop_requests or StopRequests()

    def say(message: str) -> None:
        show({"message": message})

    with warnings_shown(say), signals(stop_requests):
        try:
            with Lease.acquire(run.store, say=say) as lease:
                run.claim()
                try:
                    with (
                        connection(run.config.cluster, say),
                        telemetry(run, lease, show, stop_requests) as told,
                        board(told.show, lambda: stop_requests.reason) as ours,
                        signals(stop_requests, training=lambda: bool(ours.places)),
                        watch(run.config, ours, lease, stop_requests),
                    ):
                        _persist(run, ours, lease, stop_requests, told, say)
                finally:
                    clear(run)
        except KeyboardInterrupt:
            if stop_requests.leaving:
                raise RunPreempted(f"preempted ({stop_requests.reason}): {_standing(run)}") from None
            raise KeyboardInterrupt(_standing(run)) from None
    return run


def _persist(
    run: Run, board: Mailbox, lease: Lease, stop_requests: StopRequests, told: RunGauges, say: Callable[[str], None]
) -> None:
    """Fit, and fit again after a failure or a change: from the newest checkpoint, while the budget for errors lasts.

    A lost worker spends none of it as long as the run got further since the last loss. Ray's own retries are off:
    they cannot tell bad input, which no retry mends, from a lost machine.
    """
    failures, begun = 0, False
    reached = step = _reached(run)  # when a worker was last lost; where the next attempt begins
    while True:
        workers, fits = next_width(run.config)
        if not fits:
            if hopeless(run.config) and begun:
                raise RunPreempted(f"the cluster shrank, and is not one that grows: {_standing(run)}")
            if hopeless(run.config):
                raise UserError(
                    f"{shortage(run.config)}, and the cluster is not one that grows; ask for more nodes, CPUs or "
                    "GPUs, or --set cluster.workers to what fits."
                )
            say(f"waiting for the cluster to grow: {shortage(run.config)}")
        say(f"starting {workers} worker{'s' if workers > 1 else ''}")
        told.begin(step, workers)
        begun = True
        try:
            fit(run, board, workers, lease.generation)
            told.end("finished")
            return
        except WorkersLeft as left:
            _go_on_or_leave(run, left, workers, stop_requests, told, say)
            step = left.step
        except ControllerFailed as error:
            if next_width(run.config)[0] < workers:  # a node went before they started, and there is another width
                told.end("failed", _first_line(error))
                continue
            raise RunFailed(f"{_first_line(error)}; logs: {logs()}") from error
        except WorkersFailed as error:
            if lease.lost:
                raise RunFailed(f"another launch took {run.store.uri} over; this one wrote nothing more") from error
            if stop_requests.current and stop_requests.current.final:
                stop_requests.followed = True
                told.preempted(stop_requests.current.reason)
                raise RunPreempted(
                    f"preempted ({stop_requests.reason}), and workers were lost: {_standing(run)}"
                ) from error
            stop_requests.withdraw()
            faults = [c for c in error.causes if isinstance(c, TrainingFault)]
            if faults:
                raise RunFailed(str(faults[0])) from error
            step = _reached(run)
            if not (error.lost and step > reached):
                failures += 1
            reached = step
            said = _first_line(error.causes[0])
            if failures > run.config.cluster.max_failures:
                raise RunFailed(
                    f"{said}; gave up after {failures} failure{'s' if failures > 1 else ''}. "
                    f"Newest checkpoint: step {step}; logs: {logs()}"
                ) from error
            told.end("restarted", said)
            say(f"worker failed ({said}); restarting from step {step}")


def _go_on_or_leave(
    run: Run, left: WorkersLeft, workers: int, stop_requests: StopRequests, told: RunGauges, say: Callable[[str], None]
) -> None:
    """After a notice: return where the rest of the cluster can go on, else raise RunPreempted."""
    assert stop_requests.current
    reason, noticed, final = stop_requests.current
    told.set("plca_step", left.step)
    line = (
        f"checkpoint {checkpoint_name(left.step, workers)} committed {max(left.at - noticed, 0):.1f} s after the notice"
    )
    if final or not can_go_on(run.config):
        stop_requests.followed = True
        told.preempted(reason)
        raise RunPreempted(f"preempted ({reason}): {line}; the same command continues it")
    stop_requests.withdraw()
    told.preempted(reason)
    say(f"{reason}: {line}; going on with what the cluster holds")


def _reached(run: Run) -> int:
    newest = next(iter(committed(run.store)), None)
    return newest.step if newest else 0


def _standing(run: Run) -> str:
    """Where an interrupted run stands, and how it goes on."""
    step = _reached(run)
    where = f"checkpoint at step {step} of {run.config.schedule.steps}" if step else "no checkpoint yet"
    return f"run {run.store.uri} has {where}; the same command continues it"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
