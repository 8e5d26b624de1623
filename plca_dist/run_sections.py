"""The sections of a recipe that say how it is run: where, on what, and what is kept. None changes the result."""

from typing import Any

from pydantic import Field, field_validator

from plca_dist.sections import Count, Section, Size

#: The most seconds of anything.
_YEAR_S = 31_536_000


class ClusterSettings(Section):
    """The resources that a run asks Ray for."""

    workers: int | Size = Field(
        1,
        description="Training processes; [min, max]: as many of them as the cluster can hold, while it changes.",
    )
    gpu: bool = Field(False, description="One GPU for each worker.")
    cpus_per_worker: Count = Field(1, gt=0, description="CPU cores reserved for each worker, and its torch threads.")
    loader_threads: Count = Field(2, gt=0, description="Threads of each worker that fetch, decode and augment.")
    prefetch: Count = Field(4, gt=0, description="Micro-batches prepared ahead of need.")
    step_timeout_s: float = Field(
        600.0,
        gt=0,
        le=_YEAR_S,
        description="A longer step ends with stacks; the first, evaluations and saves after 10 times that.",
    )
    max_failures: Count = Field(3, ge=0, description="Restarts after an error; lost workers and nodes do not count.")

    @field_validator("workers", mode="before")
    @classmethod
    def _workers(cls, value: Any) -> Any:
        ends = value if isinstance(value, list | tuple) else [value]
        if not (
            1 <= len(ends) <= 2 and all(type(n) is int and 0 < n <= 2**16 for n in ends) and list(ends) == sorted(ends)
        ):
            raise ValueError("must be a number of at least 1, or a range [min, max] of such, up to 65536")
        return value

    @property
    def least_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class CheckpointSettings(Section):
    """When to save, and how much to keep."""

    every: Count = Field(500, gt=0, description="Steps between checkpoints; one is always written at the end.")
    keep: Count = Field(2, gt=0, description="Newest checkpoints kept; the best by mIoU is kept beside them.")
    max_failed_saves: Count = Field(2, ge=0, description="Saves in a row that may fail before the run stops.")


class StorageSettings(Section):
    """Where runs are kept."""

    uri: str = Field("runs", description="Runs live in <uri>/<name>: s3://, gs:// or az://bucket/prefix, or a path.")
    endpoint: str | None = Field(None, description="URL of an S3-compatible server; null: AWS_ENDPOINT_URL or AWS.")


class LogSettings(Section):
    """What is recorded."""

    every: Count = Field(10, gt=0, description="Steps between log records.")
