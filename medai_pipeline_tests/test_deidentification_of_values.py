"""A value stays only where it is by the grammar of its VR, by its multiplicity, and names no person of the header."""

from __future__ import annotations

import struct

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID_dictionary

from medai_pipeline.dicom import grammar
from medai_pipeline.dicom.dates import well_formed
from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.matcher import one_of
from medai_pipeline.dicom.options import parse_options
from medai_pipeline.dicom.read import parse
from medai_pipeline_tests.dicom_objects import UID_MARKER, image, written

KEY = b"a key that only this test knows!"


def deidentified(dataset: Dataset, *names: str) -> Dataset:
    return parse(Deidentifier(KEY, parse_options(names)).deidentify(written(dataset)).data)


def swapped(before: bytes, after: bytes, *names: str, **attributes: object) -> bytes:
    """The file of an image with other bytes of the same length in a value, which pydicom would not write; de-identified."""
    source = written(image(**attributes))
    assert source.count(before) == 1 and len(before) == len(after)
    return Deidentifier(KEY, parse_options(names)).deidentify(source.replace(before, after)).data


# numbers as text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "found", [b"55-0147-88", b"+-55014788", b"5550147..8", b"5.5.0.1.47", b"5550147 88", b"55e01e4788"]
)
def test_a_telephone_number_is_no_decimal_string(found):
    assert found not in swapped(b"1234567890", found, DistanceSourceToDetector="1234567890")


def test_a_number_that_is_too_long_is_written_as_one_that_is_not():
    before, after = b"0.123456789012345678", b"0.123456789012345678"
    data = swapped(before, after, PixelSpacing=["0.123456789012345678", "0.5"])
    spacing = parse(data).PixelSpacing
    assert before not in data and spacing[0] == pytest.approx(0.123456789012345678, rel=1e-12) and spacing[1] == 0.5
    assert all(len(str(value)) <= 16 for value in spacing)


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**14), 10**14).map(str),
    st.from_regex(r"[-+ .eE0-9A-Z]{0,20}", fullmatch=True),
    st.just(""),
)


@given(st.sampled_from(["DS", "IS"]), st.lists(NUMBERS, min_size=1, max_size=5))
def test_what_stays_of_numbers_is_by_their_grammar_and_says_the_same(vr, texts):
    value = "\\".join(texts).encode()
    kept = grammar.numbers(vr, value)
    numbers = [text.strip() for text in texts]
    if kept is None:
        return
    for before, after in zip(numbers, bytes(kept).decode().strip("\0 ").split("\\"), strict=True):
        assert len(after) <= (16 if vr == "DS" else 12)
        assert (before == "") == (after.strip() == "")
        assert not before or float(after) == pytest.approx(float(before), rel=1e-8, abs=1e-300)
        assert vr == "DS" or not after.strip() or int(after) == float(before)


@pytest.mark.parametrize(
    "number", ["4711234", "+4711234", "4711234.0", "0004711234", "4711234.", "471123.4e1", "4711234E0"]
)
def test_the_person_s_number_goes_in_whatever_way_it_is_written(number):
    result = deidentified(image(PatientID="4711234", TubeAngle=7.5, DistanceSourceToPatient=number))
    assert float(result.get("DistanceSourceToPatient") or 0) != 4711234


def test_more_values_than_the_dictionary_allows_are_no_value():
    dataset = image(KVP="120", ExposureTime="4")
    dataset.add_new(0x00180060, "DS", ["84", "72", "79", "77", "65", "83"])  # KVP: one value
    dataset.add_new(0x00189073, "FD", [84.0, 72.0, 79.0])  # Acquisition Duration: one
    dataset.add_new(0x00280301 + 0x1000 - 0x201, "US", [84, 72])  # (0028,1100): not in PS3.6
    dataset.add_new(0x00281101, "US", [256, 0, 16, 84])  # Red Palette Descriptor: three
    result = deidentified(dataset)
    assert not result.get("KVP") and 0x00189073 not in result and 0x00281100 not in result
    assert "RedPaletteColorLookupTableDescriptor" not in result and result.ExposureTime == 4


@pytest.mark.parametrize("encode", [str.encode, lambda t: t.encode("utf-16-le"), lambda t: t.encode("utf-16-be")])
def test_binary_values_that_spell_the_person_go(encode):
    dataset = image(PatientName="Vandermeer^Al")
    secret = encode("of Vandermeer!")
    dataset.add_new(0x00289520, "IS", "3")
    dataset.add_new(0x00281201, "OW", secret + bytes(len(secret) & 1))  # Red Palette Data
    dataset.add_new(0x00186021, "SL", 7)
    padded = secret + bytes(-len(secret) % 4)
    dataset.add_new(0x00189810, "US", 3)
    dataset.add_new(0x00280009, "AT", list(struct.unpack(f"<{len(padded) // 4}L", padded)))  # Frame Increment Pointer
    data = Deidentifier(KEY).deidentify(written(dataset)).data
    assert b"vandermeer" not in data.lower().replace(b"\0", b"")


