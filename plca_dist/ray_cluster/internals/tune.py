"""Ray Tune: its trials as objects, and no credentials in their descriptions."""

from typing import Any

from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

# Tune copies variables of the driver into the description of a trial's process, which Ray logs and passes on in command
# lines. Credentials are among them; the processes of a cluster have their own.
class_cache.ENV_VARS_TO_PROPAGATE = frozenset(
    name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith(("RAY_", "TUNE_", "TRAIN_"))
)


def stand_in() -> Trial:
    """A trial that Tune never runs, for a scheduler to keep its notes by."""
    return Trial("plca", stub=True)


def actor_of(trial: Trial) -> Any | None:
    """The process that runs the trial now; None where none does."""
    return trial.temporary_state.ray_actor
