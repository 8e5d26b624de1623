"""Methods over recipes: each loads over every recipe, holds what was published, and is found by its name."""

from pathlib import Path

import pytest

from plca_dist.errors import UserError
from plca_dist.method.objective import ABLATION
from plca_dist.method.published import METHODS, NOT_BUILT
from plca_dist.methods import PAPER, method, methods, run_name, split
from plca_dist.recipe import load, parse, recipes
from plca_dist.search.space import load_space, parse_space

#: What of the objective is on beside cross-entropy, and the options that tell methods apart.
TERMS = {
    "source_only": {},
    "adaptseg": {"adversarial": 0.001},
    "minent": {"entropy": 0.001},
    "advent": {"adversarial": 0.001},
    "max_square": {"max_square": 0.1},
    "max_square_iw": {"max_square": 0.1},
    "cbst": {"pseudo_labels": 1.0},
    "lrent": {"pseudo_labels": 1.0},
    "mrkld": {"pseudo_labels": 1.0},
    "fda": {"entropy": 0.005},
}


@pytest.mark.parametrize("recipe", recipes())
@pytest.mark.parametrize("name", methods())
def test_every_method_is_a_recipe_over_every_recipe(recipe: str, name: str) -> None:
    config = load(f"{recipe}/{name}")
    assert all([config.about.summary, config.about.command, config.about.cost, config.about.score])
    assert f"plca train {recipe}/{name}" in config.about.command
    config.accumulation(config.cluster.least_workers)
    if recipe not in PAPER:  # the same data, network, optimizer and length: rows can be compared
        plain = load(recipe)
        for section in ("target", "model", "optimizer", "schedule", "batch", "order", "evaluation", "seed"):
            assert getattr(config, section) == getattr(plain, section)


@pytest.mark.parametrize(("name", "weights"), TERMS.items())
def test_rivals_have_their_term_and_no_other(name: str, weights: dict[str, float]) -> None:
    objective = load(f"toytown/{name}").objective
    terms = ("lovasz", "association", "smoothing", "class_mix", "masked_consistency", "feature_distance",
             "entropy", "max_square", "adversarial", "pseudo_labels")  # fmt: skip
    assert {t: getattr(objective, t) for t in terms if getattr(objective, t)} == weights


@pytest.mark.parametrize("name", methods())
def test_a_method_is_the_same_over_a_recipe_that_has_other_terms(name: str) -> None:
    """Else `RECIPE/source_only` would train with whatever the recipe has beside Eq. 14, under a name that says no."""
    other = [
        "objective.class_mix=0.5", "objective.masked_consistency=0.5", "teacher.decay=0.9", "masking.block=16",
        "objective.entropy=0.5", "objective.entropy_penalty=robust", "objective.max_square=0.5",
        "objective.image_weights=true", "objective.adversarial=0.5", "adversary.sees=probability", "adversary.lr=0.5",
        "objective.pseudo_labels=0.5", "self_training.rounds=2", "rare_class_sampling.temperature=0.5",
        "rare_class_sampling.crops=3", "source.fourier=0.05",
    ]  # fmt: skip
    text = recipes()["toytown"].read_text()
    plain = parse(text, method=method(name))
    full = parse(parse(text, other).to_yaml(), method=method(name))
    assert full.objective == plain.objective
    assert full.source == plain.source
    kept = ("decay", "block", "lr", "rounds", "crops")  # options of terms that the method has: the recipe's
    for section in ("teacher", "masking", "adversary", "self_training", "rare_class_sampling", "feature_distance"):
        assert set(getattr(full, section).given()) <= {*getattr(plain, section).given(), *kept}


def test_the_paper_s_ablation_is_of_eq_14_alone() -> None:
    text = recipes()["toytown"].read_text()
    mixed = parse(text, ["objective.class_mix=1", "teacher.threshold=0.8", "rare_class_sampling.temperature=0.01"])
    for values in load_space("ablation").grid_values():
        config = load_space("ablation").trial_config(mixed, values)
        assert (config.objective.class_mix, config.rare_class_sampling.temperature) == (0, None)


def test_methods_of_one_term_differ_in_their_option() -> None:
    of = {name: load(f"toytown/{name}") for name in methods()}
    assert (of["adaptseg"].adversary.sees, of["advent"].adversary.sees) == ("probability", "entropy")
    assert [of[n].self_training.kind for n in ("cbst", "lrent", "mrkld")] == ["cbst", "lrent", "mrkld"]
    assert [of[n].objective.image_weights for n in ("max_square", "max_square_iw")] == [False, True]
    assert (of["fda"].source.fourier, of["fda"].objective.entropy_penalty) == (0.01, "robust")
    assert of["plca"].fingerprint() == load("toytown").fingerprint()
    composed = load("toytown/plca_class_mix_rare_masked")
    assert composed.objective.association == load("toytown").objective.association > 0
    assert (composed.objective.class_mix, composed.objective.masked_consistency) == (1, 1)
    assert (composed.rare_class_sampling.temperature, composed.rare_class_sampling.pixels) == (0.01, 100)


@pytest.mark.parametrize("name", [name for name in methods() if "rare" in name])
def test_a_rare_class_fills_as_much_of_an_image_at_any_scale(name: str) -> None:
    drawn = load(f"toytown/{name}").rare_class_sampling
    assert (drawn.temperature, drawn.pixels) == (0.01, 100)
    assert load(f"gtav_to_cityscapes/{name}").rare_class_sampling.pixels == 3000


