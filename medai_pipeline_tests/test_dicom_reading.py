"""Files are read as they come from the world; what is broken is named, and nothing of it leaks or hangs."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.elements import encode, read_part10
from medai_pipeline.dicom.pixels import decode
from medai_pipeline.dicom.read import find_files, group_by_study, identity_of, is_dicom_candidate, parse
from medai_pipeline.errors import DicomError, MedaiError, NotDicom, TruncatedFile
from medai_pipeline_tests.dicom_objects import MARKER, UID_MARKER, image, planted, written

PLANTED = written(planted())
DEIDENTIFIER = Deidentifier(b"0123456789abcdef")
NOT_WHOLE = {"emri_small_jpeg_2k_lossless_too_short.dcm": TruncatedFile}


def never_leaks(data: bytes) -> None:
    """Every step either works or raises one of our errors, whose one line says nothing of the file."""
    for step in (lambda: decode(parse(data)), lambda: parse(data, pixels=False), lambda: DEIDENTIFIER.deidentify(data)):
        try:
            step()
        except MedaiError as error:
            assert MARKER not in str(error) and UID_MARKER not in str(error) and "\n" not in str(error)
            assert error.__context__ is None or MARKER not in str(error.__context__)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, len(PLANTED)))
@example(0)
@example(131)
@example(132)
@example(140)
def test_a_file_cut_anywhere_raises_only_our_errors(length):
    never_leaks(PLANTED[:length])


@settings(deadline=None, max_examples=400)
@given(st.lists(st.tuples(st.integers(0, 2600), st.integers(0, 7)), min_size=1, max_size=6))
def test_flipped_bits_raise_only_our_errors(flips):
    data = bytearray(PLANTED)
    for position, bit in flips:
        data[position] ^= 1 << bit
    never_leaks(bytes(data))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300), st.booleans())
def test_garbage_raises_only_our_errors(garbage, prefixed):
    never_leaks(bytes(128) + b"DICM" + garbage if prefixed else garbage)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 2 * 40 * 48))
def test_missing_pixel_bytes_are_a_truncated_file(missing):
    with pytest.raises(TruncatedFile):
        parse(written(image())[:-missing])


def test_pixel_data_that_is_shorter_than_its_header_says_is_truncated():
    with pytest.raises(TruncatedFile, match="too short"):
        parse(written(image(PixelData=bytes(100))))


@pytest.mark.parametrize("cut", range(1, 12))
def test_an_object_cut_inside_its_last_element_is_truncated(cut):
    dataset = image()
    del dataset.PixelData
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    with pytest.raises(TruncatedFile):
        parse(written(dataset)[:-cut])


def test_a_cut_deflated_file_is_truncated():
    dataset = image()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file = BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    assert parse(file.getvalue()).Rows == 40
    with pytest.raises(TruncatedFile):
        parse(file.getvalue()[:-20])


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_and_file_meta_is_read(implicit):
    dataset = image()
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    whole = written(dataset)
    bare = bytes(read_part10(whole).dataset)
    assert bare[:2] == b"\x08\x00"
    read = parse(bare)
    assert read.Rows == 40 and read.file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID
    assert (decode(read) == decode(parse(whole))).all()


@pytest.mark.parametrize(
    "data", [b"", b"PK\3\4" + bytes(300), b"%PDF-1.7" + bytes(300), b"\x28\xb5\x2f\xfd" + b"x" * 300]
)
def test_other_files_are_not_dicom(data):
    with pytest.raises(DicomError):
        parse(data)


def test_endless_nesting_is_refused():
    item = bytes.fromhex("08004011 5351 0000 ffffffff feff00e0 ffffffff")
    with pytest.raises(NotDicom):
        parse(bytes(128) + b"DICM" + bytes.fromhex("0800050043530000") + item * 5000)


def test_elements_written_again_give_the_same_data_set():
    part = read_part10(PLANTED)
    again = pydicom.dcmread(BytesIO(encode(part.elements, part.encoding)), force=True)
    original = pydicom.dcmread(BytesIO(PLANTED))
    assert [element.tag for element in again] == [element.tag for element in original]
    assert again.RequestAttributesSequence == original.RequestAttributesSequence


def test_every_real_file_is_read_or_named(test_data):
    read = 0
    for path in find_files([test_data / "dicom"]):
        data = path.read_bytes()
        if path.suffix in (".csv", ".json", ".zst"):
            assert not is_dicom_candidate(path)
            with pytest.raises(NotDicom):
                parse(data)
        elif path.name in NOT_WHOLE:
            with pytest.raises(NOT_WHOLE[path.name]):
                parse(data)
        else:
            assert is_dicom_candidate(path), path.name
            assert parse(data, pixels=False).SOPClassUID, path.name
            read += 1
    assert read == 175


def test_files_are_grouped_by_study_and_problems_name_no_file(tmp_path):
    for name, study in (("b/1", "8"), ("b/2", "9"), ("a/1", "9")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(written(image(StudyInstanceUID=f"{UID_MARKER}.{study}")))
    (tmp_path / "a" / f"{MARKER}.txt").write_text("notes")
    (tmp_path / "a" / "cut.dcm").write_bytes(written(image(StudyInstanceUID=f"{UID_MARKER}.8"))[:-9])
    (tmp_path / "a" / "cut-early.dcm").write_bytes(written(image())[:300])
    (tmp_path / ".hidden").write_bytes(b"x")
    (tmp_path / "DICOMDIR").write_bytes(b"x")
    studies, left = group_by_study([tmp_path])
    assert [(s.study_instance_uid[-1], [str(p.relative_to(tmp_path)) for p in s.paths]) for s in studies] == [
        ("9", ["a/1", "b/2"]),
        ("8", ["a/cut.dcm", "b/1"]),
    ]
    assert [(lost.path.name, lost.problem.code, lost.dicom) for lost in left] == [
        (f"{MARKER}.txt", "not-dicom", False),
        ("cut-early.dcm", "truncated", True),
    ]
    assert MARKER not in repr(left) and all(len(lost.problem.subject) == 12 for lost in left)


def test_files_come_in_the_same_order_every_time(tmp_path):
    for name in ("10", "2", "b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    found = [path.parent.name for path in find_files([tmp_path])]
    assert found == ["10", "2", "a", "b"]
    assert list(find_files([Path(tmp_path / "a" / "x")])) == [tmp_path / "a" / "x"]


def test_identity_is_what_the_file_says_and_its_repr_shows_nothing():
    identity = identity_of(parse(PLANTED))
    assert identity.patient_name == f"{MARKER}^JANE" and identity.patient_id == MARKER
    assert identity.study_instance_uid == f"{UID_MARKER}.2" and identity.uids == {}
    assert MARKER not in repr(identity)
