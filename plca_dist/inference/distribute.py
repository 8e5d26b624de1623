"""Work on trained weights in independent parts: done in this process, or distributed over a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from plca_dist.config import ClusterSettings, EvaluationSettings
from plca_dist.errors import RunFailed, UserError, first_line
from plca_dist.storage import Location
from plca_dist.training.precision import set_products
from plca_dist.training.trained import TrainedNetwork, load_trained

#: Parts for each worker, one after the other: small enough that a slow part does not keep the others waiting long.
_PARTS_PER_WORKER = 4
#: The most images of a part: few enough that progress is seen.
_PART_IMAGES = 25


@dataclass(frozen=True)
class InferenceJob:
    """What every part needs. It travels to the workers, which load the weights themselves.

    Attributes:
        weights: where `load_trained` finds them, from any process.
        size: height and width of the network's input; None: images as they are.
        aggregation: ratio λ.
        threads: of torch in each process; None: torch's own choice, which heeds OMP_NUM_THREADS.
    """

    weights: Location
    size: tuple[int, int] | None
    aggregation: float
    threads: int | None


def job_from(
    weights: Location,
    aggregation: float | None = None,
    size: Sequence[int] | None = None,
    workers: int = 1,
    gpu: bool = False,
    trained: TrainedNetwork | None = None,
) -> tuple[InferenceJob, ClusterSettings]:
    """A job on these weights and the workers for it; settings that are not given come from the run's recipe.

    trained: the weights, where the caller has loaded them already.
    """
    trained = trained or load_trained(weights)
    settings = trained.config.evaluation if trained.config else EvaluationSettings()
    wanted = ClusterSettings(workers=workers, gpu=gpu)
    job = InferenceJob(
        weights=weights.absolute(),
        size=(size[0], size[1]) if size else settings.size,
        aggregation=settings.aggregation if aggregation is None else aggregation,
        threads=None if _in_this_process(wanted) else wanted.cpus_per_worker,
    )
    if _in_this_process(wanted):  # the parts need not load them again
        _loaded.clear()
        _loaded[job.weights, "cpu"] = trained
    return job, wanted


def _in_this_process(workers: ClusterSettings) -> bool:
    return workers.most_workers == 1 and not workers.gpu


def distribute(
    work: Callable[..., Any], arguments: Sequence[Any], images: int, workers: ClusterSettings
) -> Iterator[Any]:
    """Cut `images` into parts, and yield `work(*arguments, part, parts, device)` of each as it comes, in any order.

    One worker without a GPU is this process; more run as tasks of a Ray cluster.

    Raises:
        UserError: as `work` does.
        RunFailed: a worker was lost, or `work` broke.
    """
    parts = min(images, max(workers.most_workers * _PARTS_PER_WORKER, -(-images // _PART_IMAGES)))
    if _in_this_process(workers):
        for part in range(parts):
            yield work(*arguments, part, parts, "cpu")
        return
    import ray  # here: one process needs no cluster, and should not wait for this import

    from plca_dist.ray_cluster.connect import connection, worker_environment
    from plca_dist.ray_cluster.internals.core import logs_directory, task_error

    with connection(workers, lambda message: None):
        task = ray.remote(
            num_cpus=workers.cpus_per_worker,
            num_gpus=int(workers.gpu),
            runtime_env={"env_vars": worker_environment(workers.gpu)},
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


#: The last network that this process loaded: parts of one job follow each other in the same worker process.
_loaded: dict[tuple[Location, str], TrainedNetwork] = {}


def loaded(job: InferenceJob, device: str) -> TrainedNetwork:
    """The job's network on `device`. Each process loads it once."""
    key = (job.weights, device)
    if key not in _loaded:
        _loaded.clear()
        if job.threads:
            torch.set_num_threads(job.threads)
        trained = _loaded[key] = load_trained(job.weights)
        set_products(trained.config.precision if trained.config else "float32")
        trained.network.to(device)
    return _loaded[key]
