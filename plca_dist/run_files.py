"""Names of the files and folders in the directory of a run and of a search.

<storage>/<run>/recipe.yaml, data.json                    what is trained, and on which shards
                lease/, history.json                      who writes, and every attempt so far
                metrics.jsonl, tensorboard/               what training measures
                checkpoints/step-…/commit.json            states to continue from
                evaluation.json, model.safetensors        the result
                evaluations/, report/                     what `plca evaluate` and `plca report` add

<storage>/<search>/space.yaml, base.yaml                  what is searched, and in which recipe
                   trials/trial-…/, trial.json            a run for each trial, and its state
                   best.yaml, trials.csv, index.html      the result
"""

RECIPE = "recipe.yaml"
DATA = "data.json"
LEASES = "lease"
HISTORY = "history.json"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
COMMIT = "commit.json"
EVALUATION = "evaluation.json"
EVALUATIONS = "evaluations"
WEIGHTS = "model.safetensors"
REPORT = "report"
PAGE = "index.html"
#: Ray Train keeps its own files here while workers train.
RAY_STATE = ".ray"

SPACE = "space.yaml"
BASE = "base.yaml"
TRIALS = "trials"
TRIAL = "trial.json"
BEST = "best.yaml"
TABLE = "trials.csv"


def stacks(rank: int) -> str:
    """The stacks of all threads of a rank whose step did not end."""
    return f"stacks-rank-{rank}.txt"
