"""The overlay shows heat where it belongs on the image as displayed, and nothing where it may not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from medai_pipeline.dicom.normalize import place
from medai_pipeline.errors import SettingsError
from medai_pipeline.explain.lettering import fitted, width_of, write
from medai_pipeline.explain.overlay import BAND_ABOVE, BAND_BELOW, color_table, overlay
from medai_pipeline.records import InputContract, Region


def draw(display: np.ndarray, values: np.ndarray, **options) -> np.ndarray:
    placement = place(*display.shape, InputContract(128, 128))
    data = overlay(display, values, placement, (128, 128), **options)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return picture[BAND_ABOVE:-BAND_BELOW]


def corner(row: int, column: int) -> np.ndarray:
    values = np.zeros((8, 8), dtype=np.float32)
    values[row, column] = 1.0
    return values


def colored(picture: np.ndarray) -> np.ndarray:
    return (picture.max(axis=2).astype(int) - picture.min(axis=2)) > 20


def test_heat_lies_where_the_map_has_it_and_cold_places_stay_as_they_were():
    display = np.full((512, 512), 100, dtype=np.uint8)
    mask = colored(draw(display, corner(1, 6)))
    rows, columns = np.nonzero(mask)
    assert 64 <= rows.mean() <= 128
    assert 384 <= columns.mean() <= 448
    assert not mask[256:].any()
    assert (draw(display, corner(1, 6))[256:] == 100).all()


def test_nothing_is_mirrored():
    display = np.zeros((400, 400), dtype=np.uint8)
    display[:40, :40] = 255
    picture = draw(display, corner(7, 7))
    assert picture[:30, :30].min() == 255
    assert picture[:30, -30:].max() == 0


def test_the_aspect_ratio_is_that_of_the_patient():
    display = np.full((100, 100), 50, dtype=np.uint8)
    picture = draw(display, corner(4, 4), spacing_mm=(2.0, 0.5))
    drawn = np.nonzero(picture.min(axis=2) >= 45)
    height, width = np.ptp(drawn[0]) + 1, np.ptp(drawn[1]) + 1
    assert height / width == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize(("side", "expected"), [(64, 512), (600, 600), (3000, 768)])
def test_the_picture_is_neither_too_small_to_see_nor_too_large_to_send(side, expected):
    assert draw(np.zeros((side, side), dtype=np.uint8), corner(4, 4)).shape[:2] == (expected, expected)


def test_a_map_that_is_withheld_is_not_drawn():
    display = np.full((400, 400), 100, dtype=np.uint8)
    picture = draw(display, corner(4, 4), withheld="No reliable heatmap", regions=[Region((10, 10, 50, 50), 1.0)])
    assert (picture == 100).all()


def test_a_map_that_is_not_finite_can_still_be_told_without_being_drawn():
    picture = draw(np.full((400, 400), 9, dtype=np.uint8), np.full((8, 8), np.nan, dtype=np.float32), withheld="No")
    assert (picture == 9).all()


def test_the_box_of_a_region_is_drawn_at_its_place():
    display = np.full((800, 400), 100, dtype=np.uint8)
    picture = draw(display, np.zeros((8, 8), dtype=np.float32), regions=[Region((100, 200, 300, 400), 1.0)])
    white = np.nonzero((picture == 255).all(axis=2))
    scale = 768 / 800
    assert white[0].min() == pytest.approx(200 * scale, abs=2)
    assert white[0].max() == pytest.approx(400 * scale, abs=2)


def test_alpha_zero_leaves_the_image_untouched():
    display = np.full((400, 400), 77, dtype=np.uint8)
    assert (draw(display, corner(4, 4), alpha=0.0) == 77).all()


@pytest.mark.parametrize("name", ["inferno", "viridis", "jet", "JET"])
def test_colormaps_go_by_their_opencv_names(name):
    table = color_table(name)
    assert table.shape == (256, 3)
    assert len(np.unique(table, axis=0)) > 50


def test_an_unknown_colormap_lists_the_known_ones():
    with pytest.raises(SettingsError, match=r"GRADCAM_COLORMAP sepia.*inferno.*viridis"):
        color_table("sepia")


def test_letters_say_which_side_of_the_patient_lies_where_and_touch_nothing_else():
    display = np.full((600, 600), 100, dtype=np.uint8)
    plain, lettered = draw(display, corner(4, 4), withheld="x"), draw(display, corner(4, 4), withheld="x", edges="RLAP")
    rows, columns = np.nonzero((plain != lettered).any(axis=2))
    near = np.minimum.reduce([rows, columns, 599 - rows, 599 - columns])
    assert near.max() < 40
    for edge in (columns < 40, columns > 560, rows < 40, rows > 560):
        assert edge.any()


def test_the_words_name_the_image_and_why_there_is_no_heat():
    display = np.full((512, 512), 100, dtype=np.uint8)

    def bands(**words: str) -> tuple[np.ndarray, np.ndarray]:
        data = overlay(display, corner(4, 4), place(512, 512, InputContract(128, 128)), (128, 128), **words)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        return picture[:BAND_ABOVE], picture[-BAND_BELOW:]

    assert (bands(place="series 3, image 12 of 24")[0] != bands()[0]).any()
    assert (bands(withheld="Below threshold")[1] != bands()[1]).any()


@pytest.mark.parametrize("size", [13, 16, 17])
def test_two_zeros_do_not_overlap(size):
    """OpenCV's own text lets them: the columns between two equal letters must be as empty as beside one."""
    both = np.zeros((40, 80, 3), dtype=np.uint8)
    write(both, "00", (10, 30), (255, 255, 255), size)
    columns = np.nonzero(both.max(axis=(0, 2)) > 128)[0]
    assert np.diff(columns).max() >= 2
    alone = np.zeros((40, 80, 3), dtype=np.uint8)
    write(alone, "0", (10, 30), (255, 255, 255), size)
    assert int(both.sum()) == pytest.approx(2 * int(alone.sum()), rel=0.02)


def test_words_that_are_too_long_are_cut_with_dots():
    short = fitted("Pneumothorax with tension and much else", 120, 13)
    assert short.endswith("...")
    assert width_of(short, 13) <= 120
    assert fitted("Nodule", 120, 13) == "Nodule"
