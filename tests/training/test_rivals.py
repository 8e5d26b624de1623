"""Discriminator and rounds of self-training in a run: what is saved and restored, who steps when, what is off."""

import json
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from plca_dist.config import Config
from plca_dist.data.stream import Batch
from plca_dist.data.whole_images import target_images
from plca_dist.errors import TrainingFault, UserError
from plca_dist.method.adversarial import Discriminator, discriminator_loss, seen_by_discriminator
from plca_dist.method.fourier import in_style_of
from plca_dist.method.on_target import upsampled
from plca_dist.method.pseudo_labels import assign, count_confidence, log_thresholds
from plca_dist.models.weights import load_weights
from plca_dist.storage import resolve
from plca_dist.training import adversary as adversaries
from plca_dist.training import loop as worker
from plca_dist.training import rounds
from plca_dist.training.adversary import Adversary
from plca_dist.training.companions import COMPANIONS
from plca_dist.training.context import Preempted
from plca_dist.training.engine import after_step, full_state, set_lr
from plca_dist.training.self_training import SelfTraining

#: Rounds begin at steps 0, 2 and 4; checkpoints are written after 2, 4 and 6 steps of two passes.
ALL = (
    "batch.micro=2", "checkpoint.keep=9", "objective.adversarial=0.1", "objective.pseudo_labels=0.5",
    "self_training.start=0", "objective.entropy=0.01", "objective.max_square=0.1", "objective.image_weights=true",
    "source.fourier=0.05",
)  # fmt: skip


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Config]) -> Config:
    return make_config(*ALL)


