"""What the attempts at a run wrote, each in a directory of its own.

An attempt that was taken for dead may wake up and write once more. It then changes files of its own only, and these no
longer count: what counts is in the directory of the newest attempt, and in files that are created once.
"""

from typing import Any

from plca_dist.config import Config
from plca_dist.data.labels import LabelSet
from plca_dist.parsing import read_json, read_text
from plca_dist.recipe import parse
from plca_dist.run_files import ATTEMPTS, EVALUATION, RECIPE
from plca_dist.storage import Store
from plca_dist.training.metrics import STEP


def newest(run: Store, file: str) -> str | None:
    """The name of `file` in the directory of the newest attempt that has one."""
    of_attempts = (entry.name for entry in run.list(ATTEMPTS) if entry.name.split("/")[2:] == [file])
    return max(of_attempts, default=None)


def current(run: Store, file: str) -> str | None:
    """The name of `file` as it counts: that of the result where the run has its result, else that of `newest`."""
    return file if run.exists(file) else newest(run, file)


def recipe_of(run: Store) -> Config:
    """The recipe that the run was last launched with. Launches of a run differ in keys that change no result."""
    name = newest(run, RECIPE) or RECIPE
    return parse(read_text(run, name), where=f"{run.uri}/{name}")


def evaluation_of(run: Store, labels: LabelSet) -> dict[str, Any] | None:
    """The newest evaluation of a run with this label set, or None where there is none yet.

    Raises UserError for a file that holds something else than a step and scores as of `training.scores.Score`.
    """
    name = current(run, EVALUATION)
    fix = "put a sound copy there, or take it away to do without it"
    return read_json(run, name, lambda kept: _evaluation(kept, labels), fix) if name else None


def _evaluation(kept: Any, labels: LabelSet) -> dict[str, Any]:
    """Raises one of many exceptions for what is no evaluation."""
    values = [kept[STEP], *(kept[count] for count in ("images", "unlabelled") if kept.get(count) is not None)]
    for score in kept.get("scores", ()):
        if kept.get("labels", labels.name) != labels.name or score["iou"].keys() != set(labels.classes):
            raise ValueError(f"its scores are not of label set {labels.name}")
        known = [score["miou"], *(score["means"][name] for name in labels.averages), *score["iou"].values()]
        values += [score["aggregation"], *(value for value in known if value is not None)]
        values += [0 for name in score.get("absent", ()) if name in labels.classes]
    if not all(isinstance(value, int | float) for value in values):
        raise ValueError("it holds no scores of a step")
    return dict(kept)
