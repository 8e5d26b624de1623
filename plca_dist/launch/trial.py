"""One trial: a Tune actor that is the driver of an ordinary run, as `plca train` would be.

The run trains in a thread. Its evaluations are what Tune and its scheduler see; everything else (progress, messages)
goes to the board of the search, as a run's own records go to its board.
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
from plca_dist.errors import UserError
from plca_dist.launch.board import listen
from plca_dist.launch.failure import RunFailed, RunPreempted
from plca_dist.launch.preemption import Notices
from plca_dist.launch.run import open_run
from plca_dist.launch.search import curve_of
from plca_dist.launch.train import train
from plca_dist.training.commits import committed
from plca_dist.training.metrics import CRITERIA, STEP
from plca_dist.training.session import Record

#: In a trial's last result: "" where the run finished, else why it did not.
FAILED, LEFT, SECONDS = "failed", "left", "seconds"


@dataclass(frozen=True)
class _Ended:
    failed: str = ""
    left: bool = False
    error: BaseException | None = None


class Trial(ray.tune.Trainable):
    """Trains the run `config["trial"]` with the settings `config["settings"]`, from where it stands.

    A step ends with an evaluation. The last result has `DONE`, and `FAILED` or `LEFT` where the run did not finish;
    what the last evaluation measured comes with it, once the run's weights are in its directory.
    """

    def setup(self, config: dict[str, Any], board: Any) -> None:
        self._board, self._told = board, listen(board)
        self._begin(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """The next trial in the same process, which saves its start and imports."""
        self.cleanup()
        self._begin(config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._name = config["trial"]
        self._config = Config.model_validate(config["settings"])
        self._events: Queue[Record | _Ended] = Queue()
        self._notices = Notices()
        self._began = time.monotonic()
        self._last: Record = {}
        self._thread = Thread(target=self._train, name="plca-trial", daemon=True)
        self._thread.start()
        Thread(target=self._leave_when_told, name="plca-trial-leave", daemon=True).start()

    def step(self) -> dict[str, Any]:
        while True:
            event = self._events.get()
            if isinstance(event, _Ended):
                if event.error:
                    raise event.error
                ended = {DONE: True, FAILED: event.failed, LEFT: event.left}
                return self._last | ended | {SECONDS: time.monotonic() - self._began}
            self._last = event
            # The last one is reported with the end: stopped now, the run would not leave its weights.
            if event[STEP] < self._config.schedule.steps:
                return event

    def cleanup(self) -> None:
        """Tune has done with the trial: the run leaves at its next step, with a checkpoint, and frees its places."""
        self._notices.give("stopped by the search", final=True)
        self._thread.join()

    def _leave_when_told(self) -> None:
        thread, notices = self._thread, self._notices
        while thread.is_alive():
            if reason := self._told():
                notices.give(reason, final=True)
                return
            time.sleep(0.25)

    def _show(self, record: Record) -> None:
        self._board.put.remote(record | {"trial": self._name})
        if evaluation := {name: record[c.key] for name, c in CRITERIA.items() if c.key in record}:
            self._events.put({STEP: record[STEP], **evaluation})

    def _train(self) -> None:
        try:
            self._replay()
            train(self._config, self._name, self._show, self._notices)
            self._events.put(_Ended())
        except RunPreempted:
            self._events.put(_Ended(left=True))
        except (UserError, RunFailed) as error:
            self._events.put(_Ended(failed=str(error)))
        except BaseException as error:
            self._events.put(_Ended(error=error))

    def _replay(self) -> None:
        """What was measured before this launch, for a scheduler that compares curves."""
        run = open_run(self._config, self._name)
        newest = next(iter(committed(run.store)), None)
        for record in curve_of(run.store, upto=newest.step if newest else 0):
            self._show(record)
