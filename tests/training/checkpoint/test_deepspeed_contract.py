"""What `checkpoint/internals.py` uses of DeepSpeed beyond its documentation, held against the installed version.

A failure here comes before the failure of a run. Its message says what of ours breaks, or which workaround of ours is
no longer needed and what to remove. `tests/distributed/test_ranks.py` holds the same at several world sizes.
"""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.accelerator import real_accelerator
from deepspeed.checkpoint import ds_to_universal
from deepspeed.comm.torch import build_shm_op
from deepspeed.runtime import constants
from deepspeed.runtime import engine as runtime_engine
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.utils import zero_to_fp32
from deepspeed.utils.config import TIMERS

from plca_dist.config import Config
from plca_dist.training.checkpoint import internals
from plca_dist.training.checkpoint.commit import rank_that_needs
from plca_dist.training.checkpoint.full_state import read_module
from plca_dist.training.dataloading import open_stream
from plca_dist.training.engine import deepspeed_config, full_state, set_lr

OURS = "plca_dist/training/checkpoint/internals.py"
MODEL, OPTIM = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"
FILES = {0: {MODEL}, 1: {MODEL, OPTIM}, 2: {MODEL, OPTIM}, 3: {f"zero_pp_rank_0_{MODEL}", OPTIM}}
PARTITIONED = (1, 2, 3)


@pytest.fixture(scope="module")
def written(
    make_engine: Callable, make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], SimpleNamespace]:
    """An engine at a ZeRO stage after one step, and the folder of its checkpoint; made once."""
    made: dict[int, SimpleNamespace] = {}

    def at(stage: int) -> SimpleNamespace:
        if stage not in made:
            config = make_config(f"deepspeed.zero_optimization.stage={stage}")
            engine = make_engine(config)
            step(engine, config)
            place = tmp_path_factory.mktemp("written")
            engine.save_checkpoint(str(place), tag="tag", save_latest=False)
            made[stage] = SimpleNamespace(engine=engine, config=config, folder=place / "tag")
        return made[stage]

    return at


def step(engine: Any, config: Config, spoil: Callable[[Any], Any] = lambda loss: loss) -> None:
    stream = open_stream(config, 0, 1, 0)
    set_lr(engine, config, 0)
    engine.backward(spoil(engine(next(stream)).total))
    engine.step()
    stream.close()


def parameters(engine: Any) -> Iterator[tuple[str, Any]]:
    yield from engine.module.named_parameters()


def test_the_warnings_that_are_left_out_are_still_given() -> None:
    assert deepspeed.utils.logger.name == internals.LOGGER, (
        f"DeepSpeed's logger has another name: LOGGER in {OURS} filters nothing, and every rank warns of our choices"
    )
    source = inspect.getsource(real_accelerator) + inspect.getsource(runtime_engine)
    for text in internals.EXPECTED_WARNINGS:
        assert text in source, f"DeepSpeed no longer warns {text!r}: remove it from EXPECTED_WARNINGS in {OURS}"


def test_a_collective_would_still_be_compiled_on_the_cpu() -> None:
    workaround = f"use_no_compiled_operators in {OURS}"
    source = inspect.getsource(build_shm_op)
    assert "__compatible_ops__.get(" in source, (
        f"DeepSpeed no longer asks __compatible_ops__ before it compiles its shared-memory collective: {workaround} "
        "does nothing. Remove it if a worker on the CPU starts at once without it, else find what is asked now"
    )
    assert "__compatible_ops__" in inspect.getsource(deepspeed.ops), (
        f"deepspeed.ops has no __compatible_ops__ any more: {workaround} sets a name that nobody reads"
    )
    internals.use_no_compiled_operators()
    assert build_shm_op() is None, f"{workaround} no longer keeps DeepSpeed from compiling"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_an_engine_is_asked(written: Callable, stage: int) -> None:
    engine = written(stage).engine
    assert internals.zero_stage(engine) == stage, "engine.zero_optimization_stage(): checkpoint/reshard.py, full_state"
    assert internals.device(engine) == torch.device("cpu"), "engine.device: finite_weights looks on another device"
    held = internals.held_parameters(engine)
    for (name, parameter), part in zip(parameters(engine), held, strict=True):
        whole = parameter.ds_numel if stage == 3 else parameter.numel()
        assert part.numel() >= whole, f"{name}: finite_weights looks at {part.numel()} of {whole} elements"


