"""A run from start to end, through failures and a cluster that changes: fit, and fit again from where it stands."""

from collections.abc import Callable

from plca_dist.config import Config
from plca_dist.errors import RunFailed, RunPreempted, TrainingFault, UserError, counted, first_line
from plca_dist.messages import Message, MessageKind, RunEvent, warnings_shown
from plca_dist.ray_cluster.capacity import hopeless, next_world_size, shortage
from plca_dist.ray_cluster.connect import connection
from plca_dist.ray_cluster.internals.core import logs_directory
from plca_dist.ray_cluster.mailbox import Left, Mailbox, mailbox
from plca_dist.run.attempt import ControllerFailed, WorkersFailed, clear, clear_before, fit
from plca_dist.run.directory import Run, open_run
from plca_dist.run.lease import Lease, naming_the_loss
from plca_dist.run.preemption import StopRequests, can_go_on, signals, watch
from plca_dist.run.prometheus import RunGauges, run_gauges
from plca_dist.training.checkpoint.commit import checkpoint_name
from plca_dist.training.checkpoint.survey import committed
from plca_dist.training.class_gaps import class_gaps

Say = Callable[[MessageKind, str], None]


def train(config: Config, name: str, show: Callable[[RunEvent], None], requests: StopRequests | None = None) -> Run:
    """Train the recipe as run `name`, or continue it; returns when the result stands in its directory.

    Args:
        config: the recipe; `storage.uri` says where runs are kept.
        name: of the run. The same name continues it, and a finished one is returned as it is.
        show: gets every record and message while training goes on.
        requests: a final one, given from another thread, ends the run as a signal would.

    Raises:
        UserError: bad input; nothing was started, or it could only be met on the way.
        RunFailed: a fault in training; names the newest checkpoint.
        RunPreempted: SIGTERM, SIGUSR2, a final stop request, or a node drains that the run cannot do without.
        KeyboardInterrupt: Ctrl-C; says where the run stands.
    """
    run = open_run(config, name)

    def say(kind: MessageKind, text: str) -> None:
        show(Message(kind, text))

    if run.finished:
        say("finished", f"run {run.store.uri} is finished; nothing to do")
        return run
    for line in class_gaps(run.config):
        say("classes", line)
    requests = requests or StopRequests()
    with warnings_shown(show), signals(requests):
        try:
            with Lease.acquire(run.store, say=lambda text: say("lease", text)) as lease, naming_the_loss(lease):
                run = run.held(lease)
                run.claim(lease.generation)
                try:
                    with (
                        connection(run.config.cluster, lambda text: say("cluster", text)),
                        run_gauges(run, show, requests) as gauges,
                        mailbox(gauges.show, lambda: requests.reason) as opened,
                        signals(requests, training=lambda: bool(opened.places)),
                        watch(run.config, opened, lease, requests),
                    ):
                        _Driver(run, opened, lease, requests, gauges, say).persist()
                finally:
                    clear(run, lease.generation)
        except KeyboardInterrupt:
            if requests.leave_at_once:
                raise RunPreempted(f"preempted ({requests.reason}): {_standing(run)}") from None
            raise KeyboardInterrupt(_standing(run)) from None
    return run


