"""Two real processes with a discriminator and rounds of self-training, at ZeRO 0, 2 and 3, cut short, and on one."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from plca_dist.data.prepare import prepare_toytown
from plca_dist.storage import resolve
from tests.distributed.test_ranks import SCENES, assert_equal, distance, records, start

#: The first test waits for all processes.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    place = tmp_path_factory.mktemp("rivals")
    (place / "seen").mkdir()
    prepare_toytown(resolve(str(place / "data")), size=(32, 64), count=SCENES, progress=lambda *_: None)
    codes = start(place, "rivals", 2) + start(place, "rivals-again", 2) + start(place, "rivals-alone", 1)
    assert set(codes) == {0}

    def state(run: str, step: int = 6) -> dict[str, Tensor]:
        seen = torch.load(place / "seen" / f"{run}.rank0.pt", weights_only=False)  # messages are objects
        return seen["states"][step]

    return SimpleNamespace(place=Path(place), state=state)


def companions(world: SimpleNamespace, run: str, step: int = 6) -> tuple[Tensor, Tensor]:
    """(weights of the discriminator in one tensor, log thresholds) in the newest checkpoint of a step."""
    place = max((world.place / run / "checkpoints").glob(f"step-{step:08d}-*"))
    state = torch.load(place / "companions.pt", weights_only=True)
    weights = state["adversarial"]["discriminator"].values()
    return torch.cat([w.flatten() for w in weights]), state["pseudo_labels"]["log_thresholds"]


@pytest.mark.parametrize("run", ["rivals-1", "rivals-2", "rivals-3"])
def test_discriminator_and_rounds_are_the_same_on_one_rank_on_two_and_at_every_zero_stage(
    world: SimpleNamespace, run: str
) -> None:
    """`rivals-0` has two ranks of two passes without ZeRO, `rivals-1` one rank of two passes, the others ZeRO 2 and 3.

    The same but for rounding, which Adam makes whole steps of where a gradient is next to nothing: a gradient of the
    discriminator that was not averaged, or a threshold of half of the target, would show at once.
    """
    moved = distance(world.state("rivals-0", step=2), world.state("rivals-0"))
    assert distance(world.state("rivals-0"), world.state(run)) < 1e-3 * moved
    for one, two in zip(records(world, "rivals-0"), records(world, run), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-3)
    (before, _), (weights, thresholds) = companions(world, "rivals-0", 2), companions(world, "rivals-0")
    other, of_other = companions(world, run)
    assert (other - weights).norm() < 5e-2 * (weights - before).norm()
    torch.testing.assert_close(of_other, thresholds, rtol=0, atol=1e-2)


def test_discriminator_and_rounds_resume_bit_identical_at_zero_3(world: SimpleNamespace) -> None:
    assert_equal(world.state("rivals-cut-3"), world.state("rivals-3"))
    assert records(world, "rivals-cut-3") == records(world, "rivals-3")
    for one, other in zip(companions(world, "rivals-cut-3"), companions(world, "rivals-3"), strict=True):
        assert torch.equal(one, other)
