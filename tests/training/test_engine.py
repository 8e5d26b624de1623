"""Schedule, DeepSpeed's settings, and that a batch's gradient is the mean of its parts' gradients."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plca_dist.config import Config
from plca_dist.data.stream import Batch
from plca_dist.errors import UserError
from plca_dist.models.deeplab import build_network
from plca_dist.training.build import build_objective
from plca_dist.training.checkpoint.full_state import weights_of
from plca_dist.training.engine import TrainingModule, deepspeed_config, finite_weights, full_state, set_lr
from plca_dist.training.optimizer import poly_lr

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize(
    ("settings", "length", "power"),
    [
        (["schedule.steps=100"], 100, 0.9),
        (["schedule.steps=100", "schedule.poly_steps=250"], 250, 0.9),
        (["schedule.steps=100", "schedule.poly_steps=100", "schedule.power=2"], 100, 2.0),
        (["schedule.steps=100", "schedule.power=0"], 100, 0.0),
    ],
)
def test_the_rate_decays_as_a_power_of_what_is_left(
    make_config: MakeConfig, settings: list[str], length: int, power: float
) -> None:
    config = make_config("optimizer.lr=0.02", *settings)
    for step in (0, 1, 50, 99):
        assert poly_lr(config, step) == pytest.approx(0.02 * ((length - step) / length) ** power, rel=1e-12)
    assert poly_lr(config, 99) > 0


def test_the_papers_rate_at_the_end_of_its_run(make_config: MakeConfig) -> None:
    """GTAV: 10 416 of 11 160 steps, 2.5e-4: the last step still has a fifteenth, to the power 0.9."""
    config = make_config("optimizer.lr=0.00025", "schedule.steps=10416", "schedule.poly_steps=11160")
    assert poly_lr(config, 10416) == pytest.approx(2.5e-4 * (744 / 11160) ** 0.9)


def test_each_group_has_its_multiple_of_the_rate(make_config: MakeConfig) -> None:
    config = make_config("optimizer.lr=0.1", "schedule.steps=10", "schedule.power=1")
    engine = SimpleNamespace(
        optimizer=SimpleNamespace(param_groups=[{"lr": 9.0, "lr_multiplier": 1.0}, {"lr": 9.0, "lr_multiplier": 10.0}])
    )
    assert set_lr(engine, config, 4) == pytest.approx(0.06)
    assert [g["lr"] for g in engine.optimizer.param_groups] == pytest.approx([0.06, 0.6])
    set_lr(engine, config, 4)
    assert [g["lr"] for g in engine.optimizer.param_groups] == pytest.approx([0.06, 0.6])


def test_deepspeeds_settings_come_from_the_recipe(make_config: MakeConfig) -> None:
    config = make_config("batch.pairs=24", "batch.micro=2", "optimizer.gradient_clipping=2.5", "precision=bfloat16")
    settings = deepspeed_config(config, world_size=3, parameters=1000)
    assert settings["train_batch_size"] == 24
    assert settings["train_micro_batch_size_per_gpu"] == 2
    assert settings["gradient_accumulation_steps"] == 4
    assert settings["gradient_clipping"] == 2.5
    autocast = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    assert settings["torch_autocast"] == autocast, "gradients are reduced in float32 at every ZeRO stage"
    assert settings["timers"] == {"throughput": {"enabled": False}}
    assert not {"bf16", "fp16", "optimizer", "scheduler", "zero_optimization"} & settings.keys()


def test_no_clipping_is_stated_because_deepspeeds_default_clips(make_config: MakeConfig) -> None:
    settings = deepspeed_config(make_config(), world_size=1, parameters=1000)
    assert settings["gradient_clipping"] == 0.0
    assert settings["torch_autocast"]["enabled"] is False


def test_zero_gets_small_buckets_unless_the_recipe_says_otherwise(make_config: MakeConfig) -> None:
    config = make_config("deepspeed.zero_optimization.stage=2", "deepspeed.zero_optimization.overlap_comm=false")
    before = copy.deepcopy(config.deepspeed)
    settings = deepspeed_config(config, world_size=1, parameters=1234)
    assert settings["zero_optimization"] == {"stage": 2, "overlap_comm": False, "reduce_bucket_size": 1234}
    assert settings["zero_allow_untested_optimizer"] is True
    assert config.deepspeed == before
    config = make_config("deepspeed.zero_optimization={stage: 1, reduce_bucket_size: 77}")
    assert deepspeed_config(config, 1, 1234)["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 77}
    config = make_config("deepspeed.zero_optimization.stage=1")
    on_gpu = deepspeed_config(config, 1, 10**9, on_gpu=True)["zero_optimization"]
    assert on_gpu == {"stage": 1, "reduce_bucket_size": 6_553_600, "overlap_comm": True}


@pytest.mark.parametrize(("settings", "named"), [(["batch.pairs=4"], "batch.pairs = 4"), ([], "batch.micro = 3")])
def test_a_batch_that_does_not_divide_is_refused(make_config: MakeConfig, settings: list[str], named: str) -> None:
    config = make_config("batch.pairs=24", "batch.micro=3", *settings)
    with pytest.raises(UserError, match=named):
        deepspeed_config(config, world_size=3, parameters=1) if settings else deepspeed_config(config, 12, 1)


def four_pairs() -> Batch:
    """Four pairs whose images have labels on all, most, few and none of their pixels."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(5, (4, 32, 48), generator=generator)
    labels = labels[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2).contiguous()
    labels[1, :10] = 255
    labels[2, 4:] = 255
    labels[3] = 255
    return Batch(
        torch.randint(256, (4, 3, 32, 48), generator=generator, dtype=torch.uint8),
        labels,
        torch.randint(256, (4, 3, 40, 32), generator=generator, dtype=torch.uint8),
    )


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2)])
@pytest.mark.parametrize("variant", ["objective.contrast=true", "objective.contrast=false"])
def test_the_gradient_of_a_batch_is_the_mean_of_its_parts_gradients(
    make_config: MakeConfig, sizes: tuple[int, ...], variant: str
) -> None:
    """One rank with four pairs, two with two, four with one: all terms on, batch norm as it is at evaluation."""
    config = make_config("objective.smoothing=0.5", "objective.association=1.0", "objective.smoothness=1.0", variant)
    torch.manual_seed(0)
    network = build_network("tiny", 5, rates=(1, 2))
    for p in network.classifier.parameters():
        nn.init.normal_(p, std=0.2)
    module = TrainingModule(network, build_objective(config)).double().eval()

    def gradients(batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        module.zero_grad()
        terms = module(batch)
        terms.total.backward()
        return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}, terms.as_dict()

    batch = four_pairs()
    whole, whole_terms = gradients(batch)
    assert len(whole_terms) == 9, "every term is on"
    parts = [gradients(Batch(*part)) for part in zip(*(t.split(list(sizes)) for t in batch[:3]), strict=True)]  # type: ignore[union-attr]
    for name, gradient in whole.items():
        mean = sum(g[name] for g, _ in parts) / len(parts)
        torch.testing.assert_close(mean, gradient, rtol=1e-9, atol=1e-12, msg=name)
    for name, value in whole_terms.items():
        torch.testing.assert_close(sum(t[name] for _, t in parts) / len(parts), value, rtol=1e-9, atol=1e-12, msg=name)


