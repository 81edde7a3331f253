"""What the viewer is sent of a frame: the stored values, and what they mean. That it draws them rightly: `test_pages_*`."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from pydicom.dataset import Dataset

from medai_pipeline.dicom.viewing import viewed
from medai_pipeline.errors import NoPixels, TruncatedFile, UnsupportedImage
from medai_pipeline_tests.dicom_objects import image, written
from medai_pipeline_tests.test_pixel_values import lut_item

KINDS = {"uint8": "<u1", "uint16": "<u2", "int16": "<i2", "float32": "<f4", "rgb": "<u1"}


def unpacked(data: bytes):
    """(header, values, the bytes behind them)."""
    (length,) = struct.unpack("<I", data[:4])
    header = json.loads(data[4 : 4 + length])
    shape = (header["rows"], header["columns"], *([3] if header["kind"] == "rgb" else []))
    kind = np.dtype(KINDS[header["kind"]])
    end = 4 + length + int(np.prod(shape)) * kind.itemsize
    assert (4 + length) % 8 == 0
    return header, np.frombuffer(data[4 + length : end], kind).reshape(shape), data[end:]


def shown(dataset: Dataset, frame: int = 1):
    return unpacked(viewed(written(dataset), frame))


@pytest.mark.parametrize(("bits", "signed"), [(8, 0), (12, 0), (16, 0), (12, 1), (16, 1)])
def test_values_are_those_that_were_stored_bit_for_bit(bits, signed):
    kind = np.dtype("<u1" if bits == 8 else "<i2" if signed else "<u2")
    low = -(1 << bits - 1) if signed else 0
    stored = np.random.default_rng(bits).integers(low, low + (1 << bits), (40, 48)).astype(kind)
    allocated = 8 if bits == 8 else 16
    dataset = image(
        BitsAllocated=allocated, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=signed,
        PixelData=stored.tobytes(), RescaleSlope=2, RescaleIntercept=-1024,
    )  # fmt: skip
    header, values, rest = shown(dataset)
    np.testing.assert_array_equal(values, stored)
    assert (header["slope"], header["intercept"], header["bits"], rest) == (2, -1024, bits, b"")
    assert header["range"]["least"] == int(stored.min()) * 2 - 1024
    assert header["range"]["greatest"] == int(stored.max()) * 2 - 1024


def test_a_modality_table_is_applied_before_values_are_sent():
    entries = np.arange(0, 2000)[::-1]
    dataset = image(ModalityLUTSequence=[lut_item([2000, 0, 16], entries)])
    del dataset.RescaleSlope, dataset.RescaleIntercept
    header, values, _ = shown(dataset)
    np.testing.assert_array_equal(values, entries[: 40 * 48].reshape(40, 48))
    assert (header["kind"], header["slope"]) == ("uint16", 1)


def test_a_voi_table_comes_behind_the_values():
    entries = np.random.default_rng(3).integers(0, 4096, 300)
    dataset = image(VOILUTSequence=[lut_item([300, 5, 12], entries)], Modality="DX")
    header, _, rest = shown(dataset)
    assert header["lut"] == {"first": 5, "entries": 300, "largest": 4095}
    np.testing.assert_array_equal(np.frombuffer(rest, "<u2"), entries)


def test_all_usable_windows_are_named_in_their_order():
    header, *_ = shown(image(WindowCenter=["40", "-600", "9"], WindowWidth=["400", "1500", "0"]))
    assert [(w["centre"], w["width"]) for w in header["windows"]] == [(40, 400), (-600, 1500)]


def test_padding_is_told_as_stored_and_counts_in_no_range():
    dataset = image(PixelPaddingValue=-2000)
    pixels = np.arange(40 * 48, dtype="<i2")
    pixels[:500] = -2000
    dataset.PixelData = pixels.tobytes()
    header, values, _ = shown(dataset)
    assert header["padding"] == [-2000, -2000]
    assert values.min() == -2000
    assert header["range"]["least"] == 500


def test_monochrome1_is_told_and_not_turned():
    header, values, _ = shown(image(PhotometricInterpretation="MONOCHROME1"))
    assert header["inverted"]
    assert values[0, 0] == 0


def test_colour_is_sent_as_rgb():
    stored = np.random.default_rng(5).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    dataset = image(
        SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelRepresentation=0, PixelData=stored.tobytes(), Modality="US",
    )  # fmt: skip
    header, values, _ = shown(dataset)
    np.testing.assert_array_equal(values, stored)
    assert header["kind"] == "rgb"
    assert "windows" not in header


def test_each_frame_is_sent_alone():
    dataset = image(NumberOfFrames=2, PixelData=np.arange(2 * 40 * 48, dtype="<i2").tobytes())
    header, values, _ = shown(dataset, 2)
    assert (header["frame"], header["frames"], values[0, 0]) == (2, 2, 40 * 48)
    with pytest.raises(UnsupportedImage):
        viewed(written(dataset), 3)


def test_wide_values_are_sent_as_floats_of_the_modality():
    stored = np.arange(40 * 48, dtype="<u4") + 70000
    dataset = image(BitsAllocated=32, BitsStored=32, HighBit=31, PixelRepresentation=0, PixelData=stored.tobytes())
    header, values, _ = shown(dataset)
    assert header["kind"] == "float32"
    np.testing.assert_array_equal(values, stored.reshape(40, 48).astype(np.float32))


@pytest.mark.parametrize(
    ("modality", "spacing", "imager", "expected"),
    [
        ("CT", ["0.5", "0.7"], None, ([0.5, 0.7], False)),
        ("DX", None, ["0.2", "0.2"], ([0.2, 0.2], True)),
        ("DX", ["0.2", "0.2"], ["0.2", "0.2"], ([0.2, 0.2], True)),
        ("DX", ["0.18", "0.18"], ["0.2", "0.2"], ([0.18, 0.18], False)),
        ("CT", None, None, (None, False)),
        ("CT", ["0", "0.7"], None, (None, False)),
    ],
)
def test_lengths_say_where_they_hold(modality, spacing, imager, expected):
    """PS3.3 10.7.1.3: a film's spacing is that of the detector unless it was calibrated."""
    dataset = image(Modality=modality)
    if spacing:
        dataset.PixelSpacing = spacing
    if imager:
        dataset.ImagerPixelSpacing = imager
    header, *_ = shown(dataset)
    assert (header["spacing_mm"], header["at_detector"]) == expected


def test_pixels_that_are_not_square_keep_the_patients_proportions():
    assert shown(image(PixelSpacing=["1.0", "0.5"]))[0]["aspect"] == 2.0
    assert shown(image(PixelAspectRatio=[4, 3]))[0]["aspect"] == pytest.approx(4 / 3, abs=1e-5)


def test_sides_of_the_patient_come_with_the_image():
    header, *_ = shown(
        image(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"], ImagePositionPatient=["0", "0", "12.5"])
    )
    assert header["edges"] == ["R", "L", "A", "P"]
    assert (header["axis"], header["position_mm"]) == ("z", 12.5)


def test_what_cannot_be_shown_says_why():
    dataset = image()
    del dataset.PixelData
    with pytest.raises(NoPixels):
        viewed(written(dataset))
    with pytest.raises(TruncatedFile):
        viewed(written(image(PixelData=b"\0" * 100)))


def test_nothing_that_identifies_is_sent():
    dataset = image(PatientName="ZQXMARKER^JANE", WindowCenterWidthExplanation="ZQXMARKER")
    assert b"ZQXMARKER" not in viewed(written(dataset))
