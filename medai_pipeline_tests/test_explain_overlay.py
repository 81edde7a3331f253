"""The overlay shows heat where it belongs on the image as displayed, and nothing where it may not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from medai_pipeline.dicom.normalize import place
from medai_pipeline.errors import SettingsError
from medai_pipeline.explain.overlay import color_table, overlay
from medai_pipeline.records import InputContract, Region

BAND = 30


def draw(display: np.ndarray, values: np.ndarray, **options) -> np.ndarray:
    placement = place(*display.shape, InputContract(128, 128))
    data = overlay(display, values, placement, (128, 128), **options)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return picture[BAND:-BAND]


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


@pytest.mark.parametrize(("side", "expected"), [(64, 384), (500, 500), (3000, 768)])
def test_the_picture_is_neither_too_small_to_see_nor_too_large_to_send(side, expected):
    assert draw(np.zeros((side, side), dtype=np.uint8), corner(4, 4)).shape[:2] == (expected, expected)


def test_an_unreliable_map_is_not_drawn():
    display = np.full((400, 400), 100, dtype=np.uint8)
    picture = draw(display, corner(4, 4), reliable=False, regions=[Region((10, 10, 50, 50), 1.0)])
    assert (picture == 100).all()


def test_a_map_that_is_not_finite_can_still_be_told_without_being_drawn():
    picture = draw(np.full((400, 400), 9, dtype=np.uint8), np.full((8, 8), np.nan, dtype=np.float32), reliable=False)
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
