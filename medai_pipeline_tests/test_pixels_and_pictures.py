"""Stored pixels become modality values, tensors and pictures, as the standard says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset

from medai_pipeline.dicom.image import Image
from medai_pipeline.dicom.pixels import prepare
from medai_pipeline.dicom.render import display, encode_png
from medai_pipeline.errors import UnsupportedImage
from medai_pipeline.records import InputContract, Instance
from medai_pipeline_tests.dicom_objects import image, written

ROW = Instance("2.25.1", "2.25.2", "2.25.3", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", "CT", "")


def values_of(dataset, frame: int = 1) -> np.ndarray:
    return Image.of(written(dataset)).frame(frame).values


def voi_window(dataset):
    found = Image.of(written(dataset)).voi(1)
    return found and found.window


def test_rescale_gives_hounsfield_units():
    values = values_of(image(RescaleSlope="2", RescaleIntercept="-1024"))
    assert values.dtype == np.float32 and values.shape == (40, 48)
    assert values[0, :3].tolist() == [-1024, -1022, -1020]


def test_a_slope_of_zero_does_not_erase_the_image():
    assert np.ptp(values_of(image(RescaleSlope="0"))) > 0


def test_each_frame_of_an_enhanced_object_has_its_own_rescale():
    def frame(slope: int) -> Dataset:
        transformation, groups = Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = slope, 10
        groups.PixelValueTransformationSequence = [transformation]
        return groups

    dataset = image(NumberOfFrames=2, PerFrameFunctionalGroupsSequence=[frame(1), frame(3)])
    dataset.PixelData = np.ones((2, 40, 48), "<i2").tobytes()
    assert values_of(dataset)[0, 0] == 11 and values_of(dataset, 2)[0, 0] == 13
    prepared = prepare(written(dataset), ROW, InputContract(8, 8, scaling="ct-lung"))
    assert [item.frame for _, item in prepared] == [1, 2]


@pytest.mark.parametrize(("photometric", "expected"), [("MONOCHROME2", 100), ("MONOCHROME1", 900)])
def test_padding_becomes_the_darkest_of_the_image(photometric, expected):
    pixels = np.full((40, 48), 100, "<i2")
    pixels[:20] = 900
    pixels[:5] = -2000
    dataset = image(PixelData=pixels.tobytes(), PhotometricInterpretation=photometric)
    dataset.add_new(0x00280120, "SS", -2000)
    values = values_of(dataset)
    assert (values[:5] == expected).all() and (values[5:20] == 900).all()


def test_the_first_window_is_taken_and_an_exact_one_translated():
    assert voi_window(image(WindowCenter=["40", "300"], WindowWidth=["80", "1500"])) == (40, 80)
    exact = image(WindowCenter="40", WindowWidth="80", VOILUTFunction="LINEAR_EXACT")
    assert voi_window(exact) == (40.5, 81)
    assert voi_window(image()) is None and voi_window(image(WindowCenter="40", WindowWidth="0")) is None


def test_monochrome1_is_shown_like_its_inverse_in_monochrome2():
    ramp = np.arange(40 * 48, dtype="<i2").reshape(40, 48)
    mono1 = image(Modality="CR", PhotometricInterpretation="MONOCHROME1", PixelData=ramp.tobytes())
    mono2 = image(Modality="CR", PixelData=(ramp.max() - ramp).astype("<i2").tobytes())
    assert Image.of(written(mono1)).inverted
    shown1, shown2 = display(written(mono1)).astype(int), display(written(mono2)).astype(int)
    assert np.abs(shown1 - shown2).max() <= 1 and np.ptp(shown1) == 255
    contract = InputContract(20, 24)
    (first, _), = prepare(written(mono1), ROW, contract)  # fmt: skip
    (second, _), = prepare(written(mono2), ROW, contract)  # fmt: skip
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_ct_is_shown_by_the_window_of_its_body_part():
    dataset = image(PixelData=np.full((40, 48), 40, "<i2").tobytes(), BodyPartExamined="BRAIN")
    dataset.PixelData = np.concatenate([np.full(960, 40), np.full(960, 1000)]).astype("<i2").tobytes()
    brain = display(written(dataset))
    dataset.BodyPartExamined = "CHEST"
    chest = display(written(dataset))
    assert abs(int(brain[0, 0]) - 128) <= 2 and brain[-1, -1] == 255
    assert chest[0, 0] > 200


def test_a_lookup_table_is_applied_where_there_is_no_window(test_data):
    data = (test_data / "dicom" / "pydicom-data" / "vlut_04.dcm").read_bytes()
    shown = display(data)
    assert Image.of(data).voi(1).lut is not None and shown.dtype == np.uint8 and np.ptp(shown) == 255


def test_colour_becomes_luminance(test_data):
    for name in ("SC_rgb.dcm", "SC_ybr_full_uncompressed.dcm", "OBXXXX1A.dcm"):
        shown = display((test_data / "dicom" / "pydicom-data" / name).read_bytes())
        assert shown.ndim == 2 and len(np.unique(shown)) > 4, name


def test_a_frame_that_is_not_there_is_refused():
    with pytest.raises(UnsupportedImage):
        display(written(image()), frame=2)


@pytest.mark.parametrize("shape", [(30, 20), (30, 20, 3)])
def test_png_gives_back_the_picture(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    decoded = cv2.imdecode(np.frombuffer(encode_png(picture), np.uint8), cv2.IMREAD_UNCHANGED)
    assert (decoded == (picture if picture.ndim == 2 else picture[..., ::-1])).all()