# dates, code strings, UIDs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vr", "value", "good"),
    [
        ("DA", b"20240229", True),
        ("DA", b"20230229", False),
        ("DA", b"48151623", False),
        ("DA", b"00000000", False),
        ("DA", b"16.11.2020", False),
        ("TM", b"235960", True),
        ("TM", b"478512", False),
        ("TM", b"12:30", True),
        ("DT", b"20200301112233.5+0130", True),
        ("DT", b"20200301-0500", True),
        ("DT", b"20201301", False),
        ("DT", b"48151623", False),
        ("DT", b"2020030147", False),
        ("AS", b"047Y", True),
        ("AS", b"47Y ", False),
    ],
)
def test_a_date_is_a_day_that_there_is(vr, value, good):
    assert well_formed(vr, value) is good


@pytest.mark.parametrize("number", [b"48151623", b"99999999", b"00471188"])
def test_a_number_in_a_date_goes_though_dates_are_kept(number):
    data = swapped(b"20200301", number, "retain-full-dates", StudyDate="20200301")
    assert number not in data and not parse(data).StudyDate


@pytest.mark.parametrize("text", ["Chest of Jane", "jane doe", "CHEST_ABDOMEN_PELVIS_HEAD", "JÜRGEN"])
def test_a_code_string_has_sixteen_capitals_and_digits_at_most(text):
    dataset = image(SpecificCharacterSet="ISO_IR 192", BodyPartExamined=text, ScanOptions=text, PatientSex=text)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", text]
    data = Deidentifier(KEY, parse_options("retain-patient-characteristics")).deidentify(written(dataset)).data
    assert text.encode() not in data and list(parse(data).ImageType)[:2] == ["ORIGINAL", "PRIMARY"]


def test_a_code_string_in_small_letters_is_written_in_capitals():
    assert deidentified(image(BodyPartExamined="Chest")).BodyPartExamined == "CHEST"


@pytest.mark.parametrize(
    "uid", ["0151471188", "4711.188.3", "1.2.0003.4711", "1..2.3", "1.2.3.", "19610312", "1.2.840." + "9" * 60]
)
def test_a_uid_that_is_none_is_replaced_whatever_keeps_uids(uid):
    dataset = image()
    dataset.ReferencedImageSequence = [Dataset()]
    dataset.ReferencedImageSequence[0].add_new(0x00081155, "UI", uid)
    dataset.add_new(0x00181002, "UI", uid)  # Device UID
    options = ("retain-uids", "retain-device-identity")
    result = deidentified(dataset, *options)
    assert result.DeviceUID == result.ReferencedImageSequence[0].ReferencedSOPInstanceUID != uid
    assert result.SOPInstanceUID == f"{UID_MARKER}.1"


@pytest.mark.parametrize("uid", ["1.2.840.10008.5.1.4.196.103.12", "1.2.840.10008.5.1.4.1.1.4711.88", "1.2.840.10008.5.1.4.1.1.2.471.188"])  # fmt: skip
def test_a_class_that_the_standard_does_not_have_is_replaced(uid):
    dataset = image()
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = uid, f"{UID_MARKER}.1"
    dataset.ReferencedImageSequence = [item]
    assert uid not in UID_dictionary
    assert deidentified(dataset).ReferencedImageSequence[0].ReferencedSOPClassUID.startswith("2.25.")


# texts of any size -------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=30), st.binary(max_size=200))
def test_the_one_pattern_finds_what_each_word_finds(words, text):
    found = one_of(words).search(text) is not None
    assert found == any(word[:32] in text for word in words)


def test_a_text_beyond_a_megabyte_is_not_kept():
    dataset = image(SoftwareVersions="syngo", SpecificCharacterSet="ISO_IR 192")
    dataset.add_new(0x00189424, "LT", "chest " * 200_000)  # Acquisition Protocol Description
    dataset.add_new(0x00281055, "LO", "lung " * 10)
    result = deidentified(dataset, "clean-descriptors")
    assert not result.get("AcquisitionProtocolDescription") and result.SoftwareVersions == "syngo"


