"""One trial: a Tune actor that is the driver of an ordinary run, as `plca train` would be.

The run trains in a thread. Tune and its scheduler see its evaluations alone; everything else (progress, messages)
goes to the search's mailbox, as a run's own events go to the run's.
"""

import time
from dataclasses import dataclass
from queue import Queue
from threading import Thread
from typing import Any

import ray
import ray.tune
from ray.tune.result import DONE

from plca_dist.config import Config
from plca_dist.errors import RunFailed, RunPreempted, UserError, first_line
from plca_dist.messages import Message, Record, RunEvent, TrialEvent
from plca_dist.polling import start_polling
from plca_dist.ray_cluster.mailbox import listen
from plca_dist.run.lease import LeaseHeld
from plca_dist.run.preemption import StopRequests
from plca_dist.run.train import train
from plca_dist.storage import StoreAway
from plca_dist.training.metrics import CRITERIA, STEP

#: Keys of a trial's last result: why it failed, or ""; whether it left with the search; seconds in this process.
FAILED, LEFT, SECONDS = "failed", "left", "seconds"
_POLL_S = 0.25


@dataclass(frozen=True)
class _Ended:
    failed: str = ""
    left: bool = False
    error: BaseException | None = None


class TrialTrainable(ray.tune.Trainable):
    """Trains the run `config["trial"]` with the settings `config["settings"]`, from where it stands.

    A step of Tune's ends with an evaluation. The last result has `DONE`, and `FAILED` or `LEFT` where the run did not
    finish. The last evaluation is part of it, and comes once the run's weights are in its directory.
    """

    def setup(self, config: dict[str, Any], mailbox: Any) -> None:
        self._mailbox, self._search_stops = mailbox, listen(mailbox)
        self._begin(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Take the next trial in this process, which saves the time to start one and to import."""
        self.cleanup()
        self._begin(config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._name = config["trial"]
        self._config = Config.model_validate(config["settings"])
        self._events: Queue[Record | _Ended] = Queue()
        self._requests = StopRequests()
        self._began = time.monotonic()
        self._last: Record = {}
        self._thread = Thread(target=self._train, name="plca-trial", daemon=True)
        self._thread.start()
        thread, requests = self._thread, self._requests

        def leave_with_the_search() -> None:
            if request := self._search_stops():
                kind, reason = request
                requests.give(kind, reason, final=True)

        start_polling("trial", _POLL_S, leave_with_the_search, until=lambda: not thread.is_alive())

    def step(self) -> dict[str, Any]:
        while True:
            event = self._events.get()
            if isinstance(event, _Ended):
                if event.error:
                    raise event.error
                ended = {DONE: True, FAILED: event.failed, LEFT: event.left}
                return self._last | ended | {SECONDS: time.monotonic() - self._began}
            self._last = event
            # The last evaluation is reported with the end: if Tune stopped the run now, it would not leave its weights.
            if event[STEP] < self._config.schedule.steps:
                return event

    def leave(self) -> None:
        """End the trial: the run leaves at its next step with a checkpoint, and frees its places."""
        self._requests.give("search", "stopped by the search", final=True)

    def cleanup(self) -> None:
        """Before the process ends, or takes another trial."""
        self.leave()
        self._thread.join()

    def _show(self, event: RunEvent) -> None:
        self._mailbox.put.remote(TrialEvent(self._name, event))
        if isinstance(event, Message):
            return
        if evaluation := {name: event[c.key] for name, c in CRITERIA.items() if c.key in event}:
            self._events.put({STEP: event[STEP], **evaluation})

    def _train(self) -> None:
        try:
            train(self._config, self._name, self._show, self._requests)
            self._events.put(_Ended())
        except RunPreempted as left:
            # If the search stops, the trial leaves with it. Else this node goes: an error ends the process, so that it
            # takes no other trial here, and Tune starts one elsewhere.
            self._events.put(_Ended(left=True) if self._search_stops() else self._error(left))
        except (StoreAway, LeaseHeld) as error:  # may be over by the next try
            self._events.put(self._error(error))
        except (UserError, RunFailed) as error:
            self._events.put(_Ended(failed=str(error)))
        except BaseException as error:
            self._events.put(self._error(error))

    def _error(self, error: BaseException) -> _Ended:
        self._mailbox.put.remote(TrialEvent(self._name, Message("died", first_line(error, with_type=True))))
        return _Ended(error=error)
