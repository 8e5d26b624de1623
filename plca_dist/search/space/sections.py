"""The sections of a space file."""

from pydantic import Field

from plca_dist.config import Section


class AboutSpace(Section):
    summary: str = Field("", description="One line: what is searched, for whom.")
    cost: str = Field("", description="How much of it, in trainings of the recipe.")


class Asha(Section):
    """Asynchronous successive halving: at grace, grace·reduction, … only the best 1/reduction of the trials go on."""

    grace: float = Field(0.25, gt=0, lt=1, description="Share of the steps before which no trial is stopped.")
    reduction: int = Field(2, ge=2, description="One in so many goes on.")


class Median(Section):
    """Median stopping: stops a trial that is worse than the median of the other trials' means up to the same step."""

    grace: float = Field(0.25, gt=0, lt=1, description="Share of the steps before which no trial is stopped.")
    min_trials: int = Field(3, ge=1, description="Trials that must have come as far before one is stopped.")


class Scheduler(Section):
    """The rule that may stop a trial early. Without one, every trial runs to its end."""

    asha: Asha | None = Field(None, description="Asynchronous successive halving.")
    median: Median | None = Field(None, description="Median stopping.")


class Resources(Section):
    """The resources of one trial. The recipe's hold for those that are left out."""

    workers: int | None = Field(None, gt=0, description="Training processes.")
    cpus_per_worker: int | None = Field(None, gt=0, description="CPU cores of each.")
    gpu: bool | None = Field(None, description="One GPU for each.")
