"""Every row of PS3.15 Table E.1-1 under each option, read from the standard's table by the test itself."""

from __future__ import annotations

import csv
import re
from datetime import date
from io import BytesIO

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.options import DATES, Option, checked, parse_options
from medai_pipeline.dicom.read import parse
from medai_pipeline.errors import DeidentificationError, SettingsError
from medai_pipeline_tests.dicom_objects import MARKER, UID_MARKER, image, planted, written

KEY = b"a key that only this test knows!"
COLUMNS = {
    "retain-safe-private": "retain_safe_private",
    "retain-uids": "retain_uids",
    "retain-device-identity": "retain_device_identity",
    "retain-institution-identity": "retain_institution_identity",
    "retain-patient-characteristics": "retain_patient_characteristics",
    "retain-full-dates": "retain_long_full_dates",
    "retain-modified-dates": "retain_long_modified_dates",
    "clean-descriptors": "clean_descriptors",
    "clean-structured-content": "clean_structured_content",
    "clean-graphics": "clean_graphics",
}
CODES = {
    "clean-pixel-data": "113101",
    "clean-graphics": "113103",
    "clean-structured-content": "113104",
    "clean-descriptors": "113105",
    "retain-full-dates": "113106",
    "retain-modified-dates": "113107",
    "retain-patient-characteristics": "113108",
    "retain-device-identity": "113109",
    "retain-uids": "113110",
    "retain-safe-private": "113111",
    "retain-institution-identity": "113112",
}
# A value for each VR that nobody could take for a dummy, and that an option may keep
PLANTED = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UT"), "ZQXVALUE"),
    "AS": "047Y",
    "DA": "19770707",
    "DS": "4711",
    "DT": "19770707112233.5+0200",
    "FD": 4711.25,
    "FL": 4711.25,
    "IS": "4711",
    "OB": b"ZQXVALUE",
    "OW": b"ZQXVALUE",
    "PN": "Zqxperson^Jane",
    "SS": 4711,
    "TM": "112233.5",
    "UI": f"{UID_MARKER}.77",
    "UL": 4711,
    "UN": b"ZQXVALUE",
    "UR": "http://zqxvalue.example",
    "US": 4711,
}
NEEDED = {0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00200052}  # UIDs that place the object
# What names the person: its words may stand in nothing that an option keeps
IDENTIFIERS = {0x00100020, 0x00101000, 0x00080050, 0x00101090, 0x00380010, 0x00380060, 0x00102154,
               0x00101050, 0x00120040, 0x00401001, 0x00402016, 0x00402017}  # fmt: skip
OURS = {0x00100020, 0x00420011}  # Patient ID may become a pseudonym; an encapsulated document is refused


def deidentified(dataset: Dataset, *names: str, key: bytes = KEY, **seams: bool) -> Dataset:
    return parse(Deidentifier(key, parse_options(names)).deidentify(written(dataset), **seams).data)


