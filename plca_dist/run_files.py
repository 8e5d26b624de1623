"""Names of the files and folders in the directory of a run and of a search.

<storage>/<run>/recipe.yaml, data.json                    what is trained, and on which shards
                lease/                                    who writes
                attempts/00000003/                        what one attempt writes while it trains:
                    recipe.yaml, history.json             its settings; every attempt so far
                    metrics.jsonl, evaluation.json        all records so far; the newest evaluation
                    stacks-rank-0.txt                     of a rank whose step did not end
                tensorboard/                              the records, a file for each attempt
                checkpoints/step-…/commit.json            states to continue from
                metrics.jsonl, evaluation.json,
                model.safetensors                         the result, created once, at the end; of a run with an
                teacher.safetensors                       averaged teacher its weights too
                evaluations/, report/                     what `plca evaluate` and `plca report` add

<storage>/<search>/space.yaml, base.yaml                  what is searched, and in which recipe
                   trials/trial-…/trial-….json            a run for each trial, and its state by each launch
                   best.yaml, trials.csv, index.html      the result
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

RECIPE = "recipe.yaml"
DATA = "data.json"
LEASES = "lease"
ATTEMPTS = "attempts"
HISTORY = "history.json"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
COMMIT = "commit.json"
EVALUATION = "evaluation.json"
EVALUATIONS = "evaluations"
WEIGHTS = "model.safetensors"
TEACHER_WEIGHTS = "teacher.safetensors"
REPORT = "report"
PAGE = "index.html"
#: Ray Train keeps its own files here, in the attempt's directory, while workers train.
RAY_STATE = ".ray"

SPACE = "space.yaml"
BASE = "base.yaml"
TRIALS = "trials"
BEST = "best.yaml"
TABLE = "trials.csv"


def attempt(generation: int) -> str:
    """The directory of the attempt that holds this generation of the lease. No other attempt writes there."""
    return f"{ATTEMPTS}/{generation:08d}"


def trial_state(generation: int) -> str:
    """The state of a trial, as the launch of its search with this generation of the lease knows it."""
    return f"trial-{generation:08d}.json"


def launch_of_state(file: str) -> int | None:
    """The generation in the name of such a file, else None. Searches of earlier versions have `trial.json`: 0."""
    if file == "trial.json":
        return 0
    match = re.fullmatch(r"trial-(\d{8})\.json", file)
    return int(match[1]) if match else None


def stacks(rank: int) -> str:
    """The stacks of all threads of a rank whose step did not end."""
    return f"stacks-rank-{rank}.txt"


def json_bytes(value: Any) -> bytes:
    """The value as JSON, which has no number that is not finite: null takes its place."""
    return json.dumps(_finite(value), indent=1, allow_nan=False).encode()


def json_lines(values: Iterable[Any]) -> bytes:
    """The values as JSON as `json_bytes` writes it, one a line."""
    return "".join(json.dumps(_finite(value), allow_nan=False) + "\n" for value in values).encode()


def numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it was before it was written: null is what JSON has for a number that is not finite."""
    return {key: math.nan if value is None else value for key, value in record.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
