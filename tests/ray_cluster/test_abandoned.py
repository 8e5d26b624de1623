"""What a killed actor leaves reserved, and what is nobody's to take."""

import time

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from plca_dist.ray_cluster.internals.core import release_abandoned


class Maker:
    """Reserves a core, as Ray Train's controller does for its workers."""

    def make(self) -> None:
        ray.get(placement_group([{"CPU": 1}]).ready())


def free() -> float:
    return ray.available_resources().get("CPU", 0)


def wait_for(cores: float) -> None:
    deadline = time.monotonic() + 15
    while free() != cores and time.monotonic() < deadline:
        time.sleep(0.1)
    assert free() == cores


@pytest.mark.usefixtures("ray_session")
def test_a_killed_makers_group_is_given_back_and_no_other() -> None:
    whole = free()
    ours = placement_group([{"CPU": 0.5}])  # of this driver, as Tune's own
    ray.get(ours.ready())
    maker = ray.remote(Maker).options(num_cpus=0).remote()
    try:
        ray.get(maker.make.remote())
        wait_for(whole - 1.5)
        assert release_abandoned() == 0, "its maker lives"
        ray.kill(maker)
        time.sleep(2)
        assert free() == whole - 1.5, "Ray gave it back itself: release_abandoned is not needed any more"
        assert release_abandoned() == 1
        wait_for(whole - 0.5)
        assert release_abandoned() == 0
    finally:
        remove_placement_group(ours)
    wait_for(whole)
