"""Text in the pixels goes; markers and every other pixel stay; what cannot be screened goes no further."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from medai_pipeline.burned_in.reading import lines_of
from medai_pipeline.burned_in.screen import Screened, Screener
from medai_pipeline.burned_in.words import identity_words, is_harmless
from medai_pipeline.dicom.pixels import decode, image_of
from medai_pipeline.errors import DeidentificationError
from medai_pipeline.phantoms.burned_in_images import BurnedInImage, make_burned_in
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline_tests.dicom_objects import image, written


def screened(data: bytes) -> tuple[Screened, pydicom.FileDataset]:
    result = Screener().screen(data)
    return result, pydicom.dcmread(BytesIO(result.data))


def outside(shape: tuple[int, ...], boxes) -> np.ndarray:
    keep = np.ones(shape[:2], bool)
    for x0, y0, x1, y1 in boxes:
        keep[y0:y1, x0:x1] = False
    return keep


def covered(word, boxes) -> float:
    x0, y0, x1, y1 = word.box
    return 1 - outside((y1, x1), boxes)[y0:y1, x0:x1].mean()


def assert_clean(made: BurnedInImage, data: bytes) -> pydicom.FileDataset:
    """Identity words masked, all else as `decode` gave it before."""
    before = pydicom.dcmread(BytesIO(data))
    result, after = screened(data)
    boxes = result.masks[1]
    for word in made.words:
        if word.identity and sum(letter.isalnum() for letter in word.text) > 1:
            assert covered(word, boxes) >= 0.95, (word, boxes)
    old, new = decode(before)[0], decode(after)[0]
    keep = outside(old.shape, boxes)
    assert old.dtype == new.dtype
    assert np.array_equal(old[keep], new[keep])
    return after


@pytest.mark.parametrize("kind", ["film", "ct", "mr", "ultrasound", "capture"])
@pytest.mark.parametrize("seed", [900, 901])
def test_identity_words_are_masked_and_no_other_pixel_changes(kind: str, seed: int) -> None:
    made = make_burned_in(kind, seed)
    after = assert_clean(made, to_bytes(made.dataset))
    assert after.file_meta.TransferSyntaxUID == made.dataset.file_meta.TransferSyntaxUID


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("kind", ["film", "ultrasound"])
def test_compressed_images_stay_correct_in_colour_and_syntax(kind: str, syntax: str) -> None:
    made = make_burned_in(kind, 902)
    made.dataset.compress(syntax, generate_instance_uid=False)
    after = assert_clean(made, to_bytes(made.dataset))
    assert after.file_meta.TransferSyntaxUID in (RLELossless, "1.2.840.10008.1.2.1")
    assert after.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2", "RGB")
    assert "LossyImageCompression" not in after or after.LossyImageCompression == "00"


def lettered(dataset: pydicom.Dataset, ink: int, ground: np.ndarray) -> pydicom.Dataset:
    """The data set with `ground` (rows, columns) as its pixels and a name written on it."""
    import cv2

    strokes = np.zeros(ground.shape[:2], np.uint8)
    cv2.putText(strokes, "MARKOVIC JELENA", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
    pixels = ground.copy()
    pixels[strokes > 0] = ink
    dataset.PatientName = "MARKOVIC^JELENA"
    dataset.Rows, dataset.Columns = ground.shape[:2]
    dataset.PixelData = pixels.tobytes()
    return dataset


LAYOUTS = {
    "signed 16 bit": ({"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}, "<i2", 1200, -1000),
    "unsigned 12 bit": ({"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}, "<u2", 4000, 100),
    "inverted": (
        {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME1"},
        "<u2",
        10,
        4000,
    ),
    "8 bit": ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}, "u1", 255, 20),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_grey_pixels_is_patched_in_place(layout: str) -> None:
    attributes, dtype, ink, ground = LAYOUTS[layout]
    noise = np.random.default_rng(5).integers(0, 9, (200, 300)).astype(dtype)
    data = written(lettered(image(**attributes), ink, (noise + np.dtype(dtype).type(ground)).astype(dtype)))
    result, after = screened(data)
    assert result.masks
    assert len(result.data) == len(data)
    assert not any("MARKOVIC" in line.text.upper() for line in lines_of(as_shown(after)))
    old, new = decode(pydicom.dcmread(BytesIO(data)))[0], decode(after)[0]
    keep = outside(old.shape, result.masks[1])
    assert np.array_equal(old[keep], new[keep])
    changed = np.flatnonzero(np.frombuffer(data, np.uint8) != np.frombuffer(result.data, np.uint8))
    assert len(data) - changed.min() <= old.nbytes + 8  # nothing before the pixel data is touched


def slanted_name(side: int, degrees: float) -> np.ndarray:
    """Strokes (rows, columns) of a name that runs at an angle through the middle."""
    import cv2

    strokes = np.zeros((side, side), np.uint8)
    cv2.putText(strokes, "MARKOVIC JELENA", (side // 2 - 130, side // 2 + 8), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), degrees, 1)
    return cv2.warpAffine(strokes, turn, (side, side)) > 127


@pytest.mark.parametrize("degrees", [30, -45])
def test_a_name_at_an_angle_is_masked(degrees: float) -> None:
    ground = (900 + np.random.default_rng(4).integers(0, 60, (400, 400))).astype("<u2")
    strokes = slanted_name(400, degrees)
    ground[strokes] = 4000
    dataset = image(PatientName="MARKOVIC^JELENA")
    dataset.Rows = dataset.Columns = 400
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation, dataset.PixelData = 12, 11, 0, ground.tobytes()
    dataset.Modality = "CR"
    _, after = screened(written(dataset))
    assert np.mean(decode(after)[0][strokes] == 4000) < 0.02


def test_a_name_that_fades_in_through_a_clip_is_masked() -> None:
    across = np.frombuffer(lettered(image(), 250, np.full((120, 320), 20, np.uint8)).PixelData, np.uint8)
    strokes = across.reshape(120, 320) == 250
    frames = np.full((18, 120, 320), 20, np.uint8)
    for number in range(18):
        frames[number][strokes] = 20 + 12 * number  # less than a step counts, from one frame to the next
    dataset = lettered(image(), 20, frames[0])
    dataset.PixelData, dataset.NumberOfFrames, dataset.Modality = frames.tobytes(), 18, "US"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    _, after = screened(written(dataset))
    assert decode(after)[17][strokes].max() < 60


def test_text_beyond_the_range_that_is_shown_is_found() -> None:
    strokes = lettered(image(), 1, np.zeros((256, 256), "<i2")).PixelData
    strokes = np.frombuffer(strokes, "<i2").reshape(256, 256) == 1
    y, x = np.mgrid[:256, :256] - 128
    pixels = np.where(np.hypot(x, y) < 60, 40, -3024).astype("<i2")
    pixels[strokes & (pixels == -3024)] = -1150  # darker than air: black through every window that shows a body
    dataset = image(PatientName="MARKOVIC^JELENA")
    dataset.Rows = dataset.Columns = 256
    dataset.Modality, dataset.PixelData, dataset.RescaleIntercept = "CT", pixels.tobytes(), 0
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, 1
    _, after = screened(written(dataset))
    assert np.mean(decode(after)[0][strokes & (pixels == -1150)] == -1150) < 0.05


def test_letters_higher_than_a_line_of_text_are_masked() -> None:
    import cv2

    strokes = np.zeros((512, 512), np.uint8)
    cv2.putText(strokes, "JELENA", (20, 300), cv2.FONT_HERSHEY_DUPLEX, 3.8, 255, 6)
    ground = (900 + np.random.default_rng(6).integers(0, 60, (512, 512))).astype("<u2")
    ground[strokes > 0] = 4000
    dataset = image(PatientName="MARKOVIC^JELENA")
    dataset.Rows = dataset.Columns = 512
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation, dataset.PixelData = 12, 11, 0, ground.tobytes()
    dataset.Modality = "CR"
    _, after = screened(written(dataset))
    assert np.mean(decode(after)[0][strokes > 0] == 4000) < 0.05


def as_shown(dataset: pydicom.Dataset) -> np.ndarray:
    from medai_pipeline.burned_in.pictures import picture_of

    shown = image_of(dataset)
    return picture_of(shown, shown.stored(1))


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_native_colour_is_patched_where_it_lies(photometric: str, planar: int) -> None:
    if photometric == "YBR_FULL_422" and planar:
        pytest.skip("subsampled colour has no planes")
    ground = np.full((120, 320, 3), (60, 128, 128) if photometric != "RGB" else (40, 50, 70), np.uint8)
    dataset = lettered(image(), 0, ground)
    pixels = np.frombuffer(dataset.PixelData, np.uint8).reshape(120, 320, 3).copy()
    strokes = (pixels == 0).all(axis=2)
    pixels[strokes] = (250, 128, 128) if photometric != "RGB" else (250, 250, 250)
    if photometric == "YBR_FULL_422":
        stored = np.empty((120, 160, 4), np.uint8)
        stored[..., :2] = pixels[..., 0].reshape(120, 160, 2)
        stored[..., 2:] = 128
    else:
        stored = np.moveaxis(pixels, -1, 0) if planar else pixels
    dataset.PixelData = stored.tobytes()
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, photometric, planar
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.Modality = "US"
    result, after = screened(written(dataset))
    assert result.masks
    assert after.PhotometricInterpretation == photometric
    new = decode(after)[0]
    assert new[~outside(new.shape, result.masks[1])].max() < 10  # black, not green
    keep = outside(new.shape, [(x0 - 1, y0, x1 + 1, y1) for x0, y0, x1, y1 in result.masks[1]])
    assert np.array_equal(new[keep], decode(dataset)[0][keep])


def test_text_in_one_frame_of_a_clip_is_found() -> None:
    rng = np.random.default_rng(3)
    ground = (20 + rng.integers(0, 9, (6, 160, 320))).astype(np.uint8)
    with_name = lettered(image(), 255, ground[3])
    frames = ground.copy()
    frames[3] = np.frombuffer(with_name.PixelData, np.uint8).reshape(160, 320)
    with_name.PixelData = frames.tobytes()
    with_name.NumberOfFrames, with_name.Modality = 6, "US"
    with_name.BitsAllocated, with_name.BitsStored, with_name.HighBit, with_name.PixelRepresentation = 8, 8, 7, 0
    result, after = screened(written(with_name))
    assert not any("JELENA" in line.text.upper() for line in lines_of(decode(after)[3]))
    assert set(result.masks) >= {4}


def test_text_in_one_slice_of_a_series_is_found_and_the_others_stay_as_they_are() -> None:
    study = make_study("chest-ct", 77, slices=8)
    named = make_study("chest-ct", 77, slices=8, burned_in=True)
    screener = Screener()
    for number, dataset in enumerate(study.datasets):
        data = to_bytes(named.datasets[number] if number == 5 else dataset)
        result = screener.screen(data)
        assert bool(result.masks) == (number == 5)
        assert result.masks or result.data is data


@pytest.mark.parametrize("kind", ["chest-ct", "brain-mr"])
def test_plain_slices_are_spared_the_reader(kind: str) -> None:
    screener = Screener()
    results = [screener.screen(to_bytes(dataset)) for dataset in make_study(kind, 77, slices=6).datasets]
    assert [result.frames_read for result in results] == [0] * 6
    assert all(result.pixels for result in results)


def test_films_with_markers_alone_are_not_touched() -> None:
    for seed in range(3):
        made = make_burned_in("film", 950 + seed, identity=False, markers=True)
        assert Screener().screen(to_bytes(made.dataset)).masks == {}


@pytest.mark.parametrize("text", ["L", "R", "PORTABLE", "AP ERECT", "Semi-Upright", "MI 1.2", "15cm", "kV 120", "FR 22Hz", "P Low", "55%", "3.5 MHz", "L LAT", "100 200 300 400", "W400L40", "LA", "SA", "FR 22H2"])  # fmt: skip
def test_markers_units_and_scales_are_harmless(text: str) -> None:
    assert is_harmless(text)


@pytest.mark.parametrize(
    "text", ["LEE", "1961-03-12", "4471920", "471 234 56", "Dr. Kim", "St Mary's", "L LEE", "10:42:11", "12/03/61"]
)
def test_names_dates_and_numbers_are_not(text: str) -> None:
    assert not is_harmless(text)


@pytest.mark.parametrize(
    "said", ["MARK0VIC", "MARKOVlC", "Markovié", "JELENA", "12.03.1961", "1961O312", "AC-77120", "LI"]
)
def test_the_headers_words_are_known_again_when_they_are_misread(said: str) -> None:
    dataset = image(PatientName="MARKOVIC^JELENA^LI", PatientBirthDate="19610312", AccessionNumber="AC77120")
    assert identity_words(dataset).matches(said)
    assert not identity_words(dataset).matches("PORTABLE")


def test_an_image_that_cannot_be_screened_goes_no_further() -> None:
    dataset = make_burned_in("ultrasound", 903).dataset
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.92"  # JPEG 2000 Part 2: no decoder here
    with pytest.raises(DeidentificationError, match="cannot be screened") as raised:
        Screener().screen(to_bytes(dataset))
    assert "\n" not in str(raised.value)


def test_what_a_compressed_frame_holds_above_its_stored_bits_does_not_leave() -> None:
    rng = np.random.default_rng(2)
    shown = rng.integers(0, 900, (64, 64)).astype("<u2")
    hidden = shown | (rng.integers(0, 16, (64, 64)) << 12).astype("<u2")
    dataset = image(BitsStored=16, HighBit=15, PixelRepresentation=0)
    dataset.Rows = dataset.Columns = 64
    dataset.PixelData = hidden.tobytes()
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit = 12, 11
    _, after = screened(written(dataset))
    assert np.array_equal(after.pixel_array, shown)


def test_importing_the_room_imports_no_runtime() -> None:
    code = "import sys, medai_pipeline.stages, medai_pipeline.burned_in.screen as s; import json; print(json.dumps([m for m in ('onnxruntime', 'rapidocr') if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == []


def test_real_ultrasounds_and_films_lose_names_and_keep_technique(test_data) -> None:
    gone = {"ZZZDOWNTIME", "00047431395", "120907058", "DAVIDSON", "DOUGLAS", "CLEVELAND"}
    folder = test_data / "deid"
    files = [folder / "deid-data" / "ultrasounds" / "RGB_IMAGE.dcm", folder / "presidio" / "0_ORIGINAL_compressed.dcm"]
    said = []
    for path in files:
        _, after = screened(path.read_bytes())
        said += [line.text.upper() for line in lines_of(as_shown(after))]
    assert not [text for text in said if any(word in text for word in gone)]
    assert {"PORTABLE", "L"} <= set(said)


def test_a_name_that_runs_up_the_border_is_masked_as_a_whole() -> None:
    ground = (30 + np.random.default_rng(8).integers(0, 9, (260, 320))).astype(np.uint8)
    across = np.frombuffer(lettered(image(), 250, ground).PixelData, np.uint8).reshape(260, 320)
    along = np.ascontiguousarray(np.rot90(across))
    upright = lettered(image(), 250, along)  # the same name across the picture, too
    upright.Modality = "OT"
    upright.BitsAllocated, upright.BitsStored, upright.HighBit, upright.PixelRepresentation = 8, 8, 7, 0
    data = written(upright)
    result, after = screened(data)
    assert np.all(decode(after)[0] < 60)  # nothing of the ink is left
    assert result.masks