class _Driver:
    """Fits, and fits again after a failure or a change: from the newest checkpoint, while the budget for errors lasts.

    A lost worker spends none of it as long as the run got further since the last loss. Ray's own retries are off:
    they cannot tell bad input, which no retry mends, from a lost machine.
    """

    def __init__(
        self, run: Run, mailbox: Mailbox, lease: Lease, requests: StopRequests, gauges: RunGauges, say: Say
    ) -> None:
        self._run, self._mailbox, self._lease, self._requests = run, mailbox, lease, requests
        self._gauges, self._say = gauges, say
        self._failures = 0
        self._step = _reached(run)  # where the next attempt begins
        self._step_at_loss = self._step  # where the attempt after the last loss began

    def persist(self) -> None:
        """Returns when the run is finished; raises as `train` does."""
        begun = False
        while True:
            workers = self._room(begun)
            # A generation for each attempt: workers of an earlier one may live on behind a broken network.
            generation = self._lease.advance() if begun else self._lease.generation
            clear_before(self._run, generation)
            self._say("starting", f"starting {counted(workers, 'workers')}")
            self._gauges.begin(self._step, workers, generation)
            begun = True
            try:
                left = fit(self._run, self._mailbox, workers, generation)
            except ControllerFailed as error:
                self._after_controller(error, workers)
            except WorkersFailed as error:
                self._after_failure(error)
            else:
                if left is None:
                    self._gauges.end("finished")
                    return
                self._after_leaving(left, workers)

    def _room(self, begun: bool) -> int:
        """How many workers the next attempt takes. Raises where the cluster can never hold the fewest."""
        config = self._run.config
        workers, fits = next_world_size(config)
        if fits:
            return workers
        if hopeless(config):
            if begun:
                raise RunPreempted(f"the cluster shrank, and is not one that grows: {_standing(self._run)}")
            raise UserError(
                f"{shortage(config)}, and the cluster is not one that grows; ask for more nodes, CPUs or GPUs, or "
                "--set cluster.workers to what fits."
            )
        self._say("cluster", f"waiting for the cluster to grow: {shortage(config)}")
        return workers

    def _after_controller(self, error: ControllerFailed, workers: int) -> None:
        reason = first_line(error)
        if next_world_size(self._run.config)[0] >= workers:
            raise RunFailed(f"{reason}; logs: {logs_directory()}") from error
        # A node went before the workers started, and the run fits into what is left.
        self._gauges.end("failed", reason)

    def _after_failure(self, error: WorkersFailed) -> None:
        """Return where the run may start again, else raise."""
        request = self._requests.current
        self._lease.require()
        if request and request.final:
            self._requests.is_leaving = True
            self._gauges.stopped(request)
            raise RunPreempted(
                f"preempted ({request.reason}), and workers were lost: {_standing(self._run)}"
            ) from error
        self._requests.withdraw()
        if fault := next((c for c in error.causes if isinstance(c, TrainingFault)), None):
            raise RunFailed(str(fault)) from error
        self._step = _reached(self._run)
        if not (error.lost and self._step > self._step_at_loss):
            self._failures += 1
        self._step_at_loss = self._step
        cause = first_line(error.causes[0], with_type=True)
        if self._failures > self._run.config.cluster.max_failures:
            raise RunFailed(
                f"{cause}; gave up after {counted(self._failures, 'failures')}. "
                f"Newest checkpoint: step {self._step}; logs: {logs_directory()}"
            ) from error
        self._gauges.end("restarted", cause)
        self._say("restarting", f"worker failed ({cause}); restarting from step {self._step}")

    def _after_leaving(self, left: Left, workers: int) -> None:
        """The workers followed a stop request: return where the rest of the cluster can go on, else raise."""
        request = self._requests.current
        assert request
        self._step = left.step
        self._gauges.reached(left.step)
        took = max(left.at - request.at, 0)
        name = checkpoint_name(left.step, workers, self._lease.generation)
        line = f"checkpoint {name} committed {took:.1f} s after the notice"
        if request.final or not can_go_on(self._run.config):
            self._requests.is_leaving = True
            self._gauges.stopped(request)
            raise RunPreempted(f"preempted ({request.reason}): {line}; the same command continues it")
        self._requests.withdraw()
        self._gauges.stopped(request)
        self._say("left", f"{request.reason}: {line}; going on with what the cluster holds")


def _reached(run: Run) -> int:
    newest = next(iter(committed(run.store)), None)
    return newest.step if newest else 0


def _standing(run: Run) -> str:
    """Where an interrupted run stands, and how it goes on."""
    step = _reached(run)
    where = f"checkpoint at step {step} of {run.config.schedule.steps}" if step else "no checkpoint yet"
    return f"run {run.store.uri} has {where}; the same command continues it"