@pytest.mark.parametrize("stage", PARTITIONED)
def test_a_step_with_a_gradient_that_is_no_number_is_left_out(
    make_engine: Callable, make_config: Callable[..., Config], stage: int
) -> None:
    config = make_config(f"deepspeed.zero_optimization.stage={stage}")
    engine = make_engine(config)
    assert internals.skipped_steps(engine) == 0, (
        "engine.skipped_steps counts from elsewhere: health.check_finite would fail"
    )
    before = full_state(engine)

    def spoil(loss: torch.Tensor) -> torch.Tensor:
        loss.register_hook(lambda gradient: gradient * torch.nan)
        return loss * 1.0

    step(engine, config, spoil)
    after = full_state(engine)
    left_out = all(torch.equal(after[name], before[name]) for name, _ in engine.module.network.named_parameters())
    assert left_out, (
        "DeepSpeed takes a step on a gradient that is not finite now, so finite_weights sees it: "
        f"remove skipped_steps from {OURS} and from training/health.py"
    )
    assert internals.skipped_steps(engine) == 1, (
        "DeepSpeed leaves a step out and does not count it in engine.skipped_steps: training/health.py misses it, "
        "and a run loses a batch without a word"
    )


@pytest.mark.parametrize("stage", PARTITIONED)
def test_the_base_optimizer_steps_on_the_flat_weights(written: Callable, stage: int) -> None:
    engine = written(stage).engine
    flats, optimizer = internals.flat_weights(engine), internals.base_optimizer(engine)
    assert type(optimizer) is torch.optim.SGD, "engine.optimizer.optimizer is not ours: full_state.py finds no momentum"
    assert len(flats) == 2, "one flat tensor a parameter group: reshard.py puts fragments into the wrong group"
    for flat in flats:
        assert "momentum_buffer" in optimizer.state[flat], (
            f"SGD's state does not belong to the tensors of flat_weights in {OURS}: momentum would be installed "
            "where no step reads it"
        )


@pytest.mark.parametrize("stage", [1, 2])
def test_a_fragment_says_where_the_parameter_lies_in_the_flat_weights(written: Callable, stage: int) -> None:
    engine = written(stage).engine
    flats, elements = internals.flat_weights(engine), 0
    for name, parameter in parameters(engine):
        part = internals.fragment(parameter)
        assert part is not None, f"{name}: a single rank owns all of it"
        assert parameter._hp_mapping.hp_fragment_address.numel == part.numel, (
            f"{name}: its two addresses differ in size"
        )
        inside = parameter.detach().flatten().narrow(0, part.offset, part.numel)
        assert torch.equal(flats[part.group].narrow(0, part.start, part.numel), inside), (
            f"{name}: _hp_mapping no longer says where it lies; reshard.py would install weights in wrong places"
        )
        elements += part.numel
    assert elements == sum(p.numel() for _, p in parameters(engine))


