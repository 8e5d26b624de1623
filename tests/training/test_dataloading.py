"""Data is looked at before anything starts, and every rank reads its part of the same batches."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

from plca_dist.config import Config
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.shards import read_manifest
from plca_dist.data.stream import Batch
from plca_dist.errors import UserError
from plca_dist.storage import resolve
from plca_dist.training.dataloading import check_data, open_stream

MakeConfig = Callable[..., Config]


def refused(config: Config, *, with_target: bool = True) -> str:
    with pytest.raises(UserError) as error:
        check_data(config, with_target=with_target)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_good_data_passes_and_is_told_apart_by_content(make_config: MakeConfig, shards: Path) -> None:
    config = make_config("evaluation.uri=val")
    prints = check_data(config, with_target=True)
    for name in ("source", "target"):
        assert prints[name] == read_manifest(resolve(str(shards / name))).fingerprint()
    assert prints["source"] != prints["target"]
    assert check_data(config, with_target=False) == {"source": prints["source"]}


def test_target_labels_must_not_reach_training(make_config: MakeConfig, shards: Path) -> None:
    message = refused(make_config("target.uri=val"))
    assert f"{shards}/val" in message
    assert "--no-labels" in message
    check_data(make_config("target.uri=val"), with_target=False)  # where no target is read, none is asked for


def test_criteria_need_the_target_even_where_training_does_not(
    make_config: MakeConfig, shards: Path, tmp_path: Path
) -> None:
    wanted = "evaluation.unlabelled=4"
    prints = check_data(make_config(wanted), with_target=False)
    assert list(prints) == ["source"], "what is measured does not decide the weights"
    assert f"{shards}/val holds labels" in refused(make_config(wanted, "target.uri=val"), with_target=False)
    missing = refused(make_config(wanted, f"target.uri={tmp_path}"), with_target=False)
    assert f"no manifest.json under {tmp_path}" in missing
    check_data(make_config(f"target.uri={tmp_path}"), with_target=False)
    raw = json.loads((shards / "target" / "manifest.json").read_text()) | {"rows": 0, "shards": []}
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    message = refused(make_config(wanted, f"target.uri={tmp_path}"), with_target=False)
    assert f"{tmp_path} holds no images" in message
    assert "evaluation.unlabelled = 4" in message


def test_a_source_without_labels(make_config: MakeConfig, shards: Path) -> None:
    message = refused(make_config("source.uri=target"))
    assert f"{shards}/target holds no labels" in message
    assert "--no-labels" in message


def test_an_evaluation_set_without_labels(make_config: MakeConfig, shards: Path) -> None:
    assert f"{shards}/target holds no labels" in refused(make_config("evaluation.uri=target"))


@pytest.mark.parametrize("key", ["source.uri", "evaluation.uri"])
def test_no_class_in_common(make_config: MakeConfig, shards: Path, tmp_path: Path, key: str) -> None:
    place = tmp_path / "other"
    place.mkdir()
    for file in (shards / "source").iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    classes = read_manifest(resolve(str(place))).classes
    text = (place / "manifest.json").read_text()
    for name in classes:
        text = text.replace(f'"{name}"', f'"not {name}"')
    (place / "manifest.json").write_text(text)
    message = refused(make_config(f"{key}={place}"))
    assert str(place) in message
    assert "knows none of the classes wanted: road" in message


@pytest.mark.parametrize("name", ["source", "target"])
def test_fewer_samples_than_a_batch(make_config: MakeConfig, name: str) -> None:
    message = refused(make_config("batch.pairs=32"), with_target=name == "target")
    assert "24" in message
    assert "32" in message
    assert "batch.pairs" in message


@pytest.mark.parametrize("key", ["source.uri", "target.uri", "evaluation.uri"])
def test_no_manifest(make_config: MakeConfig, tmp_path: Path, key: str) -> None:
    message = refused(make_config(f"{key}={tmp_path}"))
    assert f"no manifest.json under {tmp_path}" in message
    assert "plca shards" in message


def test_a_class_that_the_source_lacks_is_no_reason_to_refuse(make_config: MakeConfig) -> None:
    check_data(make_config("labels=synthia", "evaluation.uri=val"), with_target=True)


def read(config: Config, world_size: int, steps: int, *, start: int = 0, with_target: bool = True) -> list[Batch]:
    """The global batch of every step, put together from all ranks' micro-batches."""
    passes = config.accumulation(world_size)[1]
    of_rank = []
    for rank in range(world_size):
        with closing(open_stream(config, rank, world_size, start, with_target=with_target)) as stream:
            of_rank.append([next(stream) for _ in range(steps * passes)])
    batches = []
    for step in range(steps):
        parts = [p for passed in of_rank for p in passed[step * passes : (step + 1) * passes]]
        batches.append(Batch(*(None if p[0] is None else torch.cat(p) for p in zip(*parts, strict=True))))  # type: ignore[arg-type]
    return batches


@pytest.mark.parametrize(("world_size", "micro"), [(1, 1), (2, 2), (2, 1), (4, 1)])
def test_any_number_of_ranks_sees_the_same_batches(make_config: MakeConfig, world_size: int, micro: int) -> None:
    """Eight steps: past the end of an epoch of six."""
    settings = ["source.shorter_edge=[32, 40]", "target.shorter_edge=[32, 40]", "source.crop=[24, 32]"]
    expected = read(make_config(*settings), 1, steps=8)
    found = read(make_config(*settings, f"batch.micro={micro}"), world_size, steps=8)
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for field, one, other in zip(Batch._fields, ours, theirs, strict=True):
            assert torch.equal(one, other), f"{field} of step {step}"
    assert not torch.equal(expected[0].source_image, expected[6].source_image), "an epoch has an order of its own"


def test_a_stream_opened_at_a_step_gives_what_walking_there_gives(make_config: MakeConfig) -> None:
    config = make_config("batch.micro=2")
    for ours, theirs in zip(read(config, 2, 3, start=5), read(config, 2, 8)[5:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_without_a_need_for_it_the_target_is_not_even_opened(make_config: MakeConfig) -> None:
    (batch,) = read(make_config("target.uri=nowhere"), 1, 1, with_target=False)
    assert batch.target_image is None
    assert batch.source_image.shape == (4, 3, 32, 64)


def test_labels_are_learned_by_class_name(make_config: MakeConfig) -> None:
    """Toytown's nine classes, learned as Cityscapes' nineteen: the same pixels, other numbers."""
    ours = read(make_config(), 1, 1)[0].source_label
    theirs = read(make_config("labels=cityscapes"), 1, 1)[0].source_label
    toytown, cityscapes = LABEL_SETS["toytown"].classes, LABEL_SETS["cityscapes"].classes
    for k, name in enumerate(toytown):
        assert torch.equal(ours == k, theirs == cityscapes.index(name)), name
    assert torch.equal(ours == 255, theirs == 255)
