"""Reads what a run has written so far, whether it is finished or not."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plca_dist.config import Config
from plca_dist.data.labels import LabelSet, label_set
from plca_dist.errors import UserError
from plca_dist.messages import Record
from plca_dist.run.history import Attempt, read_history
from plca_dist.run_files import CHECKPOINTS, EVALUATION, METRICS, PAGE, RECIPE, SPACE
from plca_dist.storage import Location, Store, probe
from plca_dist.training.attempts import current, recipe_of
from plca_dist.training.checkpoint.commit import committed
from plca_dist.training.metrics import STEP
from plca_dist.training.metrics_log import decode_records
from plca_dist.training.result import has_result


@dataclass(frozen=True)
class RunRecord:
    """What a run has written so far.

    Attributes:
        title: distinct from those of the other runs of the report.
        config: its resolved recipe.
        records: its `metrics.jsonl`.
        evaluation: its `evaluation.json`, {} where it has none.
        history: its attempts.
        weights: the run if it is finished, else its newest checkpoint; None where it has neither.
    """

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
        """A line for each thing that the run does not have yet."""
        reached, steps = max((r[STEP] for r in self.records), default=0), self.config.schedule.steps
        if not self.finished:
            checkpoint = f"; pictures are of {self.weights.uri.rpartition('/')[2]}" if self.weights else ""
            yield f"{self.title} is not finished: its records go to step {reached} of {steps}{checkpoint}."
        if not self.records:
            yield f"{self.title} has no records yet, hence no curves."
        if "scores" not in self.evaluation:
            unlabelled = self.config.evaluation.uri is None
            yield f"{self.title} has no mIoU" + (": its recipe has no evaluation.uri." if unlabelled else " yet.")
        elif note := self.evaluation.get("note"):
            yield f"{self.title} has no mIoU: {note}."


def read_runs(places: Sequence[Location], titles: Sequence[str] = ()) -> list[RunRecord]:
    """The runs at `places` under `titles`; without titles, under `names` of their URIs.

    Raises UserError for a place without a run, a place given twice, and a damaged file.
    """
    stores = [probe(place.with_uri(place.uri.rstrip("/") or "/")) for place in places]
    uris = [store.uri for store in stores]
    for uri in uris:
        if uris.count(uri) > 1:
            raise UserError(f"{uri} is given twice; a run has one column.")
    named = zip(places, stores, titles or names(uris), strict=True)
    return [_read(store, place.with_uri(store.uri), title) for place, store, title in named]


def names(uris: Sequence[str]) -> list[str]:
    """The last parts of each URI, as few as make the names distinct. The URIs must be distinct."""
    parts = [uri.rstrip("/").split("/") for uri in uris]
    for depth in range(1, max(map(len, parts))):
        ends = ["/".join(p[-depth:]) for p in parts]
        if len(set(ends)) == len(uris):
            return ends
    return list(uris)


def _read(run: Store, place: Location, title: str) -> RunRecord:
    if run.exists(SPACE):
        raise UserError(f"{run.uri} is a search; its page is {run.uri}/{PAGE}, and its runs are in {run.uri}/trials.")
    if not run.exists(RECIPE):
        raise UserError(f"{run.uri} is no run: it holds no {RECIPE}; give a run's directory.")
    config = recipe_of(run)
    weights: Location | None = place
    if not has_result(run):
        newest = next(iter(committed(run)), None)
        weights = place.with_uri(f"{run.uri}/{CHECKPOINTS}/{newest.name}") if newest else None
    return RunRecord(
        title,
        run,
        config,
        _read_file(run, METRICS, [], _records),
        _read_file(run, EVALUATION, {}, lambda data: _evaluation(data, label_set(config.labels))),
        read_history(run),
        weights,
    )


def _read_file(run: Store, name: str, absent: Any, read: Callable[[bytes], Any]) -> Any:
    """What `read` makes of the file that counts, or `absent` without one. Raises UserError for a damaged file."""
    file = current(run, name)
    if file is None:
        return absent
    try:
        return read(run.read(file))
    except ValueError as error:
        raise UserError(f"{run.uri}/{file} is damaged: {error}; take it away to have the rest reported.") from error


def _records(data: bytes) -> list[Record]:
    """Raises ValueError for a line that is no record. A record is a mapping of names to numbers, with the step."""
    records = decode_records(data)
    for line, record in enumerate(records, 1):
        if not (isinstance(record, dict) and STEP in record and _numbers(record.values())):
            raise ValueError(f"line {line} is no record of a step")
    return records


def _evaluation(data: bytes, labels: LabelSet) -> dict[str, Any]:
    """Raises ValueError for something else than a step and scores as of `training.scores.Score`, each with its λ."""
    evaluation = json.loads(data)
    try:
        values = [evaluation[STEP]]
        for score in evaluation.get("scores", ()):
            known = [score["miou"], *(score["means"][name] for name in labels.means), *score["iou"].values()]
            values += [score["aggregation"], *(value for value in known if value is not None)]
    except (AttributeError, IndexError, KeyError, TypeError):
        values = [None]
    if not _numbers(values):
        raise ValueError("it holds no scores of a step")
    return evaluation


def _numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)
