"""Markers that the reader took for something else are read again and stay; what is near the header never does."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from medai_pipeline.burned_in.doubt import reconsidered
from medai_pipeline.burned_in.ocr import Line
from medai_pipeline.burned_in.reading import identifies
from medai_pipeline.burned_in.words import identity_words, is_harmless, with_units_mended
from medai_pipeline.phantoms.burned_in_fonts import fonts, lettering
from medai_pipeline_tests.dicom_objects import image

MARKED = image(PatientName="MARKOVIC^JELENA^LI", PatientBirthDate="19610312")


def marked(*texts: tuple[str, int, int], side: int = 160) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Small letters on dark ground, and a box around the ink of each text at (x, y)."""
    picture = (12 + np.random.default_rng(9).integers(0, 5, (side, side))).astype(np.uint8)
    boxes = []
    for text, x, y in texts:
        ink = lettering(text, FONT, 10)
        rows, columns = ink.shape
        part = picture[y : y + rows, x : x + columns]
        part[...] = np.maximum(part, (240 * ink).astype(np.uint8))
        boxes.append((x - 4, y - 4, x + columns + 4, y + rows + 4))
    return picture, boxes


FONT = next(font for font in fonts() if font.name == "DejaVuSans.ttf" and not font.pixelated)


@pytest.mark.parametrize(
    ("written_there", "said"), [("kV 120", "IMLs"), ("Depth 12 cm", "Dlepth 12 cm"), ("10 cm", "10 am")]
)
def test_a_marker_that_was_misread_is_read_again_and_stays(written_there: str, said: str) -> None:
    picture, (box,) = marked((written_there, 40, 60))
    identity = identity_words(MARKED)
    line = Line(box, 0.9, said, 0.9)
    assert identifies(line, identity)
    (again,) = reconsidered(picture, [line], identity)
    assert not identifies(again, identity)


@pytest.mark.parametrize("name", ["JELENA", "MARKER", "Karl Lee", "12.03.1961"])
def test_a_name_that_was_misread_goes_however_often_it_is_read(name: str) -> None:
    picture, (box,) = marked((name, 30, 60))
    dataset = image(PatientName="MARKEL^JELENA", PatientBirthDate="19610312")
    line = Line(box, 0.9, "QXZWV", 0.9)
    (again,) = reconsidered(picture, [line], identity_words(dataset))
    assert identifies(again, identity_words(dataset))


def test_markers_that_the_detector_joined_are_left_out_and_a_name_beside_them_is_not() -> None:
    identity = identity_words(MARKED)
    picture, boxes = marked(("LEFT", 60, 40), ("SUPINE", 50, 56))
    settled = [Line(box, 0.9, text, 0.99) for box, text in zip(boxes, ("LEFT", "SUPINE"), strict=True)]
    joined = Line((46, 36, 110, 70), 0.7, "SJEPIFT", 0.8)
    assert reconsidered(picture, [*settled, joined], identity) == settled
    with_name, _ = marked(("LEFT", 60, 40), ("SUPINE", 50, 56), ("XU", 96, 42))
    assert joined in reconsidered(with_name, [*settled, joined], identity)


def test_a_marker_beside_a_bone_is_no_word_and_a_word_of_two_letters_is() -> None:
    identity = identity_words(MARKED)
    picture, (box,) = marked(("H", 80, 60))
    cv2.ellipse(picture, (50, 66), (18, 40), 0, -60, 60, 40, 4)
    joined = Line((42, box[1] - 4, box[2] + 4, box[3] + 4), 0.6, "OH", 0.95)
    assert identifies(joined, identity)
    assert reconsidered(picture, [joined], identity) == []
    picture, (box,) = marked(("OH", 80, 60))
    name = Line(box, 0.9, "OH", 0.95)
    assert reconsidered(picture, [name], identity) == [name]


@pytest.mark.parametrize("text", ["10 cn", "10 am", "4.0 mn", "HR 72 lpm", "GN 34 EPS"])
def test_a_unit_is_known_again_when_a_letter_is_misread(text: str) -> None:
    assert not is_harmless(text)
    assert is_harmless(with_units_mended(text))


@pytest.mark.parametrize("text", ["12 KIM", "45 DAS", "MARIA 10", "03 DEC", "1961 cn", "10 LEE"])
def test_a_number_before_a_name_makes_it_no_unit(text: str) -> None:
    assert with_units_mended(text) == text


@pytest.mark.parametrize(
    ("header", "said"), [("LI", "L1"), ("KIM", "KM"), ("ANN", "AN"), ("MARKEL", "MARKER"), ("HANS", "HAND")]
)
def test_a_doubtful_line_near_a_word_of_the_header_is_no_marker(header: str, said: str) -> None:
    assert identity_words(image(PatientName=header)).comes_near(said)
    assert not identity_words(image(PatientName=header)).comes_near("DEPTH")
