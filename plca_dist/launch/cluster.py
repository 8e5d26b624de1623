"""Reaching a Ray cluster, or starting one on this machine, without its chatter."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Read by ray when it is imported, hence before the import below.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about its own future default

import ray

from plca_dist.config import Cluster
from plca_dist.errors import UserError

#: For every worker process: DeepSpeed compiles an optimizer nobody uses when it is imported, unless dynamo is off.
WORKER_ENVIRONMENT = {"TORCHDYNAMO_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}

#: Enough for records and pickled settings: samples never travel through Ray's object store.
_OBJECT_STORE_BYTES = 128 << 20


@contextmanager
def connection(wanted: Cluster, say: Callable[[str], None]) -> Iterator[None]:
    """Be connected to Ray inside the block: to the session that exists, to RAY_ADDRESS, or to one started here.

    A cluster started here ends with the block. Raises UserError where this machine cannot hold the workers.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError as error:
            raise UserError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}).") from error
        _announce(wanted, say)
    else:
        gpus = _local_gpus() if wanted.gpu else 0
        if wanted.gpu and gpus < wanted.workers:
            raise UserError(
                f"cluster.gpu is true and cluster.workers is {wanted.workers}, but this machine has {gpus} GPUs; "
                "set RAY_ADDRESS to a cluster that has them, or --set cluster.gpu=false."
            )
        # A local cluster is one user on one machine; a token file left by another ray would confuse it.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, wanted.workers * wanted.cpus_per_worker),
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()


def logs() -> str:
    """The directory of the session's log files on this machine; it outlives the session."""
    return str(ray._private.worker.global_worker.node.get_logs_dir_path())


def _local_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _announce(wanted: Cluster, say: Callable[[str], None]) -> None:
    """A cluster that is too small may still grow, so this is a remark and not an error."""
    have = ray.cluster_resources()
    short = [
        f"{need:g} {name}s where the cluster has {have.get(name, 0):g}"
        for name, need in (("CPU", wanted.workers * wanted.cpus_per_worker), ("GPU", wanted.workers * wanted.gpu))
        if have.get(name, 0) < need
    ]
    if short:
        say(f"waiting for the cluster to grow: the recipe wants {' and '.join(short)}")
