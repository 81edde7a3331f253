"""An image becomes a tensor of the contract's shape and range, whatever its values, and can be mapped back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medai_pipeline.dicom.normalize import RULES, normalize, window_bounds
from medai_pipeline.errors import UnsupportedImage
from medai_pipeline.records import InputContract

contracts = st.builds(
    InputContract,
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.integers(1, 3),
    low=st.sampled_from([0.0, -1.0, -1024.0]),
    high=st.sampled_from([1.0, 1024.0]),
    scaling=st.sampled_from(sorted(RULES)),
    fit=st.sampled_from(["pad", "stretch"]),
)
images = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=60),
    elements=st.floats(-4096, 65535, width=32),
)
any_images = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20), elements=st.floats(width=32)
)
windows = st.none() | st.tuples(st.floats(-2000, 5000), st.floats(-1, 5000))


@settings(deadline=None)
@given(images | any_images, contracts, st.booleans(), windows)
def test_output_is_finite_in_range_and_of_the_contracts_shape(image, contract, invert, window):
    tensor, _ = normalize(image, contract, invert=invert, window=window)
    assert tensor.shape == (contract.channels, contract.height, contract.width)
    assert tensor.dtype == np.float32
    assert np.isfinite(tensor).all()
    assert tensor.min() >= contract.low and tensor.max() <= contract.high


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), contracts)
def test_placement_maps_the_source_edges_onto_the_filled_area(rows, columns, contract):
    _, place = normalize(np.zeros((rows, columns), np.float32), contract)
    x0, x1 = place.offset_x, columns * place.scale_x + place.offset_x
    y0, y1 = place.offset_y, rows * place.scale_y + place.offset_y
    assert 0 <= x0 < x1 <= contract.width + 1e-9 and 0 <= y0 < y1 <= contract.height + 1e-9
    assert abs(x0 - (contract.width - x1)) <= 1 + 1e-9 and abs(y0 - (contract.height - y1)) <= 1 + 1e-9
    assert abs((x1 - place.offset_x) / place.scale_x - columns) < 1e-9
    assert min(x0, y0) < 1, "at least one side is filled"


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("shape", [(200, 100), (90, 300), (20, 30), (64, 64)])
def test_a_bright_block_is_found_where_the_placement_says(fit, shape):
    image = np.zeros(shape, np.float32)
    y0, y1, x0, x1 = shape[0] // 4, shape[0] // 2, shape[1] // 4, shape[1] // 2
    image[y0:y1, x0:x1] = 1000
    contract = InputContract(height=64, width=80, fit=fit)
    tensor, place = normalize(image, contract)
    ys, xs = np.nonzero(tensor[0] > 0.5)
    assert abs(xs.min() - (x0 * place.scale_x + place.offset_x)) <= 1
    assert abs(xs.max() + 1 - (x1 * place.scale_x + place.offset_x)) <= 1
    assert abs(ys.min() - (y0 * place.scale_y + place.offset_y)) <= 1
    assert abs(ys.max() + 1 - (y1 * place.scale_y + place.offset_y)) <= 1


@settings(deadline=None)
@given(images, contracts, windows)
def test_brighter_stays_brighter(image, contract, window):
    same_size = InputContract(*image.shape, low=contract.low, high=contract.high, scaling=contract.scaling)
    tensor, _ = normalize(image, same_size, window=window)
    order = np.argsort(image, axis=None)
    assert (np.diff(tensor[0].ravel()[order]) >= 0).all()


@settings(deadline=None)
@given(images, contracts, windows)
def test_monochrome1_is_monochrome2_inverted_and_the_padding_stays_low(image, contract, window):
    plain, place = normalize(image, contract, window=window)
    inverted, same = normalize(image, contract, invert=True, window=window)
    assert place == same
    filled = np.zeros(plain.shape, bool)
    top, left = int(place.offset_y), int(place.offset_x)
    bottom, right = top + round(image.shape[0] * place.scale_y), left + round(image.shape[1] * place.scale_x)
    filled[:, top:bottom, left:right] = image.min() != image.max()
    expected = np.where(filled, contract.low + contract.high - plain, contract.low)
    np.testing.assert_allclose(inverted, expected, atol=2e-6 * (contract.high - contract.low), rtol=0)


@pytest.mark.parametrize("scaling", sorted(RULES))
@pytest.mark.parametrize("value", [0.0, -1000.0, 65535.0, np.nan, np.inf])
def test_a_constant_image_is_low_everywhere(scaling, value):
    tensor, _ = normalize(np.full((7, 9), value, np.float32), InputContract(16, 16, low=-1, scaling=scaling))
    assert (tensor == -1).all()


def test_ct_windows_map_hounsfield_units_to_the_stated_share():
    image = np.array([[-2000, -1350], [-600, 150]], np.float32)
    tensor, _ = normalize(image, InputContract(2, 2, scaling="ct-lung"))
    np.testing.assert_allclose(tensor[0], [[0, 0], [0.5, 1]], atol=1e-6)


def test_the_voi_window_follows_the_formula_of_the_standard():
    """PS3.3 C.11.2.1.2.1 example: centre 2048, width 4096 maps 0 to the lowest and 4095 to the highest output."""
    assert window_bounds(2048, 4096) == (0, 4095)
    step, _ = normalize(np.array([[2047, 2048, 2049]], np.float32), InputContract(1, 3), window=(2048, 1))
    assert step[0].tolist() == [[0, 1, 1]]


def test_percentiles_ignore_a_few_extreme_pixels():
    image = np.linspace(0, 1000, 10_000, dtype=np.float32).reshape(100, 100)
    image[0, 0] = 60_000
    tensor, _ = normalize(image, InputContract(100, 100))
    assert abs(float(tensor[0, 50, 50]) - 0.505) < 0.01


@pytest.mark.parametrize("bad", [{"scaling": "no-such"}, {"fit": "no-such"}])
def test_an_unknown_rule_is_refused(bad):
    with pytest.raises(UnsupportedImage):
        normalize(np.eye(4, dtype=np.float32), InputContract(8, 8, **bad))


def test_an_empty_image_is_refused():
    with pytest.raises(UnsupportedImage):
        normalize(np.zeros((0, 5), np.float32), InputContract(8, 8))
