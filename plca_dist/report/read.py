"""Reads what a run has written so far, whether it is finished or not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.messages import Record
from plca_dist.run.history import Attempt, read_history
from plca_dist.run_files import CHECKPOINTS, PAGE, RECIPE, SPACE
from plca_dist.storage import Location, Store, probe
from plca_dist.training.attempts import evaluation_of, recipe_of
from plca_dist.training.checkpoint.survey import committed
from plca_dist.training.metrics import STEP
from plca_dist.training.metrics_log import read_records
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
        read_records(run),
        evaluation_of(run, config.label_set) or {},
        read_history(run),
        weights,
    )
