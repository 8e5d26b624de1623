"""A run begins with the weights of another one, by whatever name `plca evaluate` takes them too."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plca_dist.config import Config
from plca_dist.data.label_file import label_set_from
from plca_dist.data.label_record import own_record
from plca_dist.errors import UserError
from plca_dist.models.deeplab import build_network
from plca_dist.models.weights import to_bytes
from plca_dist.storage import Location
from plca_dist.training.trained import fresh_network, load_trained

NAME = "step-00000004-of-1-g1"


@pytest.fixture(scope="module")
def run(train: Callable, make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps, with a checkpoint of four."""
    return train(make_config("checkpoint.keep=9"), tmp_path_factory.mktemp("run")).path


@pytest.fixture(autouse=True)
def _recipe(run: Path, make_config: Callable[..., Config]) -> None:
    (run / "recipe.yaml").write_text(make_config("checkpoint.keep=9").to_yaml())


@pytest.mark.parametrize("place", ["", "/", "/model.safetensors", f"/checkpoints/{NAME}", f"/checkpoints/{NAME}/"])
def test_a_run_begins_with_what_another_one_has(place: str, run: Path, make_config: Callable[..., Config]) -> None:
    began = fresh_network(make_config(f"model.weights={run}{place}")).state_dict()
    wanted = load_trained(Location(f"{run}{place.rstrip('/')}")).network.state_dict()
    assert began.keys() == wanted.keys()
    assert all(torch.equal(began[key], wanted[key]) for key in wanted)


def test_weights_of_an_own_label_set_know_it_by_themselves(tmp_path: Path) -> None:
    labels = label_set_from({"classes": ["background", {"name": "road", "same_as": "street"}]}, "mine.yaml")
    network = build_network("tiny", 2, style="torchvision", rates=(1, 2))
    (tmp_path / "w.safetensors").write_bytes(to_bytes(network, labels.classes, own_record(labels)))
    found = load_trained(Location(f"{tmp_path}/w.safetensors")).labels
    assert (found.name, found.classes, found.palette) == ("mine", labels.classes, labels.palette)
    assert found.same_as == labels.same_as
    (tmp_path / "w.safetensors").write_bytes(to_bytes(network, labels.classes))
    with pytest.raises(UserError, match=r"knows classes of no label set here: background, road\.$"):
        load_trained(Location(f"{tmp_path}/w.safetensors"))


def test_steps_differ(run: Path, make_config: Callable[..., Config]) -> None:
    """So that the test above tells a checkpoint from the result."""
    last, earlier = (
        next(fresh_network(make_config(f"model.weights={place}")).parameters())
        for place in (run, f"{run}/checkpoints/{NAME}")
    )
    assert not torch.equal(last, earlier)


@pytest.mark.parametrize(
    ("place", "more", "message"),
    [
        ("nowhere", (), "nowhere does not exist; name a weight file .* a run's directory or one of its checkpoints"),
        ("run/checkpoints/step-00000005-of-1-g1", (), "step-00000005-of-1-g1 does not exist"),
        ("run/attempts", (), "attempts is no run"),
        ("run", ("model.rates=[1, 2]",), r"holds another network: rates \(1, 2, 4\) in the file, \(1, 2\) here"),
        (f"run/checkpoints/{NAME}", ("model.rates=[1, 2]",), r"holds another network: rates \(1, 2, 4\)"),
        ("unfinished", (), "the run has not finished; .*name one of its checkpoints/"),
    ],
)
def test_what_cannot_be_begun_with_is_refused(
    place: str, more: tuple[str, ...], message: str, run: Path, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    (tmp_path / "run").symlink_to(run)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "recipe.yaml").write_text(make_config().to_yaml())
    with pytest.raises(UserError, match=message) as error:
        fresh_network(make_config(f"model.weights={tmp_path}/{place}", *more))
    assert "\n" not in str(error.value)
