"""Checks of everything that a run needs, as findings, each with its fix."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import plca_dist.training  # noqa: F401  it quiets DeepSpeed, which is imported below
from plca_dist.doctor.finding import Finding
from plca_dist.doctor.mount import network_disk
from plca_dist.doctor.store import try_store
from plca_dist.errors import UserError, counted
from plca_dist.storage import Location, resolve

_PYTHON = (3, 11)
_TORCH = (2, 11)


def examine(storage: Location, *, cluster: bool = False, gpu: bool = False) -> Iterator[Finding]:
    """Check Python, torch and CUDA, image decoders, DeepSpeed, Ray, and the store at `storage`, as runs use it.

    Each check imports its package itself, so that a missing package is a finding.

    Args:
        cluster: look at every node of the Ray cluster, instead of running one task on it.
        gpu: GPUs are wanted: on the nodes that offer CPUs, or without `cluster` on this machine.
    """
    checks: dict[str, Callable[[], str]] = {
        "Python": _python,
        "torch": _torch,
        "images": _images,
        "CUDA": lambda: _cuda(wanted=gpu and not cluster),
        "DeepSpeed": _deepspeed,
        "Ray": _ray,
        "store": lambda: try_store(storage),
    }
    for what, check in checks.items():
        if not (cluster and what == "Ray"):
            yield _find(what, check)
    yield from _disk(storage)
    if cluster:
        yield from _nodes(storage, gpu)


def _nodes(storage: Location, gpu: bool) -> Iterator[Finding]:
    try:
        from plca_dist.doctor.nodes import examine_nodes  # here: it imports Ray, which may be missing

        yield from examine_nodes(storage, gpu=gpu)
    except Exception as error:
        yield _failure("cluster", error)


def _disk(storage: Location) -> Iterator[Finding]:
    """A finding where the storage is a directory on another machine's disk."""
    try:
        store = resolve(storage)
        found = network_disk(Path(store.root)) if store.local else None
    except UserError:  # the check of the store says so
        return
    if found:
        yield found


def _find(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except Exception as error:  # whatever it is, it is a finding
        return _failure(what, error)


def _failure(what: str, error: Exception) -> Finding:
    if isinstance(error, UserError):
        return Finding(what, False, str(error))
    if isinstance(error, ImportError):
        return Finding(what, False, f"{error}; install this package again, with what it needs: pip install plca-dist")
    return Finding(what, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _python() -> str:
    if sys.version_info < _PYTHON:
        raise UserError(f"{sys.version.split()[0]} is too old; install Python {'.'.join(map(str, _PYTHON))} or newer.")
    return sys.version.split()[0]


def _torch() -> str:
    import torch
    import torchvision

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _TORCH:
        raise UserError(f"{torch.__version__} is too old; pip install 'torch>={'.'.join(map(str, _TORCH))}'.")
    # A torchvision built for another torch imports, and fails at its first compiled operator.
    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    return f"{torch.__version__} with torchvision {torchvision.__version__}"


def _images() -> str:
    from plca_dist.data.png import WITHOUT_WUFFS

    pillow = f"Pillow {version('pillow')}"
    if WITHOUT_WUFFS is None:
        return f"{pillow}, and Wuffs for PNGs (pywuffs {version('pywuffs')})"
    return (
        f"{pillow}; PNGs would decode in about half of the time with Wuffs ({WITHOUT_WUFFS}): "
        "pip install 'plca-dist[png]', which needs a C++ compiler"
    )


def _cuda(*, wanted: bool = False) -> str:
    import torch

    if not torch.cuda.is_available():
        if wanted:
            raise UserError("no GPU here that torch can use; check the CUDA driver, and that torch is a CUDA build.")
        return "no GPU here; recipes with cluster.gpu=true need a cluster that has them"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    torch.ones(2, device="cuda").sum().item()
    return f"CUDA {torch.version.cuda}: {', '.join(names)}"


def _deepspeed() -> str:
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    import deepspeed

    return str(deepspeed.__version__)


def _ray() -> str:
    import ray

    from plca_dist.config import ClusterSettings
    from plca_dist.ray_cluster.connect import connection

    began = time.monotonic()
    with connection(ClusterSettings(workers=1), lambda message: None):
        answer = ray.get(ray.remote(num_cpus=1)(lambda: version("ray")).remote(), timeout=60)
        where = "cluster at RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") else "local cluster"
        if answer != version("ray"):
            raise UserError(f"the {where} runs ray {answer}, this is {version('ray')}; install the same on both.")
        cpus = ray.cluster_resources().get("CPU", 0)
    return f"{answer}, {where} with {counted(cpus, 'CPUs')} ran a task after {time.monotonic() - began:.1f} s"
