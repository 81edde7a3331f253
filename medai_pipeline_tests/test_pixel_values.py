"""What stored values mean: units, lookup tables, windows, padding, palettes, and the frames of enhanced objects."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing

from medai_pipeline.dicom.image import Image
from medai_pipeline.dicom.normalize import normalize, window_bounds
from medai_pipeline.dicom.pixels import prepare
from medai_pipeline.dicom.voi import presented
from medai_pipeline.errors import UnsupportedImage
from medai_pipeline.records import InputContract, Instance
from medai_pipeline_tests.dicom_objects import image, written

ROW = Instance("2.25.1", "2.25.2", "2.25.3", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", "CT", "")
XRAY = InputContract(40, 48)


def lut_item(descriptor: list[int], entries: np.ndarray, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, vr, descriptor)
    item.add_new(0x00283006, "OW", entries.astype("<u2").tobytes())
    return item


@settings(deadline=None, max_examples=60)
@given(st.integers(-3000, 2000), st.integers(1, 300), st.booleans())
def test_a_modality_table_gives_what_pydicom_gives(first, count, signed):
    first = first if signed else abs(first)
    entries = np.random.default_rng(count).integers(0, 65536, count)
    item = lut_item([count, first, 16], entries, "SS" if first < 0 else "US")
    dataset = image(ModalityLUTSequence=[item], PixelRepresentation=int(signed))
    del dataset.RescaleSlope, dataset.RescaleIntercept
    stored = (
        np.random.default_rng(1).integers(-2000 if signed else 0, 3000, (40, 48)).astype("<i2" if signed else "<u2")
    )
    dataset.PixelData = stored.tobytes()
    np.testing.assert_array_equal(Image.of(written(dataset)).frame(1).values, apply_modality_lut(stored, dataset))


def test_an_empty_modality_table_is_no_table():
    assert Image.of(written(image(ModalityLUTSequence=[Dataset()], RescaleIntercept=-5))).frame(1).values[0, 0] == -5


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@settings(deadline=None, max_examples=50)
@given(centre=st.floats(-500, 2500), width=st.floats(2, 4000))
def test_each_voi_function_shows_what_the_standard_says(function, centre, width):
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.2 and C.11.2.1.3.1, against pydicom's implementation."""
    stored = np.arange(40 * 48, dtype="<i2").reshape(40, 48)
    dataset = image(WindowCenter=f"{centre:.6g}", WindowWidth=f"{width:.6g}", VOILUTFunction=function, Modality="CR")
    expected = apply_windowing(stored, dataset)
    low, high = -(2**15), 2**15 - 1  # the whole output range of 16 signed bits
    expected = (np.asarray(expected, np.float64) - low) / (high - low)
    decoded = Image.of(written(dataset))
    values, window = presented(decoded.frame(1).values, decoded.voi(1))
    tensor, _ = normalize(values, XRAY, window=window)
    lower, upper = window_bounds(*window)
    if lower < values.max() and upper > values.min():  # else the image's own percentiles are better than black
        np.testing.assert_allclose(tensor[0], expected, atol=2e-3)


def test_a_voi_table_is_shown_by_its_whole_range():
    entries = np.linspace(0, 4095, 1000) ** 2 / 4095
    dataset = image(VOILUTSequence=[lut_item([1000, 100, 12], entries)], Modality="DX")
    stored = np.arange(40 * 48, dtype="<i2").reshape(40, 48)
    (tensor, _), = prepare(written(dataset), ROW, XRAY)  # fmt: skip
    np.testing.assert_allclose(tensor[0], apply_voi(stored, dataset) / 4095, atol=1e-5)


def test_a_broken_voi_table_leaves_the_image_to_its_percentiles():
    dataset = image(VOILUTSequence=[lut_item([1000, 0, 12], np.arange(3))], Modality="DX")
    assert Image.of(written(dataset)).voi(1) is None
    assert prepare(written(dataset), ROW, XRAY)[0][0].std() > 0.1


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float32, (12, 10), elements=st.floats(0, 4000, width=32)), st.data())
def test_no_value_of_the_padding_changes_the_image_and_it_is_background(values, data):
    padding = data.draw(hnp.arrays(bool, (12, 10)))
    contract = InputContract(12, 10, scaling=data.draw(st.sampled_from(["xray", "mr"])), low=-1.0)
    invert = data.draw(st.booleans())
    outside = values[~padding]
    if padding.all() or not padding.any() or np.ptp(outside) == 0:
        return
    results = []
    for fill in (float(outside.min()), float(outside.max())):
        filled = np.where(padding, np.float32(fill), values)
        results.append(normalize(filled, contract, invert=invert, padding=padding)[0])
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0][0][padding] == -1).all()


