"""Pictures: pixels are checked against the palettes, sizes against the layout."""

import io

import numpy as np
import pytest
from PIL import Image

from plca_dist.data.colours import colour, overlay, png
from plca_dist.data.labels import LABEL_SETS, LabelSet, label_set
from plca_dist.errors import UserError
from plca_dist.report.panels import columns, legend, named, panel_rows

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
    assert {picture.shape for _, picture in pictures} == {(4 * 106, 6 * 106, 3)}, "whole multiples, at most 640 wide"
    assert pictures[0][1][1 * 106, 2 * 106].tolist() == [8, 32, 56]  # pixel (1, 2) of the three planes of 24
    assert pictures[2][1][4 * 106 - 1, 6 * 106 - 1].tolist() == [70, 130, 180]
    image_only = columns(np.zeros((3, 4, 6), np.uint8), None, {}, CITYSCAPES)
    assert [title for title, _ in image_only] == ["image"]


@pytest.mark.parametrize(
    ("height", "width", "shown"), [(96, 192, (576, 288)), (360, 480, (480, 360)), (1024, 2048, (640, 320))]
)
def test_a_panel_is_legible_at_any_size_of_picture(height: int, width: int, shown: tuple[int, int]) -> None:
    sheet = panel_rows([scene(height, width)])
    assert sheet.size == (4 * (shown[0] + 8) + 8, 8 + 34 + shown[1] + 8)
    first_of_truth = (8 + shown[0] + 8, 8 + 34)
    assert sheet.getpixel(first_of_truth) == (128, 64, 128)
    assert sheet.getpixel((first_of_truth[0] - 1, first_of_truth[1])) == (255, 255, 255)
    assert sheet.getpixel((first_of_truth[0] + 2 * (shown[0] + 8) - 9, 42 + shown[1] - 1)) == (70, 130, 180)
    titles = np.asarray(sheet)[:42]
    assert (titles < 128).any(), "the titles are drawn"


def test_tiny_pictures_keep_their_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 5, 100), dtype=np.uint8)
    [(_, enlarged)] = columns(noise, None, {}, CITYSCAPES)
    assert np.array_equal(enlarged, noise.transpose(1, 2, 0).repeat(6, 0).repeat(6, 1))


def test_names_are_written_where_their_class_has_room() -> None:
    label_HW = np.full((360, 480), 10, np.uint8)  # sky
    label_HW[180:, :240], label_HW[180:, 240:] = 0, 255  # road, ignored
    label_HW[:180, 470:] = 5  # a pole, too narrow for its name
    written = (np.asarray(named(label_HW, CITYSCAPES)) != colour(label_HW, CITYSCAPES.palette)).any(-1)
    rows, across = np.nonzero(written[:180])
    assert (rows.mean(), across.mean()) == pytest.approx((90, 235), abs=6), "amid the sky"
    assert np.ptp(across) > 1.4 * np.ptp(rows)
    assert written[180:, :240].any()
    assert not written[180:, 240:].any()
    assert not written[:, 470:].any()


def test_a_name_that_does_not_fit_is_written_smaller_or_not_at_all() -> None:
    def size(width: int) -> int:
        label_HW = np.full((360, 480), 255, np.uint8)
        label_HW[:, :width] = 8  # vegetation
        written = (np.asarray(named(label_HW, CITYSCAPES)) != colour(label_HW, CITYSCAPES.palette)).any(-1)
        return int(np.ptp(np.nonzero(written)[1])) if written.any() else 0

    assert size(400) == size(200) > size(130) > 100 > size(90) == 0


def test_a_title_keeps_to_its_picture() -> None:
    picture_HW3 = np.full((60, 120, 3), 255, np.uint8)
    sheet = np.asarray(panel_rows([[("n" * 100, picture_HW3), ("m" * 100, picture_HW3)]]).convert("L"))
    middle = 8 + 120  # of the gap between both begins here
    assert (sheet[:34, :middle] < 200).any()
    assert (sheet[:34, middle + 2 : middle + 8] > 200).all()
    assert (sheet[:34, -8:] > 200).all()


def test_rows_are_stacked_and_say_their_titles_once() -> None:
    row = scene(96, 192)
    sheet = panel_rows([row, row, row[:2]])
    assert sheet.size == (panel_rows([row]).width, 8 + (34 + 288) + (8 + 288) + (8 + 34 + 288) + 8)
    assert np.asarray(sheet)[42 + 288 + 8 :][:288, 8 + 576 + 8].tolist() == [[128, 64, 128]] * 288


def test_pictures_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        panel_rows([[("a", np.zeros((2, 2, 3), np.uint8)), ("b", np.zeros((2, 3, 3), np.uint8))]])
    with pytest.raises(ValueError, match="at least one"):
        panel_rows([[]])


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
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(Image.fromarray(picture))))), picture)