def test_source_only_never_looks_at_a_target(make_config: MakeConfig) -> None:
    config = make_config("objective.association=0", "objective.smoothing=0")
    module = TrainingModule(build_network("tiny", 5, rates=(1,)), build_objective(config))
    assert not module.objective.settings.needs_target
    batch = four_pairs()._replace(target_image=None)
    assert set(module(batch).as_dict()) == {"total", "cross_entropy", "lovasz"}


def one_step(engine: Any, config: Config, batch: Batch, micro: int) -> None:
    set_lr(engine, config, 0)
    for part in zip(*(t.split(micro) for t in batch[:3]), strict=True):  # type: ignore[union-attr]
        engine.backward(engine(Batch(*part)).total)
        engine.step()


def test_accumulated_passes_make_the_step_of_one_large_pass(make_config: MakeConfig, make_engine: Callable) -> None:
    after = []
    for micro in (4, 1):
        config = make_config("labels=cityscapes", f"batch.micro={micro}")
        engine = make_engine(config)
        before = full_state(engine)
        engine.module.eval()
        one_step(engine, config, four_pairs(), micro)
        after.append({name: value - before[name] for name, value in full_state(engine).items()})
    assert all(float(d.abs().max()) > 0 for name, d in after[0].items() if name.endswith("weight"))
    for name, change in after[0].items():
        torch.testing.assert_close(after[1][name], change, rtol=1e-4, atol=1e-6, msg=name)


