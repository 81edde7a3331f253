"""Regions of a heatmap lie where the heat lies, in pixels of the original image, whatever the tensor's geometry."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medai_pipeline.dicom.normalize import place
from medai_pipeline.explain.geometry import heat_on_image
from medai_pipeline.explain.regions import cut_of, regions
from medai_pipeline.records import InputContract, Placement

SIDE = st.integers(min_value=40, max_value=3000)
SHARE = st.floats(min_value=0.05, max_value=0.95)


def spot(placement: Placement, size: tuple[int, int], grid: tuple[int, int], x: float, y: float) -> np.ndarray:
    """Heat (h, w) of a round spot about the source point (x, y), as a network would see it."""
    column = (x * placement.scale_x + placement.offset_x) * grid[1] / size[1] - 0.5
    row = (y * placement.scale_y + placement.offset_y) * grid[0] / size[0] - 0.5
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    heat = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 2)
    return (heat / heat.max()).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(SIDE, SIDE, SHARE, SHARE, st.sampled_from(["pad", "stretch"]), st.sampled_from([(7, 7), (16, 16), (12, 20)]))
def test_the_best_region_contains_the_spot_and_lies_inside_the_image(rows, columns, down, across, fit, grid):
    contract = InputContract(height=224, width=320, fit=fit)
    placement = place(rows, columns, contract)
    x, y = across * columns, down * rows
    found = regions(spot(placement, (224, 320), grid, x, y), placement, (224, 320))
    assert found
    for region in found:
        x0, y0, x1, y1 = region.box
        assert 0 <= x0 < x1 <= columns
        assert 0 <= y0 < y1 <= rows
        assert 0 < region.score <= 1
    # a coarse grid moves the peak by up to half a cell, and the grid that is searched by up to 1/256 of the image
    reach_x = 0.5 * 320 / grid[1] / placement.scale_x + 1 + columns / 256
    reach_y = 0.5 * 224 / grid[0] / placement.scale_y + 1 + rows / 256
    x0, y0, x1, y1 = found[0].box
    assert x0 - reach_x <= x <= x1 + reach_x
    assert y0 - reach_y <= y <= y1 + reach_y


@settings(deadline=None, max_examples=40)
@given(SIDE, SIDE, SHARE, SHARE, st.floats(1.0, 3.0), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_a_tensor_that_shows_a_part_of_the_image_still_gives_boxes_on_the_image(
    rows, columns, y, x, zoom, down, across
):
    """Crop: the image is larger than the tensor and lies about it, so offsets are negative."""
    size, grid = (224, 224), (14, 14)
    scale = zoom * 224 / min(rows, columns)
    spare = (rows * scale - 224, columns * scale - 224)
    offset = (-spare[0] * (0.5 + down), -spare[1] * (0.5 + across))
    placement = Placement(rows, columns, scale, scale, offset[1], offset[0])
    seen = (x * 224 / scale - offset[1] / scale, y * 224 / scale - offset[0] / scale)  # a point that the tensor shows
    found = regions(spot(placement, size, grid, *seen), placement, size)
    x0, y0, x1, y1 = found[0].box
    assert 0 <= x0 < x1 <= columns
    assert 0 <= y0 < y1 <= rows
    reach = 0.5 * 16 / scale + 1 + max(rows, columns) / 256
    assert x0 - reach <= seen[0] <= x1 + reach
    assert y0 - reach <= seen[1] <= y1 + reach


@settings(deadline=None, max_examples=40)
@given(SIDE, SIDE, SHARE, SHARE, st.sampled_from(["mirrored", "upside down", "turned"]))
def test_an_image_in_another_orientation_has_its_box_there(rows, columns, down, across, way):
    """Nothing is turned on its way to the model: an image that arrives turned gets its box where its own pixels are."""
    contract = InputContract(height=224, width=224, fit="stretch")
    size, grid = (224, 224), (14, 14)

    def box(rows: int, columns: int, turn) -> np.ndarray:
        values = spot(place(rows_as_is, columns_as_is, contract), size, grid, across * columns_as_is, down * rows_as_is)
        return np.array(regions(turn(values), place(rows, columns, contract), size)[0].box)

    rows_as_is, columns_as_is = rows, columns
    x0, y0, x1, y1 = box(rows, columns, lambda heat: heat)
    slack = 2 + max(rows, columns) / 128
    if way == "mirrored":
        found, expected = box(rows, columns, lambda heat: heat[:, ::-1]), (columns - x1, y0, columns - x0, y1)
    elif way == "upside down":
        found, expected = box(rows, columns, lambda heat: heat[::-1]), (x0, rows - y1, x1, rows - y0)
    else:
        found, expected = box(columns, rows, lambda heat: heat.T), (y0, x0, y1, x1)
    assert np.abs(found - np.array(expected)).max() <= slack


def test_two_hot_places_give_two_regions_with_the_hotter_first():
    values = np.zeros((8, 8), dtype=np.float32)
    values[1:3, 1:3], values[6, 6] = 1.0, 0.8
    first, second = regions(values, Placement(80, 80, 1, 1, 0, 0), (80, 80))
    assert first.box[0] < 20 < first.box[2] <= 40
    assert second.box[0] <= 65 < second.box[2]
    assert first.score > second.score
    assert first.score + second.score <= 1


def test_a_small_hot_place_is_cut_higher_than_a_large_one():
    """One cell's blur reaches several cells: a box at half of the heat would be many times as large as a small finding."""
    placement = Placement(256, 256, 1, 1, 0, 0)
    rows, columns = np.mgrid[:16, :16]

    def side(width: float) -> float:
        heat = np.exp(-((rows - 8) ** 2 + (columns - 8) ** 2) / (2 * width**2)).astype(np.float32)
        x0, _, x1, _ = regions(heat, placement, (256, 256))[0].box
        return (x1 - x0) / (16 * width)

    assert side(0.8) < 0.7 * side(3.0)
    assert cut_of(1) == cut_of(6) > cut_of(12) > cut_of(20) == cut_of(99)


