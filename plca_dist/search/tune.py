"""A search from start to end: Ray Tune decides which trials go on, each trial is an ordinary run."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ray
import ray.tune
from ray.tune.error import TuneError

from plca_dist import scratch
from plca_dist.config import Config
from plca_dist.errors import RunFailed, RunPreempted, first_line
from plca_dist.messages import Message, MessageKind, TrialEvent, warnings_shown
from plca_dist.polling import polling
from plca_dist.ray_cluster.connect import connection
from plca_dist.ray_cluster.internals.core import draining_nodes, release_abandoned
from plca_dist.ray_cluster.mailbox import mailbox
from plca_dist.run.lease import Lease, naming_the_loss
from plca_dist.run.preemption import StopRequests, signals
from plca_dist.search.directory import Search, open_search
from plca_dist.search.samplers import proposals
from plca_dist.search.schedulers import scheduler
from plca_dist.search.searcher import TrialSearcher
from plca_dist.search.space import Space
from plca_dist.search.trainable import TrialTrainable
from plca_dist.search.trials import Trial
from plca_dist.training.context import LEASE_LOST

#: Bytes that a trial's own process reserves. It waits for its workers most of the time and takes no core, but Tune
#: wants something to reserve, and every node has memory.
_TRIAL_MEMORY = 64 << 20
_POLL_S = 1.0
#: After a stop request to the search, seconds within which its trials must have left with a checkpoint.
_LEAVE_S = 60.0
#: Kinds of a run's messages that the table of trials tells of already.
_ROUTINE: frozenset[MessageKind] = frozenset({"starting", "continuing", "checkpoint", "died"})


class SearchDisplay(Protocol):
    """A terminal, or whatever else a search is shown on."""

    def show(self, trials: Sequence[Trial]) -> None: ...
    def say(self, message: str) -> None: ...


def tune(space: Space, base: Config, name: str, display: SearchDisplay) -> Search:
    """Search `space` in recipe `base` as search `name`, or continue that search; returns when all trials have ended.

    Raises:
        UserError: bad input; nothing was started.
        RunFailed: no trial finished.
        RunPreempted: SIGTERM, SIGUSR2, or this machine drains; the trials that ran left with a checkpoint.
        KeyboardInterrupt: Ctrl-C; says where the search stands.
    """
    search = open_search(space, base, name)
    requests = StopRequests()
    searcher: TrialSearcher | None = None
    with warnings_shown(lambda message: display.say(message.text)), signals(requests):
        try:
            with Lease.acquire(search.store, say=display.say) as lease, naming_the_loss(lease):
                search = search.held(lease)
                search.claim()
                known = search.read()
                searcher = TrialSearcher(search, known, proposals(space, known), lambda: requests.reason is not None)
                display.show(searcher.trials)
                if searcher.open:
                    _search(search, searcher, lease, requests, display)
                else:
                    display.say(f"search {search.store.uri} is finished; nothing to do")
        except KeyboardInterrupt:
            if requests.leave_at_once:
                raise RunPreempted(f"preempted ({requests.reason}): {_standing(search, searcher)}") from None
            raise KeyboardInterrupt(_standing(search, searcher)) from None
    if searcher.open:
        if lease.lost or requests.current is None:
            why = "another launch took over" if lease.lost else "Ray Tune ended before its trials"
            raise RunFailed(f"{why}: {_standing(search, searcher)}")
        raise RunPreempted(f"preempted ({requests.reason}): {_standing(search, searcher)}")
    if not any(t.state == "finished" for t in searcher.trials):
        notes = next((t.note for t in searcher.trials if t.note), "")
        raise RunFailed(f"no trial of {search.store.uri} finished; the first one's reason: {notes}")
    return search


def _standing(search: Search, searcher: TrialSearcher | None) -> str:
    trials = searcher.trials if searcher else []
    ended = sum(t.state in ("finished", "stopped", "failed") for t in trials)
    return (
        f"{ended} of {search.space.count} trials of search {search.store.uri} have ended; the same command continues it"
    )


def _search(
    search: Search, searcher: TrialSearcher, lease: Lease, requests: StopRequests, display: SearchDisplay
) -> None:
    config = search.config(search.any_values())
    wanted, steps = config.cluster, config.schedule.steps

    def show_trials() -> None:
        display.show(searcher.trials)

    def show(trial_event: TrialEvent) -> None:
        searcher.progress(trial_event)
        if line := line_of(trial_event):
            display.say(line)

    most = wanted.most_workers * search.space.concurrency
    cluster = wanted.model_copy(update={"workers": (wanted.least_workers, most)})
    with (
        connection(cluster, display.say),
        mailbox(show, lambda: requests.current and (requests.current.kind, requests.current.reason)) as opened,
        signals(requests, training=lambda: True),
        polling("search", _POLL_S, _watch(lease, requests), release_abandoned, searcher.keep),
        polling("table", _POLL_S, show_trials),
        scratch.folder() as kept_by_tune,
    ):
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(
                ray.tune.with_parameters(TrialTrainable, mailbox=opened.actor), {"cpu": 0, "memory": _TRIAL_MEMORY}
            ),
            tune_config=ray.tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler(search.space, steps, searcher.trials),
                num_samples=-1,  # as many as the searcher has
                max_concurrent_trials=search.space.concurrency,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            # Nothing of Tune's is kept: a search continues from its trials.
            run_config=ray.tune.RunConfig(
                name="search",
                storage_path=str(kept_by_tune),
                stop=_Deadline(requests),
                checkpoint_config=ray.tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except TuneError as error:
            raise RunFailed(f"{_standing(search, searcher)}; Ray Tune: {first_line(error)}") from error
    searcher.keep()
    display.show(searcher.trials)


def line_of(trial_event: TrialEvent) -> str:
    """The line that a person is shown; "" for a record, and for a message that the table of trials makes needless."""
    trial, event = trial_event
    return f"{trial}: {event.text}" if isinstance(event, Message) and event.kind not in _ROUTINE else ""


class _Deadline(ray.tune.Stopper):
    """Ends the search where trials should leave and do not, for instance because they wait for a place."""

    def __init__(self, requests: StopRequests) -> None:
        self._requests = requests

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        request = self._requests.current
        return request is not None and time.monotonic() - request.at > _LEAVE_S


def _name(trial: Any) -> str:
    return str(trial.config["trial"])


def _watch(lease: Lease, requests: StopRequests) -> Callable[[], None]:
    """Asks trials to leave when this machine is about to go, or the lease is lost."""

    def look() -> None:
        if lease.lost:
            requests.give("lease lost", LEASE_LOST, final=True)
        if ray.get_runtime_context().get_node_id() in draining_nodes():
            requests.give("drain", "the machine of the search drains", final=True)

    return look
