"""Runs with a teacher: cut short and continued they end as if nothing had happened, and their batches mix alike."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from plca_dist.config import Config
from plca_dist.data.stream import Batch
from plca_dist.errors import UserError
from plca_dist.models.frozen import freeze
from plca_dist.models.weights import load_weights
from plca_dist.storage import Location
from plca_dist.training import loop as worker
from plca_dist.training.build import build_objective
from plca_dist.training.checkpoint import save as saver
from plca_dist.training.dataloading import open_stream
from plca_dist.training.draws import Draws
from plca_dist.training.engine import TrainingModule
from plca_dist.training.further_terms import further_terms
from plca_dist.training.trained import fresh_network, load_trained
from tests.host_waits import HostWaits

TERMS = (
    "objective.class_mix=1", "objective.masked_consistency=1", "teacher.threshold=0.13", "teacher.ignore_top=0.1",
    "masking.block=8", "rare_class_sampling={temperature: 0.05, pixels: 30}", "source.crop=[24, 48]",
)  # fmt: skip
TIMES = ("pairs_per_second", "data_wait", "elapsed_s")


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Config]) -> Config:
    """Six steps of two passes each, a record at each, an evaluation at 3 and 6, checkpoints at 2, 4 and 6."""
    return make_config(
        *TERMS,
        "batch.micro=2",
        "evaluation.uri=val",
        "evaluation.every=3",
        "checkpoint.keep=3",
        "evaluation.size=[32,64]",
    )


@pytest.fixture(scope="module")
def whole(config: Config, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    run = train(config, tmp_path_factory.mktemp("whole"))
    return SimpleNamespace(path=run.path, records=records(run.path))


def records(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMES} for record in found]


def teacher(run: Path, step: int) -> dict[str, Tensor]:
    (place,) = run.glob(f"checkpoints/step-{step:08d}-of-1-g*")
    return torch.load(place / "companions.pt", weights_only=True)["teacher"]


def test_the_teacher_is_seen_and_left_behind(whole: SimpleNamespace) -> None:
    terms = [r for r in whole.records if "loss/total" in r]
    for record in terms:
        assert record["loss/class_mix"] > 0
    assert terms[-1]["loss/masked_consistency"] > 0
    assert terms[-1]["teacher/confident"] > 0
    assert [("miou" in r, "teacher/miou" in r) for r in whole.records if "loss/total" not in r] == [(True, True)] * 2
    evaluation = json.loads((whole.path / "evaluation.json").read_text())
    assert [s["aggregation"] for s in evaluation["teacher"]["scores"]] == [0, 0.5]
    assert evaluation["teacher"]["scores"][0]["miou"] == whole.records[-1]["teacher/miou"]
    state = teacher(whole.path, 6)
    for name, weights in load_weights((whole.path / "teacher.safetensors").read_bytes()).state_dict().items():
        assert torch.equal(weights, state[name]), name
    student = load_weights((whole.path / "model.safetensors").read_bytes()).state_dict()
    for name, weights in student.items():
        if "running" in name or "tracked" in name:
            assert torch.equal(weights, state[name]), name
        else:
            assert not torch.equal(weights, state[name]), name
    assert any(not torch.equal(a, b) for a, b in zip(teacher(whole.path, 4).values(), state.values(), strict=True))


@pytest.mark.parametrize(("module", "name", "call"), [(worker, "after_step", 1), (worker, "after_step", 4),
                                                      (saver, "commit", 2), (worker, "leave_result", 1)])  # fmt: skip
def test_cut_short_it_ends_the_same(
    config: Config, train: Callable, whole: SimpleNamespace, interrupt: SimpleNamespace, tmp_path: Path,
    module: object, name: str, call: int,
) -> None:  # fmt: skip
    interrupt.at(module, name, call)
    with pytest.raises(interrupt.error):
        train(config, tmp_path)
    interrupt.end()
    train(config, tmp_path)
    assert records(tmp_path) == whole.records
    for file in ("evaluation.json", "model.safetensors", "teacher.safetensors"):
        assert (tmp_path / file).read_bytes() == (whole.path / file).read_bytes(), file


def test_a_checkpoint_without_its_companions_is_refused(
    config: Config, train: Callable, whole: SimpleNamespace, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole.path, run)
    (run / "model.safetensors").unlink()
    for place in run.glob("checkpoints/*"):
        commit = json.loads((place / "commit.json").read_text())
        del commit["files"]["companions.pt"]
        (place / "commit.json").write_text(json.dumps(commit))
        (place / "companions.pt").unlink()
    with pytest.raises(UserError, match=r"companions.pt does not hold the state of teacher \(KeyError\)"):
        train(config, run)


def test_the_teacher_evaluates_with_the_recipe_of_its_run(whole: SimpleNamespace, config: Config) -> None:
    (whole.path / "recipe.yaml").write_text(config.to_yaml())
    found = load_trained(Location(f"{whole.path}/teacher.safetensors"))
    assert found.config == config
    assert found.checkpoint == "teacher"
    state = teacher(whole.path, 6)
    assert all(torch.equal(value, state[name]) for name, value in found.network.state_dict().items())


def test_without_terms_nothing_is_kept_or_saved(make_config: Callable, train: Callable, tmp_path: Path) -> None:
    run = train(make_config("schedule.steps=2"), tmp_path)
    assert not list(run.path.rglob("companions.pt"))
    assert not (run.path / "teacher.safetensors").exists()


def passes(config: Config, world: int, *, engine: object) -> list[dict[str, Tensor]]:
    """The terms of one step's passes over all ranks, with the network in evaluation mode, in float64."""
    module: TrainingModule = engine.module  # type: ignore[attr-defined]
    module.eval()
    found = []
    for rank in range(world):
        with closing(open_stream(config, rank, world, 3)) as stream:
            for _ in range(config.accumulation(world)[1]):
                found.append(module(next(stream)).as_dict())
    return found