@pytest.mark.parametrize(("written_as", "vr"), [(-2000, "SS"), (63536, "US")])
def test_padding_is_found_whichever_sign_its_writer_took(written_as, vr):
    pixels = np.full((40, 48), 100, "<i2")
    pixels[:5], pixels[30:] = -2000, 300
    dataset = image(PixelData=pixels.tobytes())
    dataset.add_new(0x00280120, vr, written_as)
    frame = Image.of(written(dataset)).frame(1)
    assert frame.padding[:5].all() and frame.padding.sum() == 5 * 48 and frame.values.min() == 100


def test_a_range_of_padding_is_found():
    pixels = np.repeat(np.arange(40, dtype="<i2"), 48)
    dataset = image(PixelData=pixels.tobytes())
    dataset.add_new(0x00280120, "SS", 3)
    dataset.add_new(0x00280121, "SS", 7)
    assert np.flatnonzero(Image.of(written(dataset)).frame(1).padding.any(axis=1)).tolist() == [3, 4, 5, 6, 7]


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float32, (20, 20), elements=st.floats(0, 1000, width=16)),
    st.floats(0.01, 100),
    st.floats(-500, 500),
)
def test_mr_scaling_follows_the_scanners_gain_and_offset(values, gain, offset):
    contract = InputContract(20, 20, scaling="mr")
    if np.ptp(values) < 1:
        return
    changed = (values.astype(np.float64) * gain + offset).astype(np.float32)
    one, other = normalize(values, contract)[0], normalize(changed, contract)[0]
    assert np.percentile(np.abs(one - other), 90) < 5e-2


def test_one_bright_vessel_does_not_set_the_scale_of_an_mr_image():
    values = np.random.default_rng(0).uniform(200, 400, (64, 64)).astype(np.float32)
    plain = normalize(values, InputContract(64, 64, scaling="mr"))[0]
    values[3, 3:6] = 30000
    bright = normalize(values, InputContract(64, 64, scaling="mr"))[0]
    assert np.median(np.abs(plain - bright)) < 0.05


@settings(deadline=None, max_examples=60)
@given(st.integers(-1024, 3071), st.sampled_from([1, 2, 0.5]), st.sampled_from([0, -1024, -8192]))
def test_hounsfield_units_are_the_same_however_they_are_stored(value, slope, intercept):
    stored = round((value - intercept) / slope)
    pixels = np.full((40, 48), stored, "<i2")
    pixels[0, 0] += 1  # an image of one value would be black
    data = written(image(PixelData=pixels.tobytes(), RescaleSlope=slope, RescaleIntercept=intercept))
    (tensor, _), = prepare(data, ROW, InputContract(40, 48, scaling="ct-chest"))  # fmt: skip
    expected = np.clip((stored * slope + intercept + 1200) / 1600, 0, 1)
    np.testing.assert_allclose(tensor[0, 5, 5], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Modality": "MR"}, "not a CT"),
        ({"RescaleType": "ED"}, "another unit"),
        ({"RescaleSlope": None, "RescaleIntercept": None}, "missing"),
    ],
)
def test_values_that_are_no_hounsfield_units_are_not_taken_for_them(change, reason):
    with pytest.raises(UnsupportedImage, match=reason):
        prepare(written(image(**change)), ROW, InputContract(8, 8, scaling="ct-lung"))


@pytest.mark.parametrize(("units", "reason"), [("BQML", "Bq/ml"), ("CNTS", "counts"), ("", "unknown"), ("GML", "")])
def test_pet_without_suv_is_left_alone_with_a_reason(units, reason):
    data = written(image(Modality="PT", Units=units))
    if reason:
        with pytest.raises(UnsupportedImage, match=reason):
            prepare(data, ROW, InputContract(8, 8))
    else:
        assert prepare(data, ROW, InputContract(8, 8))


