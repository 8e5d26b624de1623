"""Rare class sampling: what is drawn, from where, and that it is the same at any step and world size."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from plca_dist.data.augment import augment
from plca_dist.data.domain import DomainStream
from plca_dist.data.label_table import label_table
from plca_dist.data.labels import LABEL_SETS
from plca_dist.data.order import keyed_rng
from plca_dist.data.rare_classes import RareClasses, RareClassOrder, pixel_counts
from plca_dist.data.shards import ShardReader, read_manifest
from plca_dist.data.whole_images import labelled_samples
from plca_dist.errors import UserError
from plca_dist.storage import resolve

GROUPS = [5, 7, 3, 6, 5, 4, 7, 5, 6]
RARE = RareClasses(temperature=0.3, pixels=10, crops=4)


def counts() -> np.ndarray:
    """Class 0 is everywhere, 1 in every third sample, 2 in one of 12, 3 with too few pixels, 4 nowhere."""
    found = np.zeros((sum(GROUPS), 5), np.int64)
    found[:, 0] = 100
    found[::3, 1] = 30
    found[4::12, 2] = 20
    found[:, 3] = 10
    return found


def order(window: int = 3, batch: int = 4, **changed: float) -> RareClassOrder:
    rare = RareClasses(**{**vars(RARE), **changed})  # type: ignore[arg-type]
    return RareClassOrder(GROUPS, batch, 7, "source", window, counts_NK=counts(), rare=rare)


def test_every_sample_has_the_class_it_was_drawn_for_and_lies_in_the_window_of_its_step() -> None:
    drawn, T = order(), sum(GROUPS) // 4
    first_rows = np.cumsum(GROUPS) - GROUPS
    for step in range(3 * T):
        epoch, within = divmod(step, T)
        plain, bounds = drawn.epoch_order(epoch), drawn.window_bounds(epoch)
        groups_of = lambda rows: set((np.searchsorted(first_rows, rows, side="right") - 1).tolist())  # noqa: E731
        for slot in range(4):
            sample, wanted = drawn.sample(step, slot), drawn.wanted(step, slot)
            assert wanted in (0, 1, 2)
            assert counts()[sample, wanted] > 10
            window = int(np.searchsorted(bounds, slot * T + within, side="right")) - 1
            allowed = groups_of(plain[bounds[window] : bounds[window + 1]])
            assert len(allowed) <= 3
            assert groups_of([sample]) <= allowed


def test_classes_are_drawn_by_their_likelihood_and_images_alike() -> None:
    """With all row groups in one window, over many epochs."""
    drawn, T = order(window=9), sum(GROUPS) // 4
    classes: Counter[int | None] = Counter()
    images: Counter[int] = Counter()
    for step in range(100 * T):
        for slot in range(4):
            classes[drawn.wanted(step, slot)] += 1
            if drawn.wanted(step, slot) == 2:
                images[drawn.sample(step, slot)] += 1
    share = counts().sum(0) / counts().sum()
    likelihood = np.exp((1 - share[:3]) / 0.3)
    total = sum(classes.values())
    for k in range(3):
        expected = likelihood[k] / likelihood.sum()
        assert classes[k] / total == pytest.approx(expected, abs=4 * (expected / total) ** 0.5)
    assert set(images) == set(range(4, sum(GROUPS), 12))
    assert max(images.values()) < 1.3 * min(images.values())
    assert classes[2] > 1.5 * classes[0], "the rare class comes more often than the common one"


def test_a_step_is_found_at_once_and_draws_differ() -> None:
    walked, T = order(), sum(GROUPS) // 4
    seen = [[walked.sample(step, slot) for slot in range(4)] for step in range(3 * T)]
    fresh = order()
    assert [fresh.sample(3 * T - 1, slot) for slot in range(4)] == seen[-1]
    assert seen[:T] != seen[T : 2 * T]
    a, b = (walked.rng(step, 1, 5).random() for step in (3, 4))
    assert a != b, "one sample in two steps"
    assert walked.rng(3, 1, 5).random() == a


def test_a_window_without_any_such_class_is_read_as_it_comes() -> None:
    few = counts()
    few[:, 0], few[:, 1], few[:, 2] = 1, 1, 0
    few[0, 0] = 100
    drawn = RareClassOrder(GROUPS, 4, 7, "source", 1, counts_NK=few, rare=RARE)
    wanted = [drawn.wanted(step, slot) for step in range(drawn.steps_per_epoch) for slot in range(4)]
    assert set(wanted) == {None, 0}
    rows = [drawn.sample(step, slot) for step in range(drawn.steps_per_epoch) for slot in range(4)]
    assert {row for row, k in zip(rows, wanted, strict=True) if k == 0} == {0}
    others = [row for row, k in zip(rows, wanted, strict=True) if k is None]
    assert len(set(others)) == len(others)


def test_more_pixels_than_any_image_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"rare_class_sampling.pixels = 100: no image .* at most 100; lower it"):
        order(pixels=100)


def test_a_source_without_labels_is_named() -> None:
    with pytest.raises(UserError, match="no image of the source has a labelled pixel of the recipe's classes"):
        RareClassOrder(GROUPS, 4, 7, "source", 1, counts_NK=np.zeros((sum(GROUPS), 3), np.int64), rare=RARE)


@pytest.fixture
def shards(toytown_shards: Path) -> Path:
    return toytown_shards / "source"


def test_counts_are_those_of_the_labels(shards: Path) -> None:
    store, labels = resolve(str(shards)), LABEL_SETS["toytown"]
    manifest = read_manifest(store)
    reader = ShardReader(store, manifest)
    found = pixel_counts(reader, label_table(manifest, labels, ""), len(labels), skip_damaged=False)
    for row, (_, label) in zip(found, labelled_samples(store, labels, 0, 1), strict=True):
        assert row.tolist() == np.bincount(label.flatten().numpy(), minlength=256)[: len(labels)].tolist()
    table = torch.full((256,), 255, dtype=torch.uint8)
    table[[2, 5]] = 1  # two classes become one, the others none
    stored = len(manifest.classes)
    every = pixel_counts(reader, torch.arange(256, dtype=torch.uint8), stored, skip_damaged=False)
    merged = pixel_counts(reader, table, 3, skip_damaged=False)
    assert np.array_equal(merged[:, 1], every[:, 2] + every[:, 5])
    assert not merged[:, [0, 2]].any()


def stream(shards: Path, rare: RareClasses | None, window: int = 2) -> DomainStream:
    return DomainStream(
        resolve(str(shards)), "source", labels=LABEL_SETS["toytown"], batch=4, seed=3, window=window,
        shorter_edge=None, crop=(16, 24), flip=True, rare=rare,
    )  # fmt: skip


def test_the_stream_reads_what_was_drawn_and_holds_no_more_than_a_window_a_slot(shards: Path) -> None:
    rare = RareClasses(temperature=0.05, pixels=30, crops=10)
    domain = stream(shards, rare)
    inside: list[bool] = []
    with closing(domain.groups):
        for step in range(12):
            for slot in range(4):
                domain.announce(step, slot)
                image, label, _ = domain.load(step, slot)
                assert label is not None
                assert image.shape == (3, 16, 24)
                wanted = domain.order.wanted(step, slot)
                inside.append(wanted is not None and int((label == wanted).sum()) > 15)
        assert domain.groups.most_held <= 2 * 4 + 1
    assert sum(inside) > 0.7 * len(inside), "crops are drawn until the class is inside"


def test_another_crop_is_drawn_until_one_will_do() -> None:
    image = torch.arange(20 * 30, dtype=torch.int64).remainder(256).to(torch.uint8).view(1, 20, 30).expand(3, -1, -1)
    label = torch.zeros(20, 30, dtype=torch.uint8)
    label[14:, 22:] = 1

    def cut(enough: Callable[[torch.Tensor], bool] | None, crops: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = augment(
            image, label, keyed_rng("a", 1), shorter_edge=None, crop=(6, 8), flip=True, enough=enough, crops=crops
        )
        assert found[1] is not None
        return found[0], found[1]

    first = cut(None, 10)
    tried: list[int] = []

    def enough(crop: torch.Tensor) -> bool:
        tried.append(int((crop == 1).sum()))
        return tried[-1] >= 12

    best = cut(enough, 1000)
    assert 1 < len(tried) < 1000
    assert max(tried[:-1]) < 12 <= tried[-1] == int((best[1] == 1).sum())
    assert torch.equal(cut(lambda _: True, 10)[0], first[0]), "one that will do at once is the one that is always drawn"
    tried.clear()
    cut(lambda crop: bool(tried.append(0)), 5)
    assert len(tried) == 5
