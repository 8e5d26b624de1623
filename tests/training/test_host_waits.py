"""How often a training step waits for the GPU, counted on the CPU. What only a CPU does is left out by its file."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

from plca_dist.config import Config
from plca_dist.data.whole_images import target_images
from plca_dist.ops import blocks
from plca_dist.ops.blocks import Blocks
from plca_dist.storage import resolve
from plca_dist.training.build import build_objective
from plca_dist.training.dataloading import open_stream
from plca_dist.training.engine import TrainingModule, full_state
from plca_dist.training.meter import Meter
from plca_dist.training.trained import fresh_network
from tests.host_waits import HostWaits

#: Triton kernels do its work on a GPU, and wait for nothing.
ONLY_ON_THE_CPU = "ops/epilogue.py"


def test_a_step_waits_twice(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """For the number of consistent starts at either level. The loss has been copied when the backward pass is given."""
    monkeypatch.setattr(Blocks, "on_gpu", True)
    monkeypatch.setattr(blocks, "gpu_rows", lambda *_: 128)
    config = make_config("objective.backend=streaming", "batch.micro=1", "batch.pairs=1")
    with closing(open_stream(config, 0, 1, 0)) as stream:
        batch = next(stream)
    module = TrainingModule(fresh_network(config), build_objective(config))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    meter = Meter(1, torch.device("cpu"))
    with HostWaits() as waits:
        terms = module(batch)
        meter.add(terms.as_dict())
        terms.total.backward()
        assert meter.finite()
        optimizer.step()
        meter.step()
    places = Counter(place for place in waits.places if ONLY_ON_THE_CPU not in place)
    assert places == {"tolist in ops/streaming_cycle.py": 2, "aten._local_scalar_dense.default in training/meter.py": 1}


def test_rivals_wait_for_nothing_in_a_pass(
    make_config: Callable[..., Config], make_engine: Callable, shards: Path
) -> None:
    """With the copy of the last round at work; the count at the beginning of a round is no part of a step."""
    config = make_config(
        "objective.association=0", "objective.smoothing=0", "objective.adversarial=0.1", "objective.pseudo_labels=1",
        "objective.entropy=0.1", "objective.max_square=0.1", "objective.image_weights=true", "source.fourier=0.05",
        "self_training.kind=lrent",
    )  # fmt: skip
    engine = make_engine(config)
    training = engine.module.companions["pseudo_labels"]
    training.begin(0, training.count(full_state(engine), target_images(resolve(str(shards / "target")), 0, 1)))
    with closing(open_stream(config, 0, 1, 0)) as stream:
        batch = next(stream)
    with HostWaits() as waits:
        terms = engine.module(batch)
        terms.total.backward()
    assert terms.labelled is not None
    assert waits.places == ["numpy in training/draws.py"], "of the keys, which are on the CPU"