def test_at_most_three_regions_come_back():
    values = np.zeros((16, 16), dtype=np.float32)
    values[2::4, 2::4] = 1.0
    assert len(regions(values, Placement(160, 160, 1, 1, 0, 0), (160, 160))) == 3


def test_the_area_follows_from_the_spacing_and_is_unknown_without():
    values = np.zeros((8, 8), dtype=np.float32)
    values[2:6, 2:6] = 1.0
    placement = Placement(80, 80, 1, 1, 0, 0)
    plain, scaled = regions(values, placement, (80, 80))[0], regions(values, placement, (80, 80), (0.5, 2.0))[0]
    assert plain.area_mm2 is None
    width, height = scaled.box[2] - scaled.box[0], scaled.box[3] - scaled.box[1]
    assert scaled.area_mm2 is not None
    assert 0.8 * width * height <= scaled.area_mm2 <= width * height


def test_heat_over_the_padding_alone_gives_no_region_outside_the_image():
    placement = place(100, 400, InputContract(height=200, width=200))
    values = np.zeros((8, 8), dtype=np.float32)
    values[0, :] = 1.0
    assert all(region.box[3] <= 100 for region in regions(values, placement, (200, 200)))


def test_empty_and_not_finite_maps_have_no_regions():
    placement = Placement(50, 50, 1, 1, 0, 0)
    assert regions(np.zeros((4, 4), dtype=np.float32), placement, (50, 50)) == ()
    assert regions(np.full((4, 4), np.nan, dtype=np.float32), placement, (50, 50)) == ()


def test_heat_keeps_its_value_at_the_centre_of_its_cell():
    values = np.random.default_rng(3).random((6, 9)).astype(np.float32)
    drawn = heat_on_image(values, Placement(42, 63, 1, 1, 0, 0), (42, 63), (42, 63))
    assert np.allclose(drawn[3::7, 3::7], values, atol=1e-5)