def test_palettes_whole_and_segmented_and_of_8_bits_give_their_colours(test_data):
    for name in ("OT-PAL-8-face.dcm",):
        data = (test_data / "dicom" / "pydicom-data" / name).read_bytes()
        decoded = Image.of(data)
        dataset = pydicom.dcmread(test_data / "dicom" / "pydicom-data" / name, force=True)
        colours = apply_color_lut(decoded.stored(1), dataset).astype(np.float32)
        np.testing.assert_allclose(decoded.frame(1).values, colours @ np.float32([0.299, 0.587, 0.114]), rtol=1e-3)
    dataset = image(PixelData=bytes(range(240)) * 8, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    ramp = np.arange(256, dtype="<u2") * 257
    segments = np.array([0, 1, 0, 1, 255, 65535], "<u2").tobytes()  # one value, then a line of 255 to the end
    seen = []
    for whole in (True, False):
        for colour in ("Red", "Green", "Blue"):
            setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            keyword = f"{colour}PaletteColorLookupTableData"
            setattr(dataset, keyword if whole else f"Segmented{keyword}", ramp.tobytes() if whole else segments)
            if not whole:
                delattr(dataset, keyword)
        seen.append(Image.of(written(dataset)).frame(1).values)
    np.testing.assert_allclose(seen[0], seen[1], atol=1)
    assert seen[0].max() == pytest.approx(239 * 257, rel=1e-4)


def test_full_and_subsampled_ybr_are_the_same_colour_as_rgb():
    from pydicom.pixels import convert_color_space

    rgb = np.repeat(np.random.default_rng(2).integers(0, 256, (40, 24, 3), dtype=np.uint8), 2, axis=1)
    ybr = convert_color_space(rgb, "RGB", "YBR_FULL")
    pairs = np.concatenate([ybr[:, 0::2, :1], ybr[:, 1::2, :1], ybr[:, 0::2, 1:]], axis=2)
    header = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7,
              "PixelRepresentation": 0}  # fmt: skip
    for photometric, raw in (("YBR_FULL", ybr), ("YBR_FULL_422", pairs), ("YBR_FULL_422", ybr)):
        decoded = Image.of(written(image(PhotometricInterpretation=photometric, PixelData=raw.tobytes(), **header)))
        assert np.abs(decoded.stored(1).astype(int) - rgb).max() <= 3


def enhanced(depths: list[float], times: list[int] | None = None, **frame_type: list[str]) -> Dataset:
    """One frame a depth, each filled with its own number, with its own rescale, position and window."""
    groups = []
    for number, depth in enumerate(depths):
        group, position, transformation, content, voi, kind = (Dataset() for _ in range(6))
        position.ImagePositionPatient = [0, 0, depth]
        transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = number + 1, 7, "HU"
        content.StackID, content.TemporalPositionIndex = "1", times[number] if times else 1
        voi.WindowCenter, voi.WindowWidth = 100 + number, 50
        kind.FrameType = frame_type.get("types", ["ORIGINAL"])[number % len(frame_type.get("types", ["ORIGINAL"]))]
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [position], [transformation]
        group.FrameContentSequence, group.FrameVOILUTSequence = [content], [voi]
        group.CTImageFrameTypeSequence = [kind]
        groups.append(group)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.5, 0.25]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    dataset = image(NumberOfFrames=len(depths), PerFrameFunctionalGroupsSequence=groups)
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PixelData = np.repeat(np.arange(1, len(depths) + 1, dtype="<i2"), 40 * 48).tobytes()
    return dataset


@given(st.lists(st.integers(-100, 100), unique=True, min_size=2, max_size=8))
@settings(deadline=None, max_examples=25)
def test_frames_come_in_the_order_of_their_geometry_each_with_its_own_groups(depths):
    data = written(enhanced(depths))
    decoded = Image.of(data)
    for number in range(1, len(depths) + 1):
        assert (decoded.frame(number).values == number * number + 7).all()
        assert decoded.voi(number).centre == 99 + number
    prepared = prepare(data, ROW, InputContract(8, 8, scaling="ct-lung"))
    assert [depths[item.frame - 1] for _, item in prepared] == sorted(depths)
    assert {item.spacing_mm for _, item in prepared} == {(0.5, 0.25)}


def test_frames_of_several_times_come_time_by_time():
    data = written(enhanced([2, 1, 2, 1], times=[2, 1, 1, 2]))
    assert [item.frame for _, item in prepare(data, ROW, InputContract(8, 8, scaling="ct-lung"))] == [2, 3, 4, 1]


def test_localizer_frames_are_left_out():
    data = written(enhanced([1, 2, 3], types=["ORIGINAL\\PRIMARY\\LOCALIZER", "ORIGINAL\\PRIMARY\\VOLUME"]))
    assert [item.frame for _, item in prepare(data, ROW, InputContract(8, 8, scaling="ct-lung"))] == [2]
