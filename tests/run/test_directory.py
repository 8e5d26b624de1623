"""A run's directory: what is written when it is claimed, and what may change when it is continued."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from plca_dist.config import Config
from plca_dist.errors import UserError
from plca_dist.models.weights import to_bytes
from plca_dist.recipe import load
from plca_dist.run.directory import Run, open_run, portable
from plca_dist.training.attempts import recipe_of
from plca_dist.training.build import empty_network
from plca_dist.training.checkpoint.commit import Checkpoint, checkpoint_name, commit


@pytest.fixture
def settings(tmp_path: Path, toytown_settings: list[str]) -> list[str]:
    return [*toytown_settings, f"storage.uri={tmp_path}/runs"]


def config(settings: list[str], *more: str) -> Config:
    return load("toytown", [*settings, *more])


def claimed(config: Config, name: str, generation: int = 1) -> Run:
    run = open_run(config, name)
    run.claim(generation)
    return run


def test_a_claimed_run_holds_its_recipe_and_what_it_trains_on(settings: list[str], tmp_path: Path) -> None:
    run = claimed(config(settings), "a")
    assert not run.finished
    assert run.evaluation() is None
    assert sorted(p.name for p in (tmp_path / "runs" / "a").iterdir()) == ["attempts", "data.json", "recipe.yaml"]
    written = yaml.safe_load((tmp_path / "runs" / "a" / "recipe.yaml").read_text())
    assert Config.model_validate(written) == run.config
    assert set(json.loads((tmp_path / "runs" / "a" / "data.json").read_text())) == {"source", "target"}


def test_what_does_not_change_the_result_may_change(settings: list[str], tmp_path: Path) -> None:
    claimed(config(settings), "a")
    first = (tmp_path / "runs" / "a" / "recipe.yaml").read_bytes()
    changed = claimed(config(settings, "cluster.workers=1", "log.every=3", "checkpoint.every=7"), "a", 2)
    assert changed.config.cluster.workers == 1
    assert recipe_of(changed.store).log.every == 3
    assert (tmp_path / "runs" / "a" / "recipe.yaml").read_bytes() == first, "no attempt writes over another's"


def test_a_run_that_has_no_checkpoint_takes_another_recipe(settings: list[str]) -> None:
    run = claimed(config(settings, "seed=1"), "a")
    claimed(config(settings, "seed=2"), "a", 2)
    assert recipe_of(run.store).seed == 2
    checkpoint = Checkpoint(checkpoint_name(5, 1, 2), 5, 1, 0, "print", None, {"file": (1, "hash")})
    run.store.write(f"{checkpoint.place}/file", b"x")
    commit(run.store, checkpoint)
    with pytest.raises(UserError, match=r"another recipe: seed \(2 there, 3 here\)"):
        claimed(config(settings, "seed=3"), "a", 3)
    run.store.write(f"{checkpoint.place}/commit.json", b"damaged")
    with pytest.raises(UserError, match="another recipe: seed"):
        open_run(config(settings, "seed=3"), "a")


def test_a_key_at_its_default_is_shown_with_it(settings: list[str]) -> None:
    """An identity leaves later keys out where they have their defaults."""
    run = claimed(config(settings), "a")
    checkpoint = Checkpoint(checkpoint_name(5, 1, 1), 5, 1, 0, "print", None, {"file": (1, "hash")})
    run.store.write(f"{checkpoint.place}/file", b"x")
    commit(run.store, checkpoint)
    with pytest.raises(UserError, match=r"objective.class_mix \(0.0 there, 1.0 here\)"):
        open_run(config(settings, "objective.class_mix=1"), "a")


def of_before_cuts(run: Run) -> None:
    """Take `order.cut` out of the recipes that the run has kept, as they were before there was such a key."""
    for name in (e.name for e in run.store.list() if e.name.endswith("recipe.yaml")):
        tree = yaml.safe_load(run.store.read(name))
        del tree["order"]["cut"]
        run.store.write(name, yaml.safe_dump(tree).encode())


def test_a_run_keeps_the_cut_of_its_order(settings: list[str]) -> None:
    """The directory never changes its order: a run of before has the old cut, though its recipe does not say so."""
    old, new = claimed(config(settings), "old"), claimed(config(settings), "new")
    assert (old.config.order.cut, recipe_of(new.store).order.cut) == (2, 2)
    of_before_cuts(old)
    assert claimed(config(settings), "old", 2).config.order.cut == 1
    assert recipe_of(old.store).order.cut == 1
    assert open_run(config(settings), "old").config.fingerprint() == config(settings).fingerprint(), "as it was"
    assert open_run(config(settings), "new").config.fingerprint() != config(settings, "order.cut=1").fingerprint()
    for run, other in ((old, 2), (new, 1)):
        checkpoint = Checkpoint(checkpoint_name(5, 1, 2), 5, 1, 0, "print", None, {"file": (1, "hash")})
        run.store.write(f"{checkpoint.place}/file", b"x")
        commit(run.store, checkpoint)
        assert open_run(config(settings), run.name).config.order.cut == 3 - other
        with pytest.raises(UserError, match=rf"another recipe: order.cut \({3 - other} there, {other} here\)"):
            open_run(config(settings, f"order.cut={other}"), run.name)


def test_a_run_without_a_target_names_no_target(settings: list[str], tmp_path: Path) -> None:
    off = ("objective.association=0", "objective.smoothing=0")
    run = claimed(config(settings, *off, "target.uri=nowhere"), "source-only")
    assert set(json.loads(run.store.read("data.json"))) == {"source"}
    claimed(config(settings, *off), "source-only")


def test_a_run_claimed_half_can_be_claimed_again(settings: list[str], tmp_path: Path) -> None:
    """Killed between its two files: the recipe, which makes it a run, comes last."""
    run = claimed(config(settings), "a")
    run.store.delete("recipe.yaml")
    claimed(config(settings, "seed=1"), "a")


def weights_in(folder: Path, seed: int, settings: list[str]) -> str:
    made = config(settings)
    torch.manual_seed(seed)
    folder.mkdir()
    file = folder / "model.safetensors"
    file.write_bytes(to_bytes(empty_network(made), made.label_set.classes))
    return f"model.weights={file}"


def test_weights_are_told_apart_by_their_content(settings: list[str], tmp_path: Path) -> None:
    """Those of all runs have one file name, and a file may lie elsewhere when a run is continued."""
    one, same, other = (weights_in(tmp_path / name, seed, settings) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    run = claimed(config(settings, one), "run")
    checkpoint = Checkpoint(checkpoint_name(5, 1, 1), 5, 1, 0, "print", None, {"file": (1, "hash")})
    run.store.write(f"{checkpoint.place}/file", b"x")
    commit(run.store, checkpoint)
    open_run(config(settings, same), "run")
    with pytest.raises(UserError, match=r"another recipe: the content of model\.weights\. Give"):
        open_run(config(settings, other), "run")
    kept = json.loads(run.store.read("data.json"))
    run.store.write("data.json", json.dumps({k: v for k, v in kept.items() if k != "weights"}).encode())
    open_run(config(settings, other), "run")  # begun by a version that kept no mark


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "-x", "x" * 101, "ü"])
def test_names_that_would_be_no_directory_are_refused(name: str, settings: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run name"):
        claimed(config(settings), name)
    assert not (tmp_path / "runs").exists()


def test_settings_mean_the_same_on_every_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    made = portable(load("toytown", ["data=shards", "model.weights=w/x.pth"]))
    assert (made.data, made.storage.uri) == (f"{tmp_path}/shards", f"{tmp_path}/runs")
    assert made.model.weights == f"{tmp_path}/w/x.pth"
    assert made.storage.endpoint == "http://general"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://special")
    made = portable(load("toytown", ["data=s3://b/d", "storage.uri=s3://b/r", "model.weights=s3://b/w.pth"]))
    assert (made.data, made.storage.uri, made.model.weights) == ("s3://b/d", "s3://b/r", "s3://b/w.pth")
    assert made.storage.endpoint == "http://special"
    assert portable(load("toytown", ["storage.endpoint=http://mine"])).storage.endpoint == "http://mine"
    assert portable(made) == made


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["model.backbone=timm/resnet_18"],
            r"backbone 'timm/resnet_18' is unknown to timm .* Did you mean 'timm/resnet",
        ),
        (["model.backbone=timm/test_vit"], r"model.stride = 8: timm/test_vit cannot give .* set model.stride=16\.$"),
        (
            ["model.backbone=timm/test_vit", "model.stride=16", "source.crop=[32, 72]"],
            r"source.crop = \[32, 72\]: .* pieces of 16 x 16 pixels, .* set it to \[32, 64\]",
        ),
        (
            ["model.backbone=timm/test_convnext", "evaluation.size=[90, 192]"],
            r"evaluation.size = \[90, 192\]: .* must be multiples of 8; set it to \[88, 192\]",
        ),
    ],
)
def test_a_network_that_cannot_be_or_does_not_take_the_images_starts_nothing(
    settings: list[str], tmp_path: Path, more: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_run(config(settings, *more), "a")
    assert not (tmp_path / "runs").exists()


def test_the_hub_is_no_path(settings: list[str]) -> None:
    of_timm = config(settings, "model.backbone=timm/test_resnet", "model.weights=hub")
    assert portable(of_timm).model.weights == "hub"
    assert portable(config(settings, "model.weights=hub.pth")).model.weights == str(Path.cwd() / "hub.pth")
