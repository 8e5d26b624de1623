"""Work on trained weights that falls into independent parts: in this process, or shared out over a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from plca_dist.config import ClusterSettings, EvaluationSettings
from plca_dist.errors import RunFailed, UserError, first_line
from plca_dist.inference.load import TrainedNetwork, load_trained
from plca_dist.storage import absolute, endpoint_or_default

#: Parts a worker gets in turn: small enough that a slow one does not keep the others waiting long.
_PARTS_PER_WORKER = 4
#: And small enough that progress is seen.
_PART_IMAGES = 25


@dataclass(frozen=True)
class InferenceJob:
    """What every part knows; it travels to the workers instead of weights.

    Attributes:
        place: of the weights, as `load_trained` takes it.
        size: height and width of the network's input; None: images as they are.
        aggregation: ratio λ.
        endpoint: of an S3-compatible store.
        threads: of torch in each process; None: torch's own choice, which heeds OMP_NUM_THREADS.
    """

    place: str
    size: tuple[int, int] | None
    aggregation: float
    endpoint: str | None
    threads: int | None


def job_from(
    place: str,
    aggregation: float | None = None,
    size: Sequence[int] | None = None,
    endpoint: str | None = None,
    workers: int = 1,
    gpu: bool = False,
    trained: TrainedNetwork | None = None,
) -> tuple[InferenceJob, ClusterSettings]:
    """A job on the weights at `place`, with its run's recipe for whatever is not given, and the workers for it.

    trained: what is at `place`, where the caller has it already.
    """
    trained = trained or load_trained(place, endpoint)
    settings = trained.config.evaluation if trained.config else EvaluationSettings()
    wanted = ClusterSettings(workers=workers, gpu=gpu)
    job = InferenceJob(
        place=absolute(place),
        size=(size[0], size[1]) if size else settings.size,
        aggregation=settings.aggregation if aggregation is None else aggregation,
        endpoint=endpoint_or_default(endpoint),
        threads=None if _here(wanted) else wanted.cpus_per_worker,
    )
    if _here(wanted):  # the parts need not load them again
        _loaded.clear()
        _loaded[job.place, "cpu"] = trained
    return job, wanted


def _here(workers: ClusterSettings) -> bool:
    return workers.most_workers == 1 and not workers.gpu


def share_out(
    work: Callable[..., Any], arguments: Sequence[Any], images: int, workers: ClusterSettings
) -> Iterator[Any]:
    """Cut `images` into parts, and yield `work(*arguments, part, parts, device)` of each as it comes, in any order.

    One worker without a GPU is this process; more run as tasks of a Ray cluster.

    Raises:
        UserError: as `work` does.
        RunFailed: a worker was lost, or `work` broke.
    """
    parts = min(images, max(workers.most_workers * _PARTS_PER_WORKER, -(-images // _PART_IMAGES)))
    if _here(workers):
        for part in range(parts):
            yield work(*arguments, part, parts, "cpu")
        return
    import ray

    from plca_dist.ray_cluster.connect import WORKER_ENVIRONMENT, connection
    from plca_dist.ray_cluster.internals.core import logs_directory, task_error

    with connection(workers, lambda message: None):
        task = ray.remote(
            num_cpus=workers.cpus_per_worker,
            num_gpus=int(workers.gpu),
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        )(work)
        waiting = [task.remote(*arguments, p, parts, "cuda" if workers.gpu else "cpu") for p in range(parts)]
        try:
            while waiting:
                ready, waiting = ray.wait(waiting)
                yield from ray.get(ready)
        except ray.exceptions.RayError as error:
            cause = task_error(error)
            if isinstance(cause, UserError):
                raise cause from None
            raise RunFailed(f"{first_line(cause, with_type=True)}; logs: {logs_directory()}") from error


#: The last network a process loaded: parts of one job follow each other in the same worker process.
_loaded: dict[tuple[str, str], TrainedNetwork] = {}


def loaded(job: InferenceJob, device: str) -> TrainedNetwork:
    """The job's network on `device`, loaded once a process."""
    key = (job.place, device)
    if key not in _loaded:
        _loaded.clear()
        if job.threads:
            torch.set_num_threads(job.threads)
        _loaded[key] = load_trained(job.place, job.endpoint)
        _loaded[key].network.to(device)
    return _loaded[key]
