"""What a run has to do after a step, besides the step: record, evaluate, save."""

from typing import NamedTuple

from plca_dist.config import Config


class Due(NamedTuple):
    """What is due after a step."""

    record: bool
    evaluation: bool
    checkpoint: bool


def due_after(config: Config, step: int, *, leaving: bool = False) -> Due:
    """What is due after `step` steps. After the last step all is; a run that is leaving saves and does not evaluate."""
    last = step == config.schedule.steps

    def due(every: int) -> bool:
        return last or (every > 0 and step % every == 0)

    evaluates = config.evaluation.uri is not None or config.evaluation.unlabelled > 0
    return Due(
        record=due(config.log.every),
        evaluation=evaluates and due(config.evaluation.every) and not leaving,
        checkpoint=due(config.checkpoint.every) or leaving,
    )
