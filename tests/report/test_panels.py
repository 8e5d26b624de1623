"""Pictures: pixels are checked against the palettes, sizes against the layout."""

import io

import numpy as np
import pytest
from PIL import Image

from plca_dist.data.labels import LABEL_SETS, LabelSet, label_set
from plca_dist.errors import UserError
from plca_dist.report.panels import colour, columns, legend, overlay, panel, panel_rows, png, reduced

CITYSCAPES = label_set("cityscapes")


def test_known_labels_have_their_colours_and_ignored_is_black() -> None:
    label_HW = np.array([[0, 13, 255], [18, 10, 0]], np.uint8)
    assert colour(label_HW, CITYSCAPES.palette).tolist() == [
        [[128, 64, 128], [0, 0, 142], [0, 0, 0]],
        [[119, 11, 32], [70, 130, 180], [128, 64, 128]],
    ]


def test_a_value_without_a_class_is_refused() -> None:
    with pytest.raises(UserError, match=r"label values 19, 33 have no colour: 19 classes are 0 to 18"):
        colour(np.array([[0, 19, 33, 255]], np.uint8), CITYSCAPES.palette)


def test_overlay_tints_all_but_the_ignored() -> None:
    image = np.full((1, 2, 3), 100, np.uint8)
    tinted = overlay(image, np.array([[[200, 0, 101], [0, 0, 0]]], np.uint8), alpha=0.25)
    assert tinted.dtype == np.uint8
    assert tinted.tolist() == [[[125, 75, 100], [100, 100, 100]]]


def scene(height: int, width: int) -> list[tuple[str, np.ndarray]]:
    image = np.arange(3 * height * width, dtype=np.uint32).astype(np.uint8).reshape(3, height, width)
    truth, found = np.zeros((height, width), np.uint8), np.full((height, width), 10, np.uint8)
    return columns(image, truth, {"source-only": found, "PLCA": truth}, CITYSCAPES)


def test_columns_come_in_the_usual_order() -> None:
    pictures = scene(4, 6)
    assert [title for title, _ in pictures] == ["image", "truth", "source-only", "PLCA"]
    assert {picture.shape for _, picture in pictures} == {(4, 6, 3)}
    assert pictures[0][1][1, 2].tolist() == [8, 32, 56]  # pixel (1, 2) of the three planes of 24
    assert pictures[2][1][3, 5].tolist() == [70, 130, 180]
    image_only = columns(np.zeros((3, 4, 6), np.uint8), None, {}, CITYSCAPES)
    assert [title for title, _ in image_only] == ["image"]


@pytest.mark.parametrize(
    ("height", "width", "shown"), [(96, 192, (384, 192)), (360, 480, (480, 360)), (1024, 2048, (640, 320))]
)
def test_a_panel_is_legible_at_any_size_of_picture(height: int, width: int, shown: tuple[int, int]) -> None:
    sheet = panel(scene(height, width))
    assert sheet.size == (4 * (shown[0] + 8) + 8, 8 + 26 + shown[1] + 8)
    first_of_truth = (8 + shown[0] + 8, 8 + 26)
    assert sheet.getpixel(first_of_truth) == (128, 64, 128)
    assert sheet.getpixel((first_of_truth[0] - 1, first_of_truth[1])) == (255, 255, 255)
    assert sheet.getpixel((first_of_truth[0] + 2 * (shown[0] + 8) - 9, 34 + shown[1] - 1)) == (70, 130, 180)
    titles = np.asarray(sheet)[:34]
    assert (titles < 128).any(), "the titles are drawn"


def test_tiny_pictures_keep_their_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 100, 3), dtype=np.uint8)
    sheet = np.asarray(panel([("image", noise)]))
    enlarged = sheet[34 : 34 + 20, 8 : 8 + 400]
    assert np.array_equal(enlarged, noise.repeat(4, 0).repeat(4, 1))


def test_rows_are_stacked_and_say_their_titles_once() -> None:
    row = scene(96, 192)
    sheet = panel_rows([row, row, row[:2]])
    assert sheet.size == (panel(row).width, 8 + (26 + 192) + (8 + 192) + (8 + 26 + 192) + 8)
    assert np.asarray(sheet)[34 + 192 + 8 :][:192, 8 + 384 + 8].tolist() == [[128, 64, 128]] * 192


def test_pictures_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        panel([("a", np.zeros((2, 2, 3), np.uint8)), ("b", np.zeros((2, 3, 3), np.uint8))])
    with pytest.raises(ValueError, match="at least one"):
        panel([])


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_a_legend_shows_every_colour_within_its_width(labels: LabelSet) -> None:
    sheet = legend(labels, width=500)
    assert sheet.width == 500
    shown = {c for _, c in sheet.getcolors(maxcolors=1 << 16) or ()}
    assert {*labels.palette, (0, 0, 0)} <= shown
    assert (np.asarray(sheet)[:, -1] == 255).all(), "nothing is cut off"
    assert legend(labels, width=4000).height < sheet.height


def test_a_png_is_what_was_given() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(reduced(picture))))), picture)
