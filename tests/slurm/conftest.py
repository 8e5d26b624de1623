"""A real Slurm of two nodes on this machine. It uses the system's programs, but not the system's configuration."""

from collections.abc import Iterator

import pytest

from tests.programs import unavailable
from tests.slurm.cluster import PROGRAMS, Slurm, missing


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Nodes n1 and n2; Slurm counts two CPUs and one GPU in each. Jobs run the project of this interpreter."""
    if absent := missing():
        reason = f"{', '.join(absent)} not found (apt-get install slurm-wlm munge installs {', '.join(PROGRAMS)})"
        unavailable(reason, "PLCA_TESTS_SLURM")
    with Slurm(tmp_path_factory.mktemp("slurm")) as started:
        yield started