def test_a_list_of_code_strings_that_is_no_image_type_is_not_judged_one_by_one():
    dataset = image(
        PatientName="Quxberg^Al", ImageType=["ORIGINAL", "PRIMARY", *(f"A{number}" for number in range(2000))]
    )
    assert deidentified(dataset).get("ImageType") in (None, "", "ANONYMIZED")


# identity beats options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "keyword"),
    [
        ("retain-device-identity", "StationName"),
        ("retain-device-identity", "DeviceSerialNumber"),
        ("retain-device-identity", "PerformedStationName"),
        ("retain-institution-identity", "InstitutionName"),
        ("retain-institution-identity", "InstitutionalDepartmentName"),
    ],
)
@pytest.mark.parametrize("text", ["BRZEZICKI", "Room of Brzezicki", "QUXBERG-1", "QX4711234"])
def test_what_an_option_keeps_names_no_person_of_the_header(option, keyword, text):
    people = {"PatientName": "Quxberg^Al", "OperatorsName": "Brzezicki^Ola", "PatientID": "4711234"}
    kept = deidentified(image(**people, **{keyword: text}), option)
    assert text not in str(kept.get(keyword, ""))
    assert deidentified(image(**people, **{keyword: "ROOM4"}), option).get(keyword) == "ROOM4"


@pytest.mark.parametrize(
    "date",
    ["610312", "120361", "031261", "61-03-12", "12.03.61", "12/03/61", "12 03 61", "12MAR61", "12-Mar-61", "3.12.61"],
)
@pytest.mark.parametrize("text", ["chest {}", "{}", "lung dob {} axial", "b{}", "{}mm"])
def test_a_date_of_six_digits_stays_in_no_text(date, text):
    said = text.format(date)
    dataset = image(PatientBirthDate="19610312", StudyDescription=said, SoftwareVersions=said, SegmentLabel=said)
    result = deidentified(dataset, "clean-descriptors", "retain-device-identity")
    digits = "".join(c for c in date if c.isdigit())
    for keyword in ("StudyDescription", "SoftwareVersions", "SegmentLabel"):
        assert digits not in "".join(c for c in str(result.get(keyword, "")) if c.isdigit()), keyword


def test_six_digits_that_are_part_of_a_longer_number_are_no_date():
    dataset = image(PatientBirthDate="19610312", DeviceSerialNumber="SN7610312004")
    assert deidentified(dataset, "retain-device-identity").DeviceSerialNumber == "SN7610312004"


# private texts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vr", "element", "text", "kept"),
    [
        ("LO", 0x80, "Vandermeer, Al", ""),
        ("LO", 0x80, "axial lung of Vandermeer", "axial lung of"),
        ("SH", 0x64, "/1.0:1", "/1.0:1"),
        ("ST", 0x5A, "born 12.03.1961 in Porthaven", "in"),
        ("ST", 0x5A, "call 0151-471188", ""),
        ("CS", 0x04, "ELSEWHERE", "ELSEWHERE"),
        ("CS", 0x04, "QUXBERG", ""),
        ("CS", 0x04, "for Quxberg", ""),
        ("CS", 0x04, "19610312", ""),
    ],
)
def test_a_safe_private_text_is_kept_with_its_safe_words_alone(vr, element, text, kept):
    dataset = image(PatientName="Quxberg^Zoltan")
    dataset.add_new(0x20010010, "LO", "Philips Imaging DD 001")
    dataset.add_new(0x20011000 | element, "LO" if vr == "CS" and text != text.upper() else vr, text)
    if vr == "CS" and text != text.upper():
        dataset[0x20011000 | element].VR = vr
    result = deidentified(dataset, "retain-safe-private")
    assert result[0x20010010].value == "Philips Imaging DD 001"
    assert (result[0x20011000 | element].value or "") in (kept, "" if kept == "in" else kept)


def test_a_private_uid_is_replaced_unless_uids_are_kept():
    dataset = image()
    dataset.add_new(0x00990010, "LO", "NQHeader")
    dataset.add_new(0x00991001, "UI", f"{UID_MARKER}.8")
    replaced = deidentified(dataset, "retain-safe-private")[0x00991001].value
    assert replaced.startswith("2.25.")
    assert deidentified(dataset, "retain-safe-private", "retain-uids")[0x00991001].value == f"{UID_MARKER}.8"


def test_pydicom_writes_what_is_kept(tmp_path):
    """The rewritten values are read back by another reader."""
    dataset = image(BodyPartExamined="Chest", PixelSpacing=["0.12345678901234567", "1"])
    (tmp_path / "f.dcm").write_bytes(Deidentifier(KEY).deidentify(written(dataset)).data)
    assert pydicom.dcmread(tmp_path / "f.dcm").PixelSpacing[1] == 1