def test_clipping_bounds_the_step_and_the_head_moves_by_its_multiple(
    make_config: MakeConfig, make_engine: Callable
) -> None:
    """Plain SGD without decay: the step is rate x gradient, so its size shows the gradient's norm."""
    plain = ["labels=cityscapes", "optimizer.momentum=0", "optimizer.weight_decay=0", "optimizer.lr=0.5"]
    moved: dict[tuple[float, float], dict[str, Tensor]] = {}
    for clip, multiplier in ((0.0, 1.0), (0.01, 1.0), (0.01, 10.0)):
        config = make_config(
            *plain, f"optimizer.gradient_clipping={clip}", f"optimizer.head_lr_multiplier={multiplier}"
        )
        engine = make_engine(config)
        before = full_state(engine)
        one_step(engine, config, four_pairs(), 4)
        after = full_state(engine)
        names = [name for name, _ in engine.module.network.named_parameters()]
        moved[clip, multiplier] = {name: (before[name] - after[name]) / 0.5 for name in names}

    def norm(gradients: dict[str, Tensor]) -> float:
        return float(torch.cat([g.flatten() for g in gradients.values()]).norm())

    free, clipped, faster_head = moved.values()
    assert norm(free) > 1.0
    assert norm(clipped) == pytest.approx(0.01, rel=1e-3)
    for name, gradient in clipped.items():
        torch.testing.assert_close(gradient, free[name] * (0.01 / norm(free)), rtol=1e-2, atol=1e-6, msg=name)
        factor = 10.0 if name.startswith("classifier.") else 1.0
        torch.testing.assert_close(faster_head[name], factor * gradient, rtol=1e-2, atol=1e-6, msg=name)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_offloads_with_our_optimizer(make_config: MakeConfig, train: Callable, tmp_path: Path, stage: int) -> None:
    """DeepSpeed refuses a client optimizer under offload unless told; the result is that of training without."""
    offload = "offload_optimizer: {device: cpu}" + (", offload_param: {device: cpu}" if stage == 3 else "")
    short = ("schedule.steps=2", "optimizer.lr=0.001")
    weights = []
    for name, settings in {"plain": "{}", "offloaded": f"{{stage: {stage}, {offload}}}"}.items():
        run = train(make_config(*short, f"deepspeed.zero_optimization={settings}"), tmp_path / name)
        weights.append(weights_of(run.store, "step-00000002-of-1-g1"))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_weight_or_a_statistic_that_is_no_number_is_seen(make_config: MakeConfig, make_engine: Callable) -> None:
    engine = make_engine(make_config())
    assert bool(finite_weights(engine))
    for tensor in (engine.module.network.classifier.convs[2].weight, engine.module.network.backbone.bn1.running_var):
        with torch.no_grad():
            kept = tensor.flatten()[-1].clone()
            tensor.view(-1)[-1] = float("inf")
            assert not bool(finite_weights(engine))
            tensor.view(-1)[-1] = kept
    assert bool(finite_weights(engine))
