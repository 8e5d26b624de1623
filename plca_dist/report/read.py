"""A run as a report takes it: finished or not, what it has left so far, and a title that no other has."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plca_dist.config import Config
from plca_dist.data.labels import LabelSet, label_set
from plca_dist.errors import UserError
from plca_dist.messages import Record
from plca_dist.recipe import parse
from plca_dist.run.history import Attempt, read_history
from plca_dist.run_files import CHECKPOINTS, EVALUATION, METRICS, PAGE, RECIPE, SPACE, WEIGHTS
from plca_dist.storage import Location, Store, probe
from plca_dist.training.checkpoint.commit import committed
from plca_dist.training.metrics import STEP
from plca_dist.training.metrics_log import read_records


@dataclass(frozen=True)
class RunRecord:
    """A run as far as it has come. `weights`: the result's, or else the newest checkpoint's; None: there are none."""

    title: str
    store: Store
    config: Config
    records: Sequence[Record]
    evaluation: Mapping[str, Any]
    history: Sequence[Attempt]
    weights: Location | None

    @property
    def finished(self) -> bool:
        return self.weights is not None and self.weights.uri == self.store.uri

    @property
    def missing(self) -> Iterator[str]:
        """What the run has not got yet."""
        reached, steps = max((r[STEP] for r in self.records), default=0), self.config.schedule.steps
        if not self.finished:
            shown = f"; pictures are of {self.weights.uri.rpartition('/')[2]}" if self.weights else ""
            yield f"{self.title} is not finished: its records go to step {reached} of {steps}{shown}."
        if not self.records:
            yield f"{self.title} has no records yet, hence no curves."
        if "scores" not in self.evaluation:
            none = self.config.evaluation.uri is None
            yield f"{self.title} has no mIoU" + (": its recipe has no evaluation.uri." if none else " yet.")


def read_runs(places: Sequence[Location], titles: Sequence[str] = ()) -> list[RunRecord]:
    """The runs at `places`, as far as they have come. `titles` not given: their names, as long as it takes to differ.

    Raises UserError for a place without a run, one given twice, and a file that is damaged.
    """
    stores = [probe(place.with_uri(place.uri.rstrip("/") or "/")) for place in places]
    uris = [store.uri for store in stores]
    for uri in uris:
        if uris.count(uri) > 1:
            raise UserError(f"{uri} is given twice; a run has one column.")
    named = zip(places, stores, titles or names(uris), strict=True)
    return [_read(store, place.with_uri(store.uri), title) for place, store, title in named]


def names(uris: Sequence[str]) -> list[str]:
    """The last parts of different URIs: as many as it takes to tell them apart."""
    parts = [uri.rstrip("/").split("/") for uri in uris]
    for depth in range(1, max(map(len, parts))):
        found = ["/".join(p[-depth:]) for p in parts]
        if len(set(found)) == len(uris):
            return found
    return list(uris)


def _read(run: Store, place: Location, title: str) -> RunRecord:
    if run.exists(SPACE):
        raise UserError(f"{run.uri} is a search; its page is {run.uri}/{PAGE}, and its runs are in {run.uri}/trials.")
    if not run.exists(RECIPE):
        raise UserError(f"{run.uri} is no run: it holds no {RECIPE}; give a run's directory.")
    config = parse(run.read(RECIPE).decode(), where=f"{run.uri}/{RECIPE}")
    weights: Location | None = place
    if not run.exists(WEIGHTS):
        newest = next(iter(committed(run)), None)
        weights = place.with_uri(f"{run.uri}/{CHECKPOINTS}/{newest.name}") if newest else None
    return RunRecord(
        title,
        run,
        config,
        _whole(run, METRICS, [], lambda: _records(run)),
        _whole(run, EVALUATION, {}, lambda: _evaluation(run, label_set(config.labels))),
        read_history(run),
        weights,
    )


def _whole(run: Store, file: str, absent: Any, read: Callable[[], Any]) -> Any:
    """What `read` makes of a file, or `absent` where it is not there yet."""
    if not run.exists(file):
        return absent
    try:
        return read()
    except ValueError as error:
        raise UserError(f"{run.uri}/{file} is damaged: {error}; take it away to have the rest reported.") from error


def _records(run: Store) -> list[Record]:
    """Raises ValueError for a line that is no record: numbers by name, the step among them."""
    records = read_records(run)
    for line, record in enumerate(records, 1):
        if not (isinstance(record, dict) and STEP in record and _numbers(record.values())):
            raise ValueError(f"line {line} is no record of a step")
    return records


def _evaluation(run: Store, labels: LabelSet) -> dict[str, Any]:
    """Raises ValueError where it is none: a step, and scores as of `training.metrics.Score`, with their λ."""
    found = json.loads(run.read(EVALUATION))
    try:
        values = [found[STEP]]
        for score in found.get("scores", ()):
            values += [score["aggregation"], score["miou"], *(score["means"][name] for name in labels.means)]
            values += [iou for iou in score["iou"].values() if iou is not None]
    except (AttributeError, IndexError, KeyError, TypeError):
        values = [None]
    if not _numbers(values):
        raise ValueError("it holds no scores of a step")
    return found


def _numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)
