"""Recipes, overrides and errors: what is refused, and what the message says."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import yaml

from plca_dist.config import LATER, Config
from plca_dist.errors import UserError
from plca_dist.method.objective import ABLATION, Objective
from plca_dist.method.settings import ObjectiveSettings
from plca_dist.recipe import documented_keys, load, parse, recipes
from plca_dist.storage import resolve

MINIMAL = "source: {uri: a, crop: [16, 16]}\ntarget: {uri: b, crop: [16, 16]}\nschedule: {steps: 10}\n"


@pytest.mark.parametrize("name", sorted(recipes()))
def test_shipped_recipes_load_and_say_what_they_cost(name: str) -> None:
    config = load(name)
    assert all([config.about.summary, config.about.command, config.about.cost, config.about.score])
    assert name in config.about.command
    config.accumulation(config.cluster.workers)
    assert parse(config.to_yaml()) == config  # a resolved recipe is a recipe


@pytest.mark.parametrize(
    ("name", "classes", "steps", "poly"),
    [("gtav_to_cityscapes", "cityscapes", 10416, 11160), ("synthia_to_cityscapes", "synthia", 2976, 3720)],
)
def test_paper_recipes_hold_the_papers_settings(name: str, classes: str, steps: int, poly: int) -> None:
    config = load(name)
    assert (config.labels, config.schedule.steps, config.schedule.poly_steps) == (classes, steps, poly)
    assert asdict(config.objective).items() >= {
        "lovasz": 0.75, "association": 0.1, "smoothing": 0.01, "aggregation": 0.5, "smoothness": 10.0,
    }.items()  # fmt: skip
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay, config.schedule.power) == (2.5e-4, 0.9, 5e-4, 0.9)
    assert config.batch.pairs == 8
    for domain in (config.source, config.target):
        assert (domain.shorter_edge, domain.crop, domain.flip) == ((760, 988), (730, 730), True)
    assert config.evaluation.size == (730, 1460)
    assert (config.model.backbone, config.model.rates) == ("resnet101", (6, 12, 18, 24))


def test_objective_section_has_the_objectives_own_settings_and_defaults() -> None:
    section = parse(MINIMAL).objective
    assert asdict(section) == asdict(ObjectiveSettings())
    assert Objective(section).settings is section
    for row in ABLATION.values():
        assert asdict(parse(MINIMAL, [f"objective={json.dumps(row)}"]).objective) == asdict(ObjectiveSettings(**row))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("objectiv.lovasz=1", ["unknown key 'objectiv'", "'objective'"]),
        ("objective.lovas=1", ["objective.lovas", "'objective.lovasz'"]),
        ("lovasz=1", ["unknown key 'lovasz'", "'objective.lovasz'"]),
        ("objective.aggregation=1.5", ["objective.aggregation = 1.5", "less than 1"]),
        ("schedule.steps=many", ["schedule.steps = 'many'", "integer"]),
        ("model.backbone=resnet42", ["model.backbone = 'resnet42'", "resnet"]),
        ("model.backbone=tim/resnet18", ["model.backbone = 'tim/resnet18'", "timm/NAME"]),
        ("model.stride=3", ["model.stride = 3", "greater than or equal to 4"]),
        ("model.stride=16", ["model: stride 16 is for timm/NAME; backbone 'resnet101' has 8"]),
        ("model.head=multi", ["model.head = 'multi'", "Did you mean 'multilevel'?"]),
        ("model.weights=hub", ["model: weights 'hub' are for timm/NAME; name a file for backbone 'resnet101'"]),
        (
            "model={backbone: timm/x, style: caffe}",
            ["style 'caffe' is for the ResNets here; timm/x has"],
        ),
        (
            "optimizer.betas=[0.9, 0.95]",
            ["betas (0.9, 0.95) is an option of adamw; set kind=adamw, or leave"],
        ),
        ("optimizer.layer_decay=0.75", ["optimizer: layer_decay 0.75 is an option of adamw"]),
        ("optimizer={kind: adamw, momentum: 0.8}", ["optimizer: momentum 0.8 is an option of sgd"]),
        ("optimizer.kind=adam", ["optimizer.kind = 'adam'", "'sgd' or 'adamw'"]),
        ("optimizer={kind: adamw, betas: [0.9, 1.0]}", ["optimizer.betas.1 = 1.0", "less than 1"]),
        ("schedule.warmup=-1", ["schedule.warmup = -1", "greater than or equal to 0"]),
        ("labels=cityscape", ["labels = 'cityscape'", "Did you mean 'cityscapes'"]),
        ("objective.backend=fast", ["objective.backend = 'fast'", "dense"]),
        ("objective.backend=dens", ["objective.backend = 'dens'", "Did you mean 'dense'?"]),
        ("objective.lovasz=-1", ["objective.lovasz = -1: input should be greater than or equal to 0."]),
        ("objective.smoothness=.inf", ["objective.smoothness = inf", "finite"]),
        ("objective.lovasz_scope=rank", ["objective.lovasz_scope = 'rank'", "'image' or 'batch'"]),
        ("objective.products=bf61", ["objective.products = 'bf61'", "bf16"]),
        ("objective={backend: dense, products: tf32}", ["'dense' multiplies in float32 only, not in tf32"]),
        ("source.shorter_edge=[20, 10]", ["source: shorter_edge [20, 10]", "0 < low <= high"]),
        ("source.crop=[4, 16]", ["crop [4, 16]", "8"]),
        ("schedule.poly_steps=5", ["poly_steps 5", "steps 10"]),
        ("deepspeed.train_batch_size=4", ["deepspeed", "train_batch_size", "zero_optimization"]),
        ("deepspeed.zero_optimization.stage=4", ["zero_optimization.stage", "0, 1, 2, 3"]),
        ("precision=float16", ["precision = 'float16'", "bfloat16"]),
        ("seed", ["--set 'seed'", "key=value"]),
        ("seed.deep=1", ["seed"]),
    ],
)
def test_bad_settings_are_refused_in_one_line(override: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse("seed: 0\n" + MINIMAL, [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_overrides_reach_every_documented_key() -> None:
    config = parse(MINIMAL)
    for key, description, _ in documented_keys():
        value: object = config
        for part in key.split("."):
            value = getattr(value, part)
        assert description, f"{key} has no description"
        if value is None:
            continue
        text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
        if isinstance(value, tuple):
            text = str(list(value))
        assert parse(MINIMAL, [f"{key}={text}"]) == config


def test_a_recipe_may_lie_in_a_bucket(s3: object) -> None:
    written = load("toytown", ["seed=5"])
    resolve("s3://bucket/searches").write("best.yaml", written.to_yaml().encode())
    assert load("s3://bucket/searches/best.yaml") == written
    assert load("s3://bucket/searches/best.yaml", ["seed=6"]).seed == 6
    with pytest.raises(UserError, match=r"recipe s3://bucket/searches/worst.yaml does not exist"):
        load("s3://bucket/searches/worst.yaml")
    with pytest.raises(UserError, match="the bucket does not exist"):
        load("s3://nowhere/best.yaml")


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"shipped: .*Did you mean 'toytown'"):
        load("toytwon")


@pytest.mark.parametrize("text", ["- a", "a: [", "just words"])
def test_what_is_no_recipe_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse(text)


def test_identities_of_the_shipped_recipes_stay() -> None:
    """A run is continued where its identity is the same: what changes one of these strands every run of that recipe."""
    assert {name: load(name).fingerprint() for name in recipes()} == {
        "camvid": "8ba5182241a57886",
        "camvid_to_idd": "8b80d4878b61b58c",
        "gtav_to_cityscapes": "c7ec71f00c0c1da7",
        "idd_to_camvid": "8b80d4878b61b58c",
        "own_data": "dda60ff6a336e624",
        "synthia_to_cityscapes": "7e2739c47a7200fa",
        "toytown": "445255c6ff2a76fb",
    }


def test_keys_that_came_later_change_no_identity_at_their_defaults() -> None:
    """Else a run of before could not be continued: the keys of its recipe's identity are what they were."""
    config = parse(MINIMAL)
    defaults = {key: default for key, _, default in documented_keys()}
    assert json.dumps({key: defaults[key] for key in LATER}) == json.dumps(LATER)
    assert not LATER.keys() & config.identity().keys()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["objective.pseudo_labels=1", "self_training.size=[100000, 64]"],
            "size.*each side must be from 8 .* to 16384",
        ),
        (["objective.pseudo_labels=1", "self_training.size=[4, 64]"], "size.*each side must be from 8 .* to 16384"),
        (["objective.class_mix=1", "teacher={ignore_top: 0.6, ignore_bottom: 0.4}"], "leave no pixel between them"),
        (["rare_class_sampling.temperature=1e-320"], "temperature"),
        (["objective.pseudo_labels=1", "self_training={kind: lrent, temperature: 1e-50}"], "temperature"),
        (["objective.adversarial=1", "adversary.lr=1e38"], "adversary.lr"),
    ],
)
def test_values_that_no_run_could_use_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(MINIMAL, given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("teacher.decay=0.9", "teacher.decay is an option of objective.class_mix or objective.masked_consistency, wh"),
        ("teacher.blur=false", "teacher.blur is an option of"),
        ("masking.ratio=0.5", "masking.ratio is an option of objective.masked_consistency, which is off; set that, or"),
        ("feature_distance.classes=[car]", "feature_distance.classes is an option of objective.feature_distance, wh"),
        ("rare_class_sampling.crops=3", "crops is an option of rare class sampling; set temperature, or leave it out"),
    ],
)
def test_an_option_without_its_term_is_refused(given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(MINIMAL, [given])
    terms = [
        "objective.class_mix=1",
        "objective.masked_consistency=1",
        "objective.feature_distance=0.1",
        "model.weights=x",
    ]
    parse(MINIMAL, [given, *terms, "rare_class_sampling.temperature=0.01"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"objective.feature_distance wants model.weights to stay near; set that, or leave it out"),
        (["model.weights=x", "model.head=multilevel"], r"wants model.head deeplab, whose features they have; set that"),
    ],
)
def test_feature_distance_needs_features_that_mean_something(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(MINIMAL, ["objective.feature_distance=0.005", *given])


def test_reading_settings_imports_nothing_heavy() -> None:
    code = (
        "import plca_dist.config, sys; print(*({'torch', 'numpy', 'pyarrow', 'ray', 'deepspeed'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []


def test_identity_is_the_result_and_not_the_place() -> None:
    config = parse(MINIMAL)
    same = [
        "cluster.workers=7", "storage.uri=s3://b/x", "data=elsewhere", "checkpoint.every=3", "evaluation.every=9",
        "deepspeed.zero_optimization.stage=2",
    ]  # fmt: skip
    assert parse(MINIMAL, same).fingerprint() == config.fingerprint()
    for other in (
        "seed=1", "objective.lovasz=0.5", "batch.pairs=4", "optimizer.lr=0.1", "source.flip=false",
        "model.head=multilevel", "model.frozen=[layer1]", "optimizer.kind=adamw", "schedule.warmup=2",
        "deepspeed.zero_optimization.zero_quantized_weights=true",
    ):  # fmt: skip
        assert parse(MINIMAL, [other]).fingerprint() != config.fingerprint(), other


@pytest.mark.parametrize(
    ("pairs", "micro", "world", "expected"), [(8, 1, 4, (1, 2)), (8, None, 2, (4, 1)), (6, 3, 1, (3, 2))]
)
def test_accumulation_follows_from_the_global_batch(
    pairs: int, micro: int | None, world: int, expected: tuple[int, int]
) -> None:
    config = parse(MINIMAL, [f"batch.pairs={pairs}", *([f"batch.micro={micro}"] if micro else [])])
    assert config.accumulation(world) == expected


def test_batches_that_do_not_divide_are_refused_with_the_numbers() -> None:
    with pytest.raises(UserError, match=r"batch.pairs = 8 cannot be split over 3 workers.*1, 2, 4, 8"):
        parse(MINIMAL).accumulation(3)
    with pytest.raises(UserError, match=r"batch.micro = 3 does not divide the 4 pairs"):
        parse(MINIMAL, ["batch.micro=3"]).accumulation(2)


def test_relative_shards_lie_below_data() -> None:
    config: Config = parse(MINIMAL, ["data=s3://bucket/shards/"])
    assert config.data_uri("gta5") == "s3://bucket/shards/gta5"
    assert config.data_uri("/abs") == "/abs"
    assert config.data_uri("s3://other/x") == "s3://other/x"


def test_a_range_of_workers_takes_the_sizes_that_divide_the_batch() -> None:
    config = load("toytown", ["batch.pairs=8", "cluster.workers=[2, 6]"])
    assert config.world_sizes == (2, 4)
    assert load("toytown", ["batch.pairs=8", "cluster.workers=4"]).world_sizes == (4,)
    with pytest.raises(UserError, match=r"batch.pairs = 8 cannot be split over 6 workers"):
        _ = load("toytown", ["batch.pairs=8", "cluster.workers=[5, 6]"]).world_sizes


@pytest.mark.parametrize("value", ["0", "[0, 2]", "[2, 1]", "[1, 2, 3]", "[]", "two", "true", "1.5"])
def test_workers_are_a_number_or_a_range(value: str) -> None:
    with pytest.raises(UserError, match=r"cluster.workers = .*: must be a number of at least 1, or a range"):
        load("toytown", [f"cluster.workers={value}"])


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "+1e-4", "1.e-4", ".1e-3", "1.0e-4", "0.0001"])
def test_a_number_is_written_as_in_python(text: str) -> None:
    assert load("toytown", [f"optimizer.lr={text}"]).optimizer.lr == 1e-4
