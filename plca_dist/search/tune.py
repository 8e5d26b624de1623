"""A search from start to end: Ray Tune decides which trials go on, each trial is an ordinary run."""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

# Read by ray.tune when it is imported or runs, hence before the import below.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # a Ctrl-C is Python's own
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # its files; the runs keep their own
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial that failed has none
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # the plan tells of them, in a line
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the one that heeds verbose=0

import ray
import ray.tune
from ray.tune.error import TuneError

from plca_dist.config import Config
from plca_dist.errors import RunFailed, RunPreempted
from plca_dist.ray_cluster.connect import connection, warnings_shown
from plca_dist.ray_cluster.mailbox import board
from plca_dist.ray_cluster.placement_groups import give_back
from plca_dist.run.lease import Lease
from plca_dist.run.preemption import StopRequests, draining, signals
from plca_dist.search.directory import Search, open_search
from plca_dist.search.samplers import proposals
from plca_dist.search.schedulers import scheduler
from plca_dist.search.searcher import TrialSearcher
from plca_dist.search.space import Space
from plca_dist.search.trainable import TrialTrainable
from plca_dist.search.trials import Trial
from plca_dist.training.context import Record

log = logging.getLogger(__name__)

#: Of a trial's own process, which waits for its workers most of the time: no core, and a little of a resource that
#: every node has, because Tune wants something to reserve.
_TRIAL_MEMORY = 64 << 20
#: Time for trials to leave with a checkpoint, once the search has to.
_LEAVE_S = 60.0
#: Messages of a run that say nothing which the table of trials does not.
_ROUTINE = ("starting ", "checkpoint ", "continuing ")


class Shown(Protocol):
    """What a search is shown on."""

    def show(self, trials: Sequence[Trial]) -> None: ...
    def say(self, message: str) -> None: ...


def tune(space: Space, base: Config, name: str, shown: Shown) -> Search:
    """Search `space` in recipe `base` as search `name`, or continue that search; returns when all trials have ended.

    Raises:
        UserError: bad input; nothing was started.
        RunFailed: no trial finished.
        RunPreempted: SIGTERM, SIGUSR2, or this machine drains; the trials that ran left with a checkpoint.
        KeyboardInterrupt: Ctrl-C; says where the search stands.
    """
    search = open_search(space, base, name)
    stop_requests = StopRequests()
    plan: TrialSearcher | None = None
    with warnings_shown(shown.say), signals(stop_requests):
        try:
            with Lease.acquire(search.store, say=shown.say) as lease:
                search.claim()
                known = search.read()
                plan = TrialSearcher(search, known, proposals(space, known), lambda: stop_requests.reason is not None)
                shown.show(plan.trials)
                if plan.open:
                    _search(search, plan, lease, stop_requests, shown)
                else:
                    shown.say(f"search {search.store.uri} is finished; nothing to do")
        except KeyboardInterrupt:
            if stop_requests.leaving:
                raise RunPreempted(f"preempted ({stop_requests.reason}): {_standing(search, plan)}") from None
            raise KeyboardInterrupt(_standing(search, plan)) from None
    if plan.open:
        if lease.lost or stop_requests.current is None:
            why = "another launch took over" if lease.lost else "Ray Tune ended before its trials"
            raise RunFailed(f"{why}: {_standing(search, plan)}")
        raise RunPreempted(f"preempted ({stop_requests.reason}): {_standing(search, plan)}")
    if not any(t.state == "finished" for t in plan.trials):
        notes = next((t.note for t in plan.trials if t.note), "")
        raise RunFailed(f"no trial of {search.store.uri} finished; the first one's reason: {notes}")
    return search


def _standing(search: Search, plan: TrialSearcher | None) -> str:
    trials = plan.trials if plan else []
    ended = sum(t.state in ("finished", "stopped", "failed") for t in trials)
    return (
        f"{ended} of {search.space.count} trials of search {search.store.uri} have ended; the same command continues it"
    )


def _search(search: Search, plan: TrialSearcher, lease: Lease, stop_requests: StopRequests, shown: Shown) -> None:
    config = search.config(search.any_values())
    wanted, steps = config.cluster, config.schedule.steps

    def show(record: Record) -> None:
        plan.progress(record)
        message = record.get("message", "")
        if message and not message.startswith(_ROUTINE):
            shown.say(f"{record['trial']}: {message}")

    most = wanted.most_workers * search.space.concurrency
    cluster = wanted.model_copy(update={"workers": (wanted.least_workers, most)})
    with (
        connection(cluster, shown.say),
        board(show, lambda: stop_requests.reason) as ours,
        signals(stop_requests, training=lambda: True),
        _every_second(_watch(lease, stop_requests), plan.keep, lambda: shown.show(plan.trials)),
        tempfile.TemporaryDirectory(prefix="plca-tune-") as scratch,
    ):
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(
                ray.tune.with_parameters(TrialTrainable, board=ours.actor), {"cpu": 0, "memory": _TRIAL_MEMORY}
            ),
            tune_config=ray.tune.TuneConfig(
                search_alg=plan,
                scheduler=scheduler(search.space, steps, plan.trials),
                num_samples=-1,  # as many as the plan has
                max_concurrent_trials=search.space.concurrency,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            # Nothing of Tune's is kept: a search continues from its trials.
            run_config=ray.tune.RunConfig(
                name="search",
                storage_path=scratch,
                stop=_Deadline(stop_requests),
                checkpoint_config=ray.tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except TuneError as error:
            raise RunFailed(f"{_standing(search, plan)}; Ray Tune: {str(error).strip().splitlines()[0]}") from error
    plan.keep()
    shown.show(plan.trials)


class _Deadline(ray.tune.Stopper):
    """The end of the search where trials that should leave do not, for instance because they wait for a place."""

    def __init__(self, stop_requests: StopRequests) -> None:
        self._stop_requests = stop_requests

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        notice = self._stop_requests.current
        return notice is not None and time.monotonic() - notice.at > _LEAVE_S


def _name(trial: Any) -> str:
    return str(trial.config["trial"])


def _watch(lease: Lease, stop_requests: StopRequests) -> Callable[[], None]:
    """Gives back what killed trials left reserved; notices when this machine is about to go, or the lease is lost."""

    def look() -> None:
        if lease.lost:
            stop_requests.give("another launch took over", final=True)
        give_back()
        if ray.get_runtime_context().get_node_id() in draining():
            stop_requests.give("the machine of the search drains", final=True)

    return look


@contextmanager
def _every_second(*tasks: Callable[[], None]) -> Iterator[None]:
    """Inside the block a thread does the tasks, one of them failing for itself alone."""
    done, told = threading.Event(), set[str]()

    def run() -> None:
        while not done.wait(1.0):
            for task in tasks:
                try:
                    task()
                except Exception as error:  # a store or a cluster that is away for a while, a terminal that is gone
                    if str(error) not in told:
                        told.add(str(error))
                        log.warning("%s: %s", type(error).__name__, error)

    thread = threading.Thread(target=run, name="plca-search", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
