"""Every picture says which image it is and which side of the patient lies where, from the de-identified file."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.render import display
from medai_pipeline.dicom.whereabouts import edge_letters, film_letters, whereabouts
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.records import ImagePlace


@pytest.fixture(scope="module")
def ct() -> list[pydicom.Dataset]:
    return list(make_study(kind="chest-ct", seed=106, findings=("Consolidation",)).datasets)


@pytest.fixture(scope="module")
def films() -> list[pydicom.Dataset]:
    return list(make_study(kind="chest-xray", seed=101, findings=()).datasets)


def test_a_slice_is_named_by_its_numbers_and_its_position(ct):
    ds = ct[11]
    found = whereabouts(Deidentifier(b"k" * 32).deidentify(to_bytes(ds)).data, images=len(ct))
    z = float(ds.ImagePositionPatient[2])
    assert found.text == f"series {ds.SeriesNumber}, image {ds.InstanceNumber} of {len(ct)}, z {z:.1f} mm"
    assert found.edges == ("R", "L", "A", "P")


def test_a_film_has_letters_by_its_patient_orientation(films):
    assert [whereabouts(to_bytes(ds)).edges for ds in films] == [("R", "L", "H", "F"), ("A", "P", "H", "F")]
    assert whereabouts(to_bytes(films[0])).position_mm is None


def test_a_file_that_says_nothing_gets_no_letters_and_no_numbers(films):
    ds = pydicom.dcmread(io.BytesIO(to_bytes(films[0])))
    for word in ("SeriesNumber", "InstanceNumber", "PatientOrientation"):
        ds[word].value = None
    assert whereabouts(to_bytes(ds)) == ImagePlace()
    assert ImagePlace().text == ""


@pytest.mark.parametrize(
    ("orientation", "edges"),
    [
        ((1, 0, 0, 0, 1, 0), ("R", "L", "A", "P")),
        ((-1, 0, 0, 0, 1, 0), ("L", "R", "A", "P")),
        ((0, 1, 0, 0, 0, -1), ("A", "P", "H", "F")),
        ((1, 0, 0, 0, 0, -1), ("R", "L", "H", "F")),
        ((0.8, 0.6, 0, 0, 0, -1), ("RA", "LP", "H", "F")),
        ((0.98, 0.17, 0, -0.17, 0.98, 0), ("R", "L", "A", "P")),
        ((), ()),
        ((0, 0, 0, 0, 0, 0), ()),
    ],
)
def test_letters_follow_the_orientation(orientation, edges):
    assert edge_letters(orientation) == edges


@given(st.lists(st.floats(-1, 1).filter(lambda v: abs(v) > 1e-3), min_size=6, max_size=6))
def test_opposite_edges_have_opposite_letters(orientation):
    opposite = dict(zip("RLAPHF", "LRPAFH", strict=True))
    left, right, top, bottom = edge_letters(orientation)
    assert left == "".join(opposite[letter] for letter in right)
    assert top == "".join(opposite[letter] for letter in bottom)


@pytest.mark.parametrize("words", [(), ("L",), ("L", ""), ("<b>", "F"), ("LE", "RT")])
def test_orientations_that_are_none_give_no_letters(words):
    assert film_letters(words) == ()


def test_an_image_number_beyond_the_series_has_no_total():
    assert ImagePlace(3, 112, 24).text == "series 3, image 112"
    assert ImagePlace(3, 1, 1, frame=7, frames=60).text == "series 3, image 1, frame 7 of 60"


def test_the_lung_is_seen_in_the_window_of_the_model(ct):
    """A soft tissue window, which a file without a body part gets, draws the lung black."""
    ds = pydicom.dcmread(io.BytesIO(to_bytes(ct[12])))
    ds.BodyPartExamined = ""
    soft, seen = display(to_bytes(ds)), display(to_bytes(ds), scaling="ct-chest")
    values = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    lung = (values > -900) & (values < -700)
    assert soft[lung].max() == 0
    assert 30 < np.median(seen[lung]) < 100