def test_a_shard_is_the_flattened_parameter_with_padding_at_its_end(written: Callable) -> None:
    engine = written(3).engine
    weights = full_state(engine)
    for name, parameter in engine.module.network.named_parameters():
        whole = weights[name].flatten()
        assert torch.equal(internals.shard(parameter).flatten()[: whole.numel()], whole), (
            f"{name}: ds_tensor is not a stretch of the flattened parameter; _install_shards in reshard.py cuts it so"
        )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_files_of_a_checkpoint(written: Callable, stage: int) -> None:
    files = {path.name for path in written(stage).folder.iterdir()}
    assert files == FILES[stage], f"DeepSpeed names its files otherwise: MODEL_STATES and the patterns in {OURS}"
    for file in files:
        # A rank fetches the files that name it or name no rank.
        assert rank_that_needs(file) == (0 if file.startswith("zero_pp_rank_0_") else None), (
            f"{file}: rank_of in {OURS}"
        )
    assert internals.rank_of(OPTIM.replace("pp_rank_0", "pp_rank_12")) == 12


def test_the_keys_of_a_checkpoint_without_zero(written: Callable) -> None:
    run = written(0)
    module, optimizer = internals.load_model_states(run.folder)
    assert module.keys() == run.engine.module.state_dict().keys(), "the key 'module': weights are read from it"
    assert len(optimizer["state"]) == len(list(parameters(run.engine))), "the key 'optimizer': momentum is read from it"
    assert all("momentum_buffer" in state for state in optimizer["state"].values()), "torch.optim.SGD: _MOMENTUM"


@pytest.mark.parametrize("stage", PARTITIONED)
def test_the_keys_of_an_optimizer_file(written: Callable, stage: int) -> None:
    run = written(stage)
    (file,) = internals.optimizer_files(run.folder, stage)
    momenta = [file.state["state"][k]["momentum_buffer"] for k in sorted(file.state["state"])]
    assert len(momenta) == len(file.weights) == 2, f"_WEIGHTS and _OPTIMIZER in {OURS} read other things now"
    for weights, momentum in zip(file.weights, momenta, strict=True):
        assert momentum.numel() >= weights.numel(), "read_state in full_state.py cuts momentum to the weights' length"
    assert read_module(run.folder, stage).keys() == run.engine.module.state_dict().keys()


def test_padding_is_still_dropped_from_the_weights_alone(group: None, tmp_path: Path) -> None:
    """A group of one weight, which DeepSpeed pads."""
    model = torch.nn.Linear(1, 1, bias=False)
    settings = {
        "train_batch_size": 1,
        "zero_optimization": {"stage": 2},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    engine.backward(engine(torch.ones(1, 1)).sum())
    engine.step()
    engine.save_checkpoint(str(tmp_path), tag="tag", save_latest=False)
    (file,) = internals.optimizer_files(tmp_path / "tag", 2)
    (weights,), momentum = file.weights, file.state["state"][0]["momentum_buffer"]
    assert len(internals.flat_weights(engine)[0]) == len(momentum) > 1, "DeepSpeed pads no more; see the next message"
    assert len(weights) == 1, (
        "DeepSpeed drops padding from momentum as from the weights, or from neither: "
        "remove the cut from read_state in training/checkpoint/full_state.py"
    )


@pytest.mark.parametrize("stage", PARTITIONED)
def test_weights_are_joined_as_deepspeed_joins_them(written: Callable, stage: int) -> None:
    """Its own reader would execute what the files tell it to. `distributed/test_ranks.py` has more ranks."""
    folder = written(stage).folder
    files = internals.optimizer_files(folder, stage)
    joined = internals.join(folder, stage, files, [file.weights for file in files])
    theirs = zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name)
    ours = read_module(folder, stage)
    assert ours.keys() == theirs.keys()
    assert joined.keys() == {name for name, _ in parameters(written(stage).engine)}
    for name, value in theirs.items():
        for found in (ours[name], joined.get(name, value)):
            assert found.dtype == value.dtype, name
            assert torch.equal(found, value), name