@pytest.fixture(scope="module")
def whole(config: Config, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The run that nothing interrupted."""
    run = train(config, tmp_path_factory.mktemp("whole"))
    return SimpleNamespace(path=run.path, run=run)


def companions_of(run: Path, step: int) -> dict[str, Any]:
    place = max(run.glob(f"checkpoints/step-{step:08d}-of-1-g*"))
    return torch.load(place / COMPANIONS, weights_only=True)


def losses(run: Path) -> list[dict[str, float]]:
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in record.items() if k == "step" or k.startswith("loss/")} for record in found]


def flat(state: Any, name: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        return {k: v for key, part in state.items() for k, v in flat(part, f"{name}.{key}").items()}
    if isinstance(state, list):
        return flat(dict(enumerate(state)), name)
    return {name: state}


def same(one: Any, other: Any) -> bool:
    one, other = flat(one), flat(other)
    return one.keys() == other.keys() and all(
        torch.equal(v, other[k]) if isinstance(v, Tensor) else v == other[k] for k, v in one.items()
    )


def test_a_checkpoint_holds_discriminator_optimizer_thresholds_and_the_last_network(whole: SimpleNamespace) -> None:
    states = [companions_of(whole.path, step) for step in (2, 4, 6)]
    assert [s["pseudo_labels"]["turn"] for s in states] == [0, 1, 2]
    assert [set(s) for s in states] == [{"adversarial", "pseudo_labels"}] * 3
    counts = [float(s["adversarial"]["optimizer"]["state"][0]["step"]) for s in states]
    assert counts == [2, 4, 6], "one step of the discriminator for each of the segmenter's, not for each pass"
    assert len({s["pseudo_labels"]["log_thresholds"].numpy().tobytes() for s in states}) == 3
    for before, after in pairwise(states):
        assert not same(before["adversarial"]["discriminator"], after["adversarial"]["discriminator"])
    for step, state in ((2, states[1]), (4, states[2])):  # a round labels with the network that ended the last
        module = torch.load(
            max(whole.path.glob(f"checkpoints/step-{step:08d}-*")) / "mp_rank_00_model_states.pt", weights_only=True
        )["module"]
        assert same({f"network.{k}": v for k, v in state["pseudo_labels"]["network"].items()}, dict(module))


def test_records_hold_every_term(whole: SimpleNamespace) -> None:
    record = whole.run.records[-1]
    named = {"entropy", "max_square", "adversarial", "discriminator", "pseudo_labels"}
    assert {f"loss/{name}" for name in named} <= record.keys()
    assert 0.1 < record["self_training/labelled"] < 0.9
    weights = {"lovasz": 0.75, "feature": 0.1, "prediction": 0.1, "smoothing_source": 0.01, "smoothing_target": 0.01,
               "entropy": 0.01, "max_square": 0.1, "adversarial": 0.1, "pseudo_labels": 0.5}  # fmt: skip
    total = record["loss/cross_entropy"] + sum(w * record[f"loss/{name}"] for name, w in weights.items())
    assert record["loss/total"] == pytest.approx(total, rel=1e-5), "the discriminator's own loss is no part of it"


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("average_buffers", 2),  # within the first round, before any checkpoint
        ("average_buffers", 4),  # within the second round
        ("begin_round", 2),  # between the rounds
        ("begin_round", 3),
        ("leave_result", 1),
    ],
)
def test_cut_short_within_or_between_rounds_it_ends_with_the_same_bits(
    config: Config, train: Callable, whole: SimpleNamespace, interrupt: Any, tmp_path: Path, name: str, call: int
) -> None:
    interrupt.at(worker, name, call)
    with pytest.raises(interrupt.error):
        train(config, tmp_path)
    interrupt.end()
    train(config, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert same(companions_of(tmp_path, 6), companions_of(whole.path, 6))


@pytest.mark.parametrize("every", [2, 100])
@pytest.mark.parametrize("turn", [0, 1])
def test_a_notice_while_a_round_is_counted_is_heard_at_once_and_costs_nothing(
    make_config: Callable[..., Config], train: Callable, whole: SimpleNamespace, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, turn: int, every: int,
) -> None:  # fmt: skip
    """The second round begins at step 2, where a checkpoint was due or not."""
    config = make_config(*ALL, f"checkpoint.every={every}")
    counted: list[int] = []

    def noted(*given: Any, **named: Any) -> Iterator[Tensor]:
        counted.append(0)
        for image in target_images(*given, **named):
            counted[-1] += 1
            yield image

    monkeypatch.setattr(rounds, "target_images", noted)
    with pytest.raises(Preempted) as left:
        train(config, tmp_path, stop_reason=lambda: "SIGTERM" if len(counted) > turn and counted[-1] == 3 else None)
    assert counted == [24] * turn + [3]
    assert not [t.name for t in threading.enumerate() if t.name.startswith("plca-read-ahead")], "it is left to nobody"
    assert left.value.step == 2 * turn
    assert len(list(tmp_path.glob("checkpoints/step-*/commit.json"))) == turn
    train(config, tmp_path)
    assert losses(tmp_path) == losses(whole.path)
    assert (tmp_path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert same(companions_of(tmp_path, 6), companions_of(whole.path, 6))


def test_weights_that_are_not_finite_are_named_before_a_round_counts_them(
    make_config: Callable[..., Config], train: Callable, tmp_path: Path
) -> None:
    config = make_config("objective.pseudo_labels=1", "self_training={kind: cbst, start: 0.3}", "optimizer.lr=1e30")
    with pytest.raises(TrainingFault, match=r"predictions of the target are not finite.*Lower optimizer\.lr"):
        train(config, tmp_path)


def test_the_thresholds_are_those_of_all_target_images(config: Config, whole: SimpleNamespace, shards: Path) -> None:
    state = companions_of(whole.path, 6)["pseudo_labels"]
    network = load_weights((whole.path / "model.safetensors").read_bytes()).eval()
    network.load_state_dict(state["network"])
    counts = 0
    for image in target_images(resolve(str(shards / "target")), 0, 1):
        with torch.no_grad():
            counts = counts + count_confidence(upsampled(network(image[None]).logits, image[None]))
    assert counts.sum() == 24 * 32 * 64
    assert torch.equal(state["log_thresholds"], log_thresholds(counts, 0.3))


def test_shares_of_the_target_are_disjoint_and_cover_it(shards: Path) -> None:
    store = resolve(str(shards / "target"))
    parts = [list(target_images(store, part, 5)) for part in range(5)]
    assert [len(part) for part in parts] == [4, 5, 5, 5, 5]
    assert torch.equal(torch.stack([i for part in parts for i in part]), torch.stack(list(target_images(store, 0, 1))))


def some_pairs(count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (2, count, 3, 32, 64), generator=generator, dtype=torch.uint8)
    labels = torch.randint(5, (count, 32, 64), generator=generator, dtype=torch.uint8)
    return Batch(images[0], labels, images[1], torch.tensor([[0, 0, slot] for slot in range(count)]))


def parts_of(batch: Batch, micro: int) -> list[Batch]:
    return [Batch(*part) for part in zip(*(t.split(micro) for t in batch if t is not None), strict=True)]


def test_the_discriminator_s_step_is_that_of_the_whole_batch_in_any_number_of_passes(
    make_config: Callable[..., Config], make_engine: Callable
) -> None:
    """By Adam's own rule, on the gradient of the whole batch with the weights before; and it starts from the seed."""
    batch, after = some_pairs(), {}
    for micro in (4, 1):
        config = make_config(f"batch.micro={micro}", "objective.adversarial=0.1", "adversary={sees: probability}")
        engine = make_engine(config)
        engine.module.eval()
        adversary = engine.module.companions["adversarial"]
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            fresh = Discriminator(len(config.label_set))
        assert same(dict(fresh.state_dict()), dict(adversary.discriminator.state_dict()))
        outputs = [engine.module.network(i) for i in (batch.source_image, batch.target_image)]
        maps = [seen_by_discriminator(upsampled(o.logits, batch.source_image), "probability") for o in outputs]
        discriminator_loss(fresh, *maps).backward()
        expected = torch.optim.Adam(fresh.parameters(), lr=1e-4, betas=(0.9, 0.99))
        expected.step()
        set_lr(engine, config, 0)
        for part in parts_of(batch, micro):
            engine.backward(engine(part).total)
            engine.step()
        after_step(engine, 1)
        after[micro] = dict(adversary.discriminator.state_dict())
        for name, value in fresh.state_dict().items():
            # Adam's first step is ± the rate wherever the gradient is not near its epsilon.
            torch.testing.assert_close(after[micro][name], value, rtol=0, atol=2e-6, msg=name)


def test_its_rate_decays_with_the_network_s(make_config: Callable[..., Config], make_engine: Callable) -> None:
    config = make_config("objective.adversarial=0.1", "adversary.lr=0.01", "schedule.steps=10")
    engine = make_engine(config)
    adversary = engine.module.companions["adversarial"]
    for done in (1, 2, 6):
        engine.module(some_pairs())
        after_step(engine, done)
        (group,) = adversary._optimizer.param_groups
        assert group["lr"] == pytest.approx(0.01 * (1 - (done - 1) / 10) ** 0.9)
    with pytest.raises(RuntimeError, match="without a forward pass"):
        after_step(engine, 7)


def test_labels_of_a_crop_come_from_the_network_that_ended_the_last_round(
    make_config: Callable[..., Config], make_engine: Callable, shards: Path
) -> None:
    config = make_config("objective.pseudo_labels=1", "self_training={kind: cbst, start: 0.4}")
    engine = make_engine(config)
    training, batch = engine.module.companions["pseudo_labels"], some_pairs()
    before = engine.module(batch)
    assert before.pseudo_labels.item() == before.labelled.item() == 0
    assert training.state_dict()["network"] == {}, "no copy before the first round"
    training.begin(0, training.count(full_state(engine), target_images(resolve(str(shards / "target")), 0, 1)))
    frozen = {k: v.clone() for k, v in training.state_dict()["network"].items()}
    engine.backward(engine(batch).total)
    engine.step()
    assert same(frozen, dict(training.state_dict()["network"]))
    network = training._network
    with torch.no_grad():
        logits = upsampled(network(batch.target_image).logits, batch.target_image)
    labels = assign(logits, training.log_thresholds)
    terms = engine.module(batch)
    assert terms.labelled.item() == pytest.approx(labels.chosen.float().mean().item())
    assert not network.training
    assert all(p.grad is None for p in network.parameters())


def test_what_is_off_is_not_built_and_makes_no_pass(
    make_config: Callable[..., Config], make_engine: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("built although it is off")

    for owner in (adversaries.Discriminator, Adversary, SelfTraining):
        monkeypatch.setattr(owner, "__init__", refuse)
    monkeypatch.setattr("plca_dist.training.engine.in_style_of", refuse)
    config = make_config("objective.association=0", "objective.smoothing=0")
    assert not config.needs_target
    engine = make_engine(config)
    assert not engine.module.companions
    passes: list[Any] = []
    engine.module.network.register_forward_hook(lambda *_: passes.append(1))
    engine.module(some_pairs())
    assert len(passes) == 1
    assert not rounds.round_begins(engine, 0)


def test_the_source_passes_in_the_target_s_style(make_config: Callable[..., Config], make_engine: Callable) -> None:
    config = make_config("source.fourier=0.09", "objective.association=0", "objective.smoothing=0")
    assert config.needs_target
    engine, batch = make_engine(config), some_pairs()
    engine.module.eval()
    styled = batch._replace(source_image=in_style_of(batch.source_image, batch.target_image, 0.09))
    found = engine.module(batch).total
    engine.module.fourier = 0.0
    assert torch.equal(found, engine.module(styled).total)
    assert not torch.equal(found, engine.module(batch).total)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["adversary.lr=0.1"], r"adversary.lr is an option of objective.adversarial, which is off"),
        (["self_training.kind=cbst"], r"self_training.kind is an option of objective.pseudo_labels, which is off"),
        (["objective.entropy_penalty=robust"], r"entropy_penalty 'robust' is an option of entropy, whose weight is 0"),
        (["objective.image_weights=true"], r"image_weights True is an option of max_square"),
        (["objective.adversarial=0.1", "target.crop=[16, 64]"], r"needs crops of 32 pixels a side, got .*\[16, 64\]"),
        (["source.fourier=0.1", "target.crop=[32, 32]"], r"source.crop \[32, 64\] is not target.crop \[32, 32\]"),
        (
            ["objective.pseudo_labels=1", "self_training={start: 0.85}"],
            r"round 3 would begin at step 7, and the",
        ),
        (["objective.pseudo_labels=1", "self_training={kind: cbst, smoothness: 0.1}"], r"is an option of mrkld"),
        (["objective.pseudo_labels=1", "self_training={share: 0.6}"], r"share 0.6 is above most 0.5"),
        (["objective.adversarial=0.1", "adversary.sees=features"], r"'probability' or 'entropy'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_starts(
    make_config: Callable[..., Config], settings: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_config(*settings)