@pytest.mark.parametrize(("world", "micro"), [(2, 2), (2, 1), (4, 1), (1, 1)])
def test_any_number_of_ranks_mixes_alike(make_config: Callable, make_engine: Callable, world: int, micro: int) -> None:
    engine = make_engine(make_config(*TERMS, "batch.micro=4"))
    (whole,) = passes(make_config(*TERMS, "batch.micro=4"), 1, engine=engine)
    parts = passes(make_config(*TERMS, f"batch.micro={micro}"), world, engine=engine)
    for name, value in whole.items():
        mean = torch.stack([part[name] for part in parts]).mean()
        torch.testing.assert_close(mean, value, rtol=2e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_ranks_reads_the_same_rare_classes(make_config: Callable, world: int) -> None:
    """Eight steps: past the end of an epoch of six."""
    config = make_config(*TERMS)

    def read(world: int, start: int, steps: int) -> list[list[Tensor]]:
        by_rank = []
        for rank in range(world):
            with closing(open_stream(config, rank, world, start)) as stream:
                by_rank.append([next(stream) for _ in range(steps)])
        return [[torch.cat(parts) for parts in zip(*batches, strict=True)] for batches in zip(*by_rank, strict=True)]

    one = read(1, 0, 8)
    for a, b in zip(read(world, 0, 8), one, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for a, b in zip(read(world, 5, 3), one[5:], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    plain = make_config(*TERMS, "rare_class_sampling={temperature: null, pixels: 3000}")
    with closing(open_stream(plain, 0, 1, 0)) as stream:
        usual = next(stream)
    assert not torch.equal(usual.source_label, one[0][1])
    assert torch.equal(usual.target_image, one[0][2]), "the target is read as before"


def test_draws_are_those_of_the_pair(make_config: Callable) -> None:
    def read(world: int, rank: int, start: int) -> Batch:
        with closing(open_stream(make_config(), rank, world, start)) as stream:
            return next(stream)

    whole = read(1, 0, 5)
    assert whole.keys is not None
    assert whole.keys.tolist() == [[0, 5, slot] for slot in range(4)]
    drawn = Draws(whole.keys, torch.device("cpu"))("class_mix", 7)
    assert drawn.shape == (4, 7)
    assert len(drawn.flatten().unique()) == 28
    for rank in range(2):
        keys = read(2, rank, 5).keys
        assert keys is not None
        assert torch.equal(Draws(keys, torch.device("cpu"))("class_mix", 7), drawn[2 * rank : 2 * rank + 2])
        assert not torch.equal(Draws(keys, torch.device("cpu"))("other", 7), drawn[2 * rank : 2 * rank + 2])


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("model.freeze_bn=true",),
        ("model.frozen=[all]",),
        ("model.backbone=timm/test_vit", "model.stride=16", "masking.block=16"),
        ("objective.association=0", "objective.smoothing=0"),
        ("objective.class_mix=0", "objective.association=0", "objective.smoothing=0"),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_networks_learn_from_their_teacher(
    make_config: Callable, settings: tuple[str, ...], precision: str
) -> None:
    config = make_config(*TERMS, "source.crop=[32,64]", *settings)
    torch.manual_seed(0)
    network = fresh_network(config)
    freeze(network, config.model.frozen, freeze_bn=config.model.freeze_bn)
    found = further_terms(config, network)
    module = TrainingModule(network, build_objective(config, found.terms), (), found.companions).train()
    with closing(open_stream(config, 0, 1, 0)) as stream:
        batch = next(stream)
    before = {name: b.clone() for name, b in network.named_buffers()}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        terms = module(batch)
    assert terms.masked_consistency is not None
    assert terms.total.dtype == torch.float32
    terms.total.backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    teacher = module.companions["teacher"].network
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(b, before[name]) for name, b in teacher.named_buffers()), "a pass leaves nothing behind"
    module.companions.after_step(network, 1)
    assert all(
        torch.equal(a, b) for a, b in zip(teacher.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_terms_have_a_gpu_wait_for_nothing(make_config: Callable) -> None:
    """Keys and draws are on the CPU wherever the network is."""
    config = make_config(*TERMS, "objective.association=0", "objective.lovasz=0", "objective.smoothing=0")
    network = fresh_network(config)
    further = further_terms(config, network)
    module = TrainingModule(network, build_objective(config, further.terms), (), further.companions)
    with closing(open_stream(config, 0, 1, 0)) as stream:
        batch = next(stream)
    with HostWaits() as waits:
        module(batch).total.backward()
        module.companions.after_step(network, 1)
    assert set(waits.places) <= {"numpy in training/draws.py"}, waits.places


def test_features_are_held_near_those_of_the_starting_weights(
    make_config: Callable, train: Callable, tmp_path: Path
) -> None:
    first = train(make_config("schedule.steps=2"), tmp_path / "first")
    weights = f"model.weights={first.path}/model.safetensors"
    distances = {}
    for weight in (0.01, 3.0):
        config = make_config(weights, f"objective.feature_distance={weight}", "schedule.steps=8")
        run = train(config, tmp_path / str(weight))
        distances[weight] = [r["loss/feature_distance"] for r in run.records if "loss/feature_distance" in r]
    assert distances[3.0][0] == pytest.approx(distances[0.01][0])
    assert distances[3.0][-1] < distances[0.01][-1], "the weight holds them"
    assert not list(tmp_path.rglob("companions.pt")), "it has no state"
