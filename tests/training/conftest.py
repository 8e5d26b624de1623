"""Fixtures of training's tests: one rank on gloo, tiny drawn scenes, and a function that trains a run on them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from plca_dist import polling, recipe
from plca_dist.config import Config
from plca_dist.messages import Message, Record, RunEvent
from plca_dist.storage import Store, resolve
from plca_dist.training import watchdog
from plca_dist.training.context import TrainContext
from plca_dist.training.engine import build_engine
from plca_dist.training.loop import prepare_torch, run_worker
from plca_dist.training.trained import fresh_network

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """torch.distributed with one rank, initialized as a launcher does it."""
    place = tmp_path_factory.mktemp("group") / "rendezvous"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
            patch.setenv(name, value)
        dist.init_process_group("gloo", init_method=f"file://{place}", rank=0, world_size=1)
        yield
        dist.destroy_process_group()


@pytest.fixture(scope="session", autouse=True)
def _timer_of_pytest() -> Iterator[None]:
    """faulthandler has one timer a process. In this process it belongs to pytest (its `faulthandler_timeout`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "_set_timer", lambda allowed_s: None)
        patch.setattr(watchdog, "_cancel_timer", lambda: None)
        yield


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks at what is damaged."""
    monkeypatch.setattr(polling, "_PAUSES_S", (0.01,) * 4)


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """Restore the settings of torch that a worker changes in its process."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="session")
def shards(toytown_shards: Path) -> Path:
    """`source` and `target` of 24 scenes, `val` of 6, all 32 x 64."""
    return toytown_shards


#: Six steps on the tiny scenes with a record after each; nothing here follows a shipped recipe.
RECIPE = """
deterministic: true
labels: toytown
model: {backbone: tiny, rates: [1, 2, 4]}
source: {uri: source, crop: [32, 64]}
target: {uri: target, crop: [32, 64]}
optimizer: {lr: 0.05}
schedule: {steps: 6}
batch: {pairs: 4}
checkpoint: {every: 2}
log: {every: 1}
"""


@pytest.fixture(scope="session")
def make_config(shards: Path) -> Callable[..., Config]:
    """The recipe above, with settings as `--set` takes them."""

    def make(*settings: str) -> Config:
        return recipe.parse(RECIPE, [f"data={shards}", *settings])

    return make


@dataclass
class ShownRun:
    """A run's directory and what the person watching was shown."""

    store: Store
    shown: list[RunEvent] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        return [event for event in self.shown if not isinstance(event, Message)]

    @property
    def messages(self) -> list[str]:
        return [event.text for event in self.shown if isinstance(event, Message)]

    @property
    def path(self) -> Path:
        return Path(self.store.root)

    def checkpoints(self) -> list[str]:
        return sorted(p.name for p in (self.path / "checkpoints").iterdir())


@pytest.fixture(scope="session")
def train(group: None) -> Callable[..., ShownRun]:
    """Train the recipe in a directory (a path or a URI), or continue there; keywords go to the TrainContext.

    Each call is an attempt. Its number is the least that no other has, because it ends before the next one begins.
    """

    def run(config: Config, place: Path | str, **context: Any) -> ShownRun:
        trained = ShownRun(resolve(str(place)))
        numbers = [int(e.name.split("/")[1]) for e in trained.store.list("attempts")]
        generation = 1 + max(numbers, default=0)
        trained.store.write(f"attempts/{generation:08d}/recipe.yaml", config.to_yaml().encode())
        run_worker(config, TrainContext(trained.store, CPU, trained.shown.append, generation, **context))
        return trained

    return run


@pytest.fixture(scope="session")
def make_engine(group: None) -> Callable[[Config], Any]:
    """An engine on the recipe's fresh network."""

    def make(config: Config) -> Any:
        prepare_torch(config)
        return build_engine(config, fresh_network(config), CPU)

    return make


@pytest.fixture
def interrupt() -> Iterator[SimpleNamespace]:
    """`interrupt.at(module, name, call)` makes the call-th call of a function raise Interrupted; `.end()` stops it."""
    patch = pytest.MonkeyPatch()

    def at(module: Any, name: str, call: int) -> None:
        original, calls = getattr(module, name), iter(range(1, 10**9))

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == call:
                raise Interrupted
            return original(*args, **kwargs)

        patch.setattr(module, name, interrupted)

    yield SimpleNamespace(at=at, end=patch.undo, error=Interrupted)
    patch.undo()


class Interrupted(Exception):
    """Stands for anything that ends a process."""
