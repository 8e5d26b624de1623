"""Pictures of cycles: points are where the cycles are, in the colours of their classes."""

import io

import pytest
import torch
from PIL import Image

from plca_dist.data.labels import IGNORE, label_set
from plca_dist.data.whole_images import Pair
from plca_dist.report.association_picture import AssociationPicture, association_picture
from tests.colour_pair import BLUE, GREEN, PAIR, RED, TRUTH, Colours, cells

LABELS = label_set("toytown")
WHITE = (255, 255, 255)


def picture(pair: Pair = PAIR, **settings) -> AssociationPicture:
    return association_picture(Colours(), pair, LABELS, **{"size": None, "aggregation": 0.0} | settings)


def at(png: bytes, side: str, row: int, column: int) -> tuple[int, ...]:
    """The colour in the middle of a cell of PAIR: 3 x 2 cells, a gap of 0.12 of their height, and 2 x 2 cells."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    height = 1280 / (1.5 + 0.12 + 1)
    left = 0 if side == "source" else (1.5 + 0.12) * height
    return image.getpixel((round(left + (column + 0.5) * height / 2), round(30 + (row + 0.5) * height / 2)))


def test_points_are_where_the_cycles_are_in_the_colours_of_their_classes() -> None:
    png = picture().png
    assert at(png, "source", 0, 1) == LABELS.palette[0]
    assert at(png, "source", 0, 0) == WHITE, "both cycles of red end here"
    assert [at(png, "target", *cell) for cell in ((0, 0), (0, 1), (1, 0))] == list(LABELS.palette[:3])
    assert at(png, "target", 1, 1) not in LABELS.palette, "no cycle goes there"
    assert at(png, "source", 1, 2) not in (*LABELS.palette, WHITE), "an inconsistent one has no points"


def test_few_cycles_are_spread_over_the_classes_and_the_same_each_time() -> None:
    png = picture(shown=3).png
    assert [at(png, "target", *cell) for cell in ((0, 0), (0, 1), (1, 0))] == list(LABELS.palette[:3])
    assert picture(shown=3).png == png
    assert at(picture(shown=0).png, "target", 0, 0) not in LABELS.palette


def test_its_shares_are_those_of_all_cycles() -> None:
    found = picture(target_label=TRUTH, shown=1, level="prediction")
    assert found.caption == (
        "80% of the labelled starts consistent, 75% of the target covered, 67% of the associations correct"
    )
    assert picture().correct is None
    assert "correct" not in picture().caption


def test_a_pair_without_a_cycle_has_its_picture_too() -> None:
    found = picture(PAIR._replace(source_label=torch.full((16, 24), IGNORE, dtype=torch.uint8)), target_label=TRUTH)
    assert (found.consistent, found.covered, found.correct) == (0, 0, None)
    assert Image.open(io.BytesIO(found.png)).width == 1280


@pytest.mark.parametrize(("rows", "aspect"), [([[RED, GREEN, BLUE, BLUE]], 4), ([[RED], [GREEN]], 0.5)])
def test_pictures_of_one_pair_may_differ_in_shape(rows: list[list], aspect: float) -> None:
    found = picture(PAIR._replace(target_image=cells(rows)))
    assert Image.open(io.BytesIO(found.png)).size == (1280, 30 + round(1280 / (1.5 + 0.12 + aspect)) + 72)