def test_what_does_not_train_is_in_the_model_files_of_zero_3(
    make_engine: Callable, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    engine = make_engine(make_config("deepspeed.zero_optimization.stage=3", "model.frozen=[conv1, layer1]"))
    engine.save_checkpoint(str(tmp_path), tag="tag", save_latest=False)
    frozen = {name: p for name, p in engine.module.named_parameters() if not p.requires_grad}
    found, weights = internals.frozen_weights(tmp_path / "tag", 1), full_state(engine)
    assert found.keys() == frozen.keys(), f"frozen_param_shapes names other parameters: frozen_weights in {OURS}"
    for name, value in found.items():
        assert torch.equal(value, weights[name.removeprefix("network.")]), f"frozen_param_fragments: {name}"
    assert read_module(tmp_path / "tag", 3).keys() == engine.module.state_dict().keys()


@pytest.mark.parametrize("stage", PARTITIONED)
def test_the_classes_in_an_optimizer_file_are_those_that_are_let_in(written: Callable, stage: int) -> None:
    found = set(torch.serialization.get_unsafe_globals_in_checkpoint(written(stage).folder / OPTIM))
    more = found - {
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    }
    assert not more, f"DeepSpeed writes objects of {more} now: load in {OURS} refuses every checkpoint with them"


@pytest.mark.parametrize(("old", "new"), [(0, 1), (0, 3), (1, 0), (2, 3), (3, 0), (3, 1)])
def test_a_checkpoint_of_another_stage_is_still_not_loaded(written: Callable, old: int, new: int) -> None:
    place, engine = written(old).folder.parent, written(new).engine
    try:
        loaded, _ = engine.load_checkpoint(str(place), tag="tag", load_lr_scheduler_states=False)
    except (FileNotFoundError, AttributeError, AssertionError):
        return
    finally:
        engine.load_checkpoint(str(written(new).folder.parent), tag="tag", load_lr_scheduler_states=False)
    pytest.fail(
        f"DeepSpeed loads a checkpoint of stage {old} at stage {new} now ({loaded}): if its momentum comes across, "
        "let `native` in training/checkpoint/restore.py say so, and see what is left of reshard.py"
    )


def test_the_universal_layout_still_knows_adam_alone() -> None:
    source = inspect.getsource(ds_to_universal)
    assert "exp_avg_sq" in source
    assert "momentum" not in source, (
        "DeepSpeed's universal layout knows SGD's momentum now: training/checkpoint/reshard.py may give way to it"
    )


def test_the_settings_that_we_write_are_known(make_config: Callable[..., Config]) -> None:
    """DeepSpeed ignores a key that it does not know: a clipping that is spelled wrongly would clip nothing."""
    config = make_config("deepspeed.zero_optimization.stage=2", "deepspeed.wall_clock_breakdown=false")
    settings = deepspeed_config(config, world_size=1, parameters=1000)
    known = {value for value in vars(constants).values() if isinstance(value, str)} | {"zero_optimization", TIMERS}
    assert settings.keys() <= known, f"unknown to DeepSpeed: {settings.keys() - known}; deepspeed_config in engine.py"
    assert settings["zero_optimization"].keys() <= DeepSpeedZeroConfig.model_fields.keys()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (deepspeed.initialize, {"model", "optimizer", "config"}),
        (deepspeed.init_distributed, {"dist_backend"}),
        (deepspeed.zero.GatheredParameters.__init__, {"params", "modifier_rank", "enabled"}),
        (deepspeed.DeepSpeedEngine.save_checkpoint, {"save_dir", "tag", "save_latest"}),
        (deepspeed.DeepSpeedEngine.load_checkpoint, {"load_dir", "tag", "load_lr_scheduler_states"}),
        (deepspeed.DeepSpeedEngine.is_gradient_accumulation_boundary, set()),
        (deepspeed.utils.safe_set_local_fp32_param, {"param", "value"}),
        (deepspeed.utils.safe_set_local_optimizer_state, {"param", "value", "optim_state_key"}),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_documented_functions_take_what_we_give(function: Callable, arguments: set[str]) -> None:
    missing = arguments - inspect.signature(function).parameters.keys()
    assert not missing, f"{function.__qualname__} no longer takes {missing}: engine.py or checkpoint/ call it so"