def test_rivals_at_the_paper_s_scale_have_their_authors_settings_and_scores() -> None:
    advent = load("gtav_to_cityscapes/advent")
    assert (advent.batch.pairs, advent.schedule.steps, advent.schedule.poly_steps) == (1, 120_000, 250_000)
    assert (advent.source.crop, advent.target.crop, advent.adversary.lr) == ((720, 1280), (512, 1024), 1e-4)
    assert advent.about.score.startswith("43.8 mIoU (published")
    assert load("synthia_to_cityscapes/advent").about.score.startswith("40.8 mIoU (published")
    mrkld = load("gtav_to_cityscapes/mrkld")
    first, length = mrkld.self_training.rounds_of(mrkld.schedule.steps)
    assert (first, length, mrkld.self_training.rounds) == (0, 2 * 2975, 3), "three rounds of two epochs"
    assert (mrkld.optimizer.lr, mrkld.schedule.power) == (5e-5, 0)
    assert mrkld.about.score.startswith("47.4 mIoU")
    assert "model.weights" in mrkld.about.summary
    assert load("synthia_to_cityscapes/mrkld").labels == "synthia"
    assert load("synthia_to_cityscapes/mrkld").about.score.startswith("none published")
    assert load("synthia_to_cityscapes/source_only").about.score.startswith("35.4 mIoU")
    assert load("gtav_to_cityscapes/plca").about.score.startswith("47.7 mIoU (published, with aggregation")


def test_published_rows_are_of_methods_or_of_what_is_not_built() -> None:
    assert METHODS.keys() <= methods().keys()
    assert not NOT_BUILT.keys() & methods().keys()
    assert {"clan", "dise", "ssf_dan", "patch_align"} <= NOT_BUILT.keys()
    assert methods().keys() & ABLATION.keys() == {"source_only", "plca"}


def test_a_method_goes_with_a_file_of_one_s_own_and_overrides_come_last(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(load("toytown", ["seed=7"]).to_yaml())
    config = load(f"{mine}/minent", ["objective.entropy=0.5"])
    assert (config.seed, config.objective.entropy, config.objective.lovasz) == (7, 0.5, 0)
    assert run_name(f"{mine}/minent") == "mine-minent"
    assert [run_name(r) for r in ("toytown", "toytown/advent", "a/b.yaml")] == ["toytown", "toytown-advent", "b"]
    assert split("a/b.yaml") == ("a/b.yaml", None)


def test_an_unknown_method_is_named_with_the_nearest(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(load("toytown").to_yaml())
    for recipe in ("toytown", mine):
        with pytest.raises(UserError, match=r"method 'advnt' is unknown; known: .* Did you mean 'advent'\?"):
            load(f"{recipe}/advnt")
    with pytest.raises(UserError, match=r"recipe 'toytwn' does not exist.*Did you mean 'toytown'\?"):
        load("toytwn/advent")


def test_a_file_called_as_a_method_is_a_recipe(tmp_path: Path) -> None:
    mine = tmp_path / "plca"
    mine.write_text(load("toytown", ["seed=7"]).to_yaml())
    assert load(str(mine)).seed == 7


@pytest.mark.parametrize("name", ["plca", "plca_rare", "plca_class_mix"])
def test_plca_is_not_trained_over_a_recipe_without_it(tmp_path: Path, name: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(load("toytown/source_only").to_yaml())
    with pytest.raises(UserError, match=rf"objective\.association is 0, so nothing of PLCA would be in {name}"):
        load(f"{mine}/{name}")
    load(f"{mine}/class_mix")
    with pytest.raises(UserError, match=r"the same over this recipe: .*'plca'.*; take one of them away"):
        load_space("methods").check(load("toytown/minent"))
    space = parse_space("metric: target_miou\nalgorithm: grid\nmethod: minent\nvariants: [source_only, plca]\n")
    with pytest.raises(UserError, match="two trials of the grid would be the same"):
        space.check(load("toytown"))


def test_a_method_goes_with_a_recipe_that_has_options_of_another_kind() -> None:
    text = recipes()["toytown"].read_text()
    for mine in ("kind: lrent, temperature: 0.1", "kind: mrkld, smoothness: 0.1"):
        other = parse(text, ["objective.pseudo_labels=1", f"self_training={{{mine}, rounds: 2}}"]).to_yaml()
        for name in ("cbst", "mrkld", "lrent"):
            settings = parse(other, method=method(name)).self_training
            assert (settings.kind, settings.rounds) == (name, 2)
            assert set(settings.given()) <= {"kind", "rounds", *mine.replace(":", "").replace(",", "").split()}


@pytest.mark.parametrize("name", methods())
def test_the_command_of_a_method_is_one_that_runs(name: str) -> None:
    command = load(f"toytown/{name}").about.command
    assert command == f"plca shards toytown --out data/toytown && plca train toytown/{name}"
    assert load(f"camvid/{name}").about.command.startswith(f"plca train camvid/{name}")


def test_a_space_takes_methods_by_name() -> None:
    space = load_space("methods")
    assert list(space.variants) == list(methods())
    assert space.variants == {name: method.settings for name, method in methods().items()}
    toytown = load("toytown")
    config = space.trial_config(toytown, {"variant": "advent", "seed": 2})
    assert config.objective == load("toytown/advent").objective
    with pytest.raises(UserError, match=r"variants.*method 'minnet' is unknown.*Did you mean 'minent'\?"):
        parse_space("metric: target_miou\nalgorithm: grid\nvariants: [minnet]\n")
    with pytest.raises(UserError, match=r"variants.*plca is listed twice"):
        parse_space("metric: target_miou\nalgorithm: grid\nvariants: [plca, minent, plca]\n")