@pytest.fixture(scope="module")
def rows(test_data) -> list[dict[str, str]]:
    """Rows of the standard's own table that name one attribute of a data set that pydicom knows; with `number`, `vr`."""
    found = []
    with (test_data / "standard" / "ps3.15_e1-1.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            match = re.fullmatch(r"\(([0-9A-F]{4}),([0-9A-F]{4})\)", row["tag"])
            number = int(match[1] + match[2], 16) if match else 0
            if number >> 16 > 4 and number in DicomDictionary and number not in NEEDED | OURS:
                found.append({**row, "number": number, "vr": DicomDictionary[number][0]})
    assert len(found) > 590
    return found


def planted_in(row: dict):
    if row["number"] in IDENTIFIERS:
        return "ZQX-PERSON"
    return "+0230" if row["name"] == "Timezone Offset From UTC" else PLANTED.get(row["vr"].split(" or ")[-1])


def add_row(dataset: Dataset, row: dict) -> None:
    if row["vr"] == "SQ":
        item = Dataset()
        item.add_new(0x00081155, "UI", PLANTED["UI"])
        item.add_new(0x00080104, "LO", PLANTED["LO"])
        dataset.add_new(row["number"], "SQ", [item])
    else:
        dataset.add_new(row["number"], row["vr"].split(" or ")[-1], planted_in(row))


def verdict(element, row: dict, cell: str, name: str) -> str:
    """What is wrong with an attribute under one option, by the letters of the table; "" for nothing."""
    planted_value = planted_in(row)
    kept = element is not None and (row["vr"] == "SQ" or element.value == planted_value)
    if cell == "K":
        return "" if kept else "not kept"
    if row["vr"] == "SQ":
        return sequence_verdict(element, cell or row["basic"], name)
    if cell == "C" and name == "retain-modified-dates" and row["vr"] in ("DA", "DT", "TM"):
        same = element is not None and str(element.value)[8:] == str(planted_value)[8:]
        moved = element is not None and (row["vr"] == "TM") == (str(element.value) == planted_value)
        return "" if same and moved else "not moved"
    if kept and row["name"] != "Timezone Offset From UTC":
        return "kept"
    allowed = {
        "X": ("absent",),
        "Z": ("empty", "dummy"),
        "D": ("dummy",),
        "U": ("dummy",),
        "C": ("absent", "empty", "dummy"),
    }
    states = {state for letter in row["basic"].replace("*", "").split("/") for state in allowed[letter]}
    state = "absent" if element is None else "empty" if element.value in (None, "", b"", []) else "dummy"
    if row["vr"] == "UI" and state == "dummy" and not element.value.startswith("2.25."):
        return "not a new UID"
    if row["name"] == "Timezone Offset From UTC" and cell == "C":
        return ""
    return "" if state in states else f"{state}, and the table says {row['basic']}"


def sequence_verdict(element, code: str, name: str) -> str:
    if element is None:
        return "" if {"X", "C"} & set(code) else "absent"
    for item in element.value:
        if name != "retain-uids" and PLANTED["UI"] in str(item.get(0x00081155, "")):
            return "a UID inside stayed"
        if "U" not in code and "C" not in code and PLANTED["LO"] == item.get("CodeMeaning"):
            return "a text inside stayed"
    return ""


@pytest.mark.parametrize("name", ["", *COLUMNS])
@pytest.mark.parametrize("nested", [False, True], ids=["top", "nested"])
def test_every_row_is_treated_as_the_table_says(rows, name, nested):
    here = image() if not nested else Dataset()
    for row in rows:
        add_row(here, row)
    dataset = here
    if nested:
        dataset = image()
        deeper = Dataset()
        deeper.add_new(0x00089215, "SQ", [here])  # Derivation Code Sequence: not in the table
        dataset.add_new(0x00089215, "SQ", [deeper])
    result = deidentified(dataset, *([name] if name else []))
    place = result.DerivationCodeSequence[0].DerivationCodeSequence[0] if nested else result
    wrong = {}
    for row in rows:
        cell = row[COLUMNS[name]].strip() if name else ""
        reason = verdict(place.get(row["number"]), row, cell, name)
        if reason:
            wrong[row["name"]] = reason
    assert wrong == {}


OPTIONS = st.sets(st.sampled_from([option for option in Option if option is not Option.VISUAL]))


@settings(max_examples=60, deadline=None)
@given(OPTIONS)
def test_any_combination_says_what_it_did_and_names_nobody(options):
    if options >= DATES:
        with pytest.raises(SettingsError, match="contradict"):
            checked(options)
        return
    result = Deidentifier(KEY, options).deidentify(written(planted()), pixels_screened=True)
    dataset = parse(result.data)
    names = {option.about.name for option in options} | {"clean-pixel-data"}
    said = [item.CodeValue for item in dataset.DeidentificationMethodCodeSequence]
    assert sorted(said) == sorted(["113100", *(CODES[name] for name in names)])
    assert {item.CodingSchemeDesignator for item in dataset.DeidentificationMethodCodeSequence} == {"DCM"}
    assert all(len(value) <= 64 for value in dataset.DeidentificationMethod)
    temporal = {Option.FULL_DATES: "UNMODIFIED", Option.MODIFIED_DATES: "MODIFIED"}
    expected = next((text for option, text in temporal.items() if option in options), "REMOVED")
    assert dataset.LongitudinalTemporalInformationModified == expected
    assert dataset.PatientIdentityRemoved == "YES"
    assert (UID_MARKER.encode() in result.data) == (Option.UIDS in options)
    assert (b"19770707" in result.data) == (Option.FULL_DATES in options)
    assert f"{MARKER}^JANE".encode() not in result.data and b"free text about" not in result.data
    keeps = {Option.INSTITUTION, Option.DEVICE} & options
    assert keeps or MARKER.encode() not in result.data
    assert parse(result.data).PixelData == planted().PixelData


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["clean-recognizable-visual-features"], "deface"),
        (["retain-full-dates", "retain-modified-dates"], "contradict"),
        (["retain-everything"], "no such de-identification option"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_done(names, message):
    with pytest.raises(SettingsError, match=message):
        parse_options(names)


def test_a_setting_that_cannot_be_done_is_named():
    from medai_pipeline.settings import read_settings

    with pytest.raises(SettingsError, match="MEDAI_DEIDENTIFY_OPTIONS"):
        read_settings({"MEDAI_DEIDENTIFY_OPTIONS": "clean-recognizable-visual-features"})
    assert read_settings({"MEDAI_DEIDENTIFY_OPTIONS": "retain-uids"}).deidentify_options == "retain-uids"


def test_clean_pixel_data_is_declared_only_for_pixels_that_were_screened():
    asked = Deidentifier(KEY, parse_options("clean-pixel-data"))
    with pytest.raises(DeidentificationError, match="screened"):
        asked.deidentify(written(image()))
    plain = deidentified(image(BurnedInAnnotation="YES"))
    assert plain.BurnedInAnnotation == "YES" and len(plain.DeidentificationMethodCodeSequence) == 1
    for deidentifier in (asked, Deidentifier(KEY)):
        result = deidentifier.deidentify(written(image(BurnedInAnnotation="YES")), pixels_screened=True)
        dataset = parse(result.data)
        assert [i.CodeValue for i in dataset.DeidentificationMethodCodeSequence] == ["113100", "113101"]
        assert dataset.BurnedInAnnotation == "NO" == result.instance.burned_in_annotation


def test_the_digest_of_the_file_as_received_can_be_given():
    result = Deidentifier(KEY).deidentify(written(image()), source_sha256="ab" * 32)
    assert result.instance.source_sha256 == "ab" * 32


DAYS = st.dates(date(1925, 1, 1), date(2060, 12, 31))


@settings(max_examples=60, deadline=None)
@given(
    DAYS,
    DAYS,
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\"), min_size=1, max_size=20),
)
def test_intervals_between_studies_of_one_patient_stay(first, second, patient):
    made = []
    for day, study in ((first, "1"), (second, "2")):
        dataset = image(PatientID=patient, StudyDate=f"{day:%Y%m%d}", StudyTime="235959", StudyID=study)
        dataset.StudyInstanceUID = f"{UID_MARKER}.{study}.{study}"
        dataset.AcquisitionDateTime = f"{day:%Y%m%d}120000.123456-0500"
        made.append(deidentified(dataset, "retain-modified-dates"))
    days = [date(int(d.StudyDate[:4]), int(d.StudyDate[4:6]), int(d.StudyDate[6:])) for d in made]
    assert days[1] - days[0] == second - first
    assert 31 <= (first - days[0]).days <= 3680
    assert all(d.AcquisitionDateTime == f"{d.StudyDate}120000.123456-0500" for d in made)
    assert all(d.StudyTime == "235959" for d in made)
    assert made[0].PatientID == made[1].PatientID != patient


def test_shifts_differ_between_patients_keys_and_studies_without_patient():
    def shifted(key=KEY, **attributes):
        return deidentified(image(StudyDate="20200229", **attributes), "retain-modified-dates", key=key).StudyDate

    shifts = {shifted(PatientID=f"P{n}") for n in range(20)}
    assert len(shifts) > 17
    assert shifted(PatientID="P1") != shifted(PatientID="P1", key=b"another key, of enough bytes")
    assert shifted() == shifted() != shifted(StudyInstanceUID=f"{UID_MARKER}.99")


@pytest.mark.parametrize(
    ("vr", "value", "same_form"),
    [
        ("DA", b"20200301", True),
        ("DA", b"2020.03.01", True),
        ("DA", b"20200301-20200401", True),
        ("DA", b"-20200401", True),
        ("DA", b"20200301\\20200302", True),
        ("DT", b"2020", True),
        ("DT", b"202003", True),
        ("DT", b"20200301112233.123456+0130", True),
        ("DT", b"20200301-", True),
        ("DT", b"20200301+0100-20200401+0100", True),
        ("TM", b"1122", True),
        ("TM", b"112233.1-130000", True),
        ("DA", b"JANE DOE", False),
        ("DA", b"20201301", False),
        ("DA", b"00010105", False),
        ("DT", b"20200301JANE", False),
        ("TM", b"JANE", False),
    ],
)
def test_dates_keep_their_form_and_what_is_none_is_not_kept(vr, value, same_form):
    from medai_pipeline.dicom.dates import shifted

    moved = shifted(vr, value, 400)
    if not same_form:
        assert moved is None
        return
    assert re.sub(rb"\d", b"9", moved) == re.sub(rb"\d", b"9", value)
    assert (moved == value) == (vr == "TM")


@pytest.mark.parametrize("option", ["retain-full-dates", "retain-modified-dates"])
def test_a_name_in_a_date_goes_whatever_option_keeps_dates(option):
    source = written(image(StudyDate="20200101", SeriesTime="112233", AcquisitionDateTime="20200101"))
    for before, after in ((b"20200101", b"JANE DOE"), (b"112233", b"DOEDOE")):
        source = source.replace(before, after)
    data = Deidentifier(KEY, parse_options(option)).deidentify(source).data
    assert b"JANE" not in data and b"DOE" not in data


def test_uids_that_are_none_are_replaced_even_when_uids_are_retained():
    source = written(image(PatientName="X")).replace(
        f"{UID_MARKER}.4".encode(), b"JANE^DOE".ljust(len(UID_MARKER) + 2, b"1")
    )
    data = Deidentifier(KEY, parse_options("retain-uids")).deidentify(source).data
    assert b"JANE" not in data and f"{UID_MARKER}.1".encode() in data
    assert pydicom.dcmread(BytesIO(data)).file_meta.MediaStorageSOPInstanceUID == f"{UID_MARKER}.1"


@pytest.mark.parametrize(
    "sop_class,kept", [("1.2.840.10008.5.1.4.1.1.2", "empty"), ("1.2.840.10008.5.1.4.1.1.2.1", "dummy")]
)
def test_compound_codes_follow_the_type_in_the_iod(sop_class, kept):
    """Content Date (Z/D) is Type 2 or 2C in a CT Image, and Type 1 or 1C in an Enhanced CT Image; Series Date (X/D) is Type 3."""
    dataset = image(ContentDate="20200101", SeriesDate="20200101", SOPClassUID=sop_class)
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    result = deidentified(dataset)
    assert ("dummy" if result.ContentDate else "empty") == kept
    assert "SeriesDate" not in result


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ("medai_pipeline.dicom.profile.rows_by_tag", "no value of the source's identity is left"),
        ("medai_pipeline.dicom.cleaning.safe_elements", "no private element is left"),
        ("medai_pipeline.dicom.deidentify._declared", "identities are removed"),
    ],
)
def test_a_deidentifier_that_fails_is_found_by_the_quality_checks(monkeypatch, broken, check):
    """The row is read from the bytes that were written, so a check on it can fail."""
    from medai_pipeline.dicom.profile import Action, Decision
    from medai_pipeline.dicom.table import instance_table
    from medai_pipeline.quality.instances import check_instances

    option = "retain-safe-private"
    dataset = planted()
    dataset.private_block(0x0031, "A CREATOR OF NOBODY", create=True).add_new(0x10, "LO", "something")
    sound = Deidentifier(KEY, parse_options(option)).deidentify(written(dataset)).instance
    keep = Decision(Action.KEEP, Action.KEEP, chosen=True)
    monkeypatch.setattr(
        *{
            "rows_by_tag": ("medai_pipeline.dicom.cleaning.decide", lambda tag, *place: keep),
            "safe_elements": (
                broken,
                lambda elements: {element.tag: "LO" for element in elements if element.tag >> 16 & 1},
            ),
            "_declared": (broken, lambda *_: []),
        }[broken.rpartition(".")[2]]
    )
    row = Deidentifier(KEY, parse_options(option)).deidentify(written(dataset)).instance
    failed = {
        name: [result.name for result in check_instances({"S": instance_table([made])})["S"] if not result.passed]
        for name, made in (("sound", sound), ("broken", row))
    }
    assert check in failed["broken"] and check not in failed["sound"]
