"""Private blocks, descriptions, content items, graphics, documents, DICOMDIR: what the options keep of them, and no more."""

from __future__ import annotations

import csv
import json
import shutil
import struct
from io import BytesIO
from pathlib import Path

import pydicom.fileset
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medai_pipeline.cli import main
from medai_pipeline.dicom import words
from medai_pipeline.dicom.conformance import overview, statement
from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.options import Option, parse_options
from medai_pipeline.dicom.read import parse
from medai_pipeline.errors import DeidentificationError
from medai_pipeline_tests.dicom_objects import MARKER, UID_MARKER, image, written

KEY = b"a key that only this test knows!"


def deidentified(dataset: Dataset, *names: str, **seams: bool) -> Dataset:
    return parse(Deidentifier(KEY, parse_options(names)).deidentify(written(dataset), **seams).data)


def item(**attributes: object) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def code(value: str, scheme: str, meaning: str) -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


# private elements --------------------------------------------------------------------------------------------


def with_private(block: int, implicit: bool = False) -> Dataset:
    """Siemens and Philips elements at a block number, a stranger's beside them, and a private sequence."""
    dataset = image(PatientName="Zqx^Jane")
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    dataset.add_new(0x00190000 | block, "LO", "SIEMENS MR HEADER")
    dataset.add_new(0x00190000 | block << 8 | 0x0C, "IS", "1000")  # B value: safe
    dataset.add_new(0x00190000 | block << 8 | 0x08, "CS", "IMAGE NUM 4")  # not in the table
    dataset.add_new(0x00190000 | block + 1, "LO", f"{MARKER} CREATOR")
    dataset.add_new(0x00190000 | block + 1 << 8 | 0x0C, "IS", "1001")
    dataset.add_new(0x20010000 | block, "LO", "Philips Imaging DD 001")
    inner = item(PatientName="Zqx^Jane", Rows=3)
    inner.add_new(0x20010000 | block + 5, "LO", "Philips Imaging DD 001")
    inner.add_new(0x20010000 | block + 5 << 8 | 0x08, "IS", "7")  # Phase Number: safe
    inner.add_new(0x20010000 | block + 5 << 8 | 0xFE, "LO", MARKER)
    dataset.add_new(0x20010000 | block << 8 | 0x5F, "SQ", [inner])  # Stack Sequence: safe
    dataset.add_new(0x20010000 | block << 8 | 0x09, "LO", "FL EATS TEXT")  # Prepulse Delay is FL
    return dataset


@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
@pytest.mark.parametrize("block", [0x10, 0x11, 0x80, 0xF0])
def test_safe_private_elements_are_found_by_creator_whatever_the_block(block, implicit):
    dataset = with_private(block, implicit)
    result = deidentified(dataset, "retain-safe-private")
    assert result[0x00190000 | block].value == "SIEMENS MR HEADER"
    value = result[0x00190000 | block << 8 | 0x0C].value
    assert int(value) == 1000
    kept = {element.tag for element in result if element.tag.is_private}
    assert kept == {
        0x00190000 | block,
        0x00190000 | block << 8 | 0x0C,
        0x20010000 | block,
        0x20010000 | block << 8 | 0x5F,
    }
    (stack,) = result[0x20010000 | block << 8 | 0x5F].value
    assert int(stack[0x20010000 | block + 5 << 8 | 0x08].value) == 7 and stack.Rows == 3
    assert MARKER not in str(stack) and not stack.get("PatientName") and len(stack) <= 4
    assert not any(element.tag.is_private for element in deidentified(dataset))


def test_a_block_with_two_creators_or_none_is_removed():
    dataset = image()
    dataset.add_new(0x0019100C, "IS", "1000")
    assert not any(e.tag.is_private for e in deidentified(dataset, "retain-safe-private"))
    dataset.add_new(0x00190010, "LO", ["SIEMENS MR HEADER", MARKER])
    assert not any(e.tag.is_private for e in deidentified(dataset, "retain-safe-private"))


def test_safe_elements_written_as_un_are_read_as_the_table_says():
    dataset = image()
    dataset.add_new(0x20050010, "LO", "Philips MR Imaging DD 001")
    dataset.add_new(0x20010010, "LO", "Philips Imaging DD 001")
    dataset.add_new(0x20011003, "UN", struct.pack("<f", 800.0))  # Diffusion B-Factor, FL
    dataset.add_new(0x20011008, "UN", b"JANE")  # Phase Number, IS
    result = deidentified(dataset, "retain-safe-private")
    assert result[0x20011003].value == 800.0 and 0x20011008 not in result


def several(value: object, multiplicity: str) -> object:
    return value if isinstance(value, (bytes, str)) or not multiplicity.isdecimal() else [value] * int(multiplicity)


def test_every_row_of_the_safe_private_table_is_kept_and_nothing_beside(test_data):
    """Read from the standard's own table; text VRs carry a text that names nobody."""
    values = {"DS": "4.5", "IS": "4", "CS": "FAST", "LO": "text", "SH": "text", "ST": "text", "LT": "text", "FL": 4.5,
              "FD": 4.5, "US": 4, "SS": 4, "UL": 4, "SL": 4, "UI": "1.2.840.1", "OB": b"abcd", "OW": b"abcd",
              "OW/OB": b"abcd", "AT": 0x00280010}  # fmt: skip
    with (test_data / "standard" / "ps3.15_e3.10-1_safe_private.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["vr"] in values]
    assert len(rows) > 400
    for creator in sorted({row["private_creator"] for row in rows}):
        dataset = image()
        expected = set()
        for row in (row for row in rows if row["private_creator"] == creator):
            group, element = int(row["data_element"][1:5], 16), int(row["data_element"][8:10], 16)
            dataset.add_new(group << 16 | 0x10, "LO", creator)
            dataset.add_new(group << 16 | 0x1000 | element, row["vr"][:2], several(values[row["vr"]], row["vm"]))
            expected |= {group << 16 | 0x10, group << 16 | 0x1000 | element}
        result = deidentified(dataset, "retain-safe-private")
        assert {int(e.tag) for e in result if e.tag.is_private} == expected, creator
        dataset.add_new(sorted(expected)[0] | 0xFF, "LO", "stranger")


# descriptions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("MRI ABDOMEN PELVIS", "MRI ABDOMEN PELVIS"),
        ("Routine chest, 5mm low dose; Dr Brzezicki", "Routine chest 5mm low dose"),
        ("follow-up of 12/05/1977", "follow-up of"),
        ("SMITH^ANNA CT HEAD", "CT HEAD"),
        ("annasmithchest", None),
        ("MRN 48151623 call 555-225-5887", None),
        ("56 Walnut Drive", None),
        ("Münchhausen Kopf", None),
        ("T2 AX FLAIR 1.5T b1000", "T2 AX FLAIR 1.5T b1000"),
        ("the of and", None),
    ],
)
def test_a_description_keeps_known_words_only(text, kept):
    dataset = image(PatientName="Smith^Anna", SeriesDescription=text, SpecificCharacterSet="ISO_IR 192")
    assert deidentified(dataset, "clean-descriptors").get("SeriesDescription") == kept
    assert "SeriesDescription" not in deidentified(dataset)


def test_words_of_the_object_s_own_identity_go_even_when_they_are_imaging_terms():
    dataset = image(
        PatientName="Head^Chest", InstitutionName="Spine Hospital", StudyDescription="CT HEAD CHEST SPINE KNEE"
    )
    assert deidentified(dataset, "clean-descriptors").StudyDescription == "CT KNEE"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=64), st.lists(st.text(min_size=2, max_size=12), max_size=3))
def test_whatever_the_text_only_known_words_and_short_numbers_stay(text, names):
    identity = words.Identity(frozenset(name.lower().encode() for name in names), frozenset())
    kept = words.cleaned(text.encode("utf-8"), identity).decode("ascii")
    for piece in words._pieces(kept):
        assert words._is_safe(piece.lower(), identity)
    assert not any(len(run) > 4 for run in "".join(c if c.isdigit() else " " for c in kept).split())


@pytest.mark.parametrize(
    "charset,name", [("ISO_IR 100", "Müller^Jürgen"), ("ISO_IR 192", "山田^太郎"), ("ISO_IR 144", "Люкceмбypг^Пётр")]
)
def test_a_name_in_a_kept_text_is_found_in_any_character_set(charset, name):
    family = name.split("^")[0]
    dataset = image(PatientName=name, SpecificCharacterSet=charset, ContentLabel="LABEL")
    dataset.ManufacturerModelName = f"Scanner of {family}"
    dataset.SoftwareVersions = "syngo MR B17"
    result = deidentified(dataset)
    assert family.encode(pydicom.charset.convert_encodings([charset])[0]) not in written(result)
    assert result.SoftwareVersions == "syngo MR B17" and "ManufacturerModelName" not in result


def test_kept_texts_hold_known_values_and_no_name():
    dataset = image(
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "HENDERSON"], BodyPartExamined="HENDERSON", RescaleType="HU"
    )
    dataset.PatientOrientation = ["L", "JANE"]
    dataset.WindowCenterWidthExplanation = ["LUNG", "for Henderson"]
    dataset.ScanOptions = "HELICAL MODE"
    dataset.ConvolutionKernel = "B31f"
    dataset.PositionReferenceIndicator = "seen by Okonkwo"
    dataset.OperatorsName = "Okonkwo^Ola"
    dataset.ICCProfile = b"description: Henderson"
    result = deidentified(dataset)
    assert list(result.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL", "OTHER"]
    assert result.RescaleType == "HU" and result.ScanOptions == "HELICAL MODE" and result.ConvolutionKernel == "B31f"
    content = written(result).lower()
    assert b"henderson" not in content and b"okonkwo" not in content and b"jane" not in content


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (("T-D3000", "SRT", "Chest"), ("T-D3000", "SRT", "Chest")),
        (("39607008", "SCT", "Henderson, Jane"), ("39607008", "SCT", "Lung")),
        (("113100", "DCM", "of Henderson"), ("113100", "DCM", "Basic Application Confidentiality Profile")),
        (("HENDERSON", "DCM", "Lung"), ("ANONYMIZED", "ANONYMIZED", "ANONYMIZED")),
        (("445405002", "SCT", "Lung of Henderson"), ("445405002", "SCT", "Lung of")),
        (("X-1", "99MINE", "Lung"), ("ANONYMIZED", "ANONYMIZED", "ANONYMIZED")),
    ],
)  # fmt: skip
def test_a_code_says_what_its_scheme_says(found, kept):
    result = deidentified(image(AnatomicRegionSequence=[code(*found)])).AnatomicRegionSequence[0]
    assert (result.CodeValue, result.CodingSchemeDesignator, result.CodeMeaning) == kept


# structured content ------------------------------------------------------------------------------------------


def content(kind: str, concept: Dataset, **value: object) -> Dataset:
    return item(RelationshipType="CONTAINS", ValueType=kind, ConceptNameCodeSequence=[concept], **value)


def report() -> Dataset:
    dataset = image()
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    dataset.PatientName = "Henderson^Jane"
    dataset.ContentSequence = [
        content("TEXT", code("100001", "DCM", "Finding"), TextValue="Nodule in the left lung of Henderson"),
        content("TEXT", code("121106", "DCM", "Comment"), TextValue="called Henderson"),  # X, clean descriptors C
        content("TEXT", code("113880", "DCM", "Device Serial Number"), TextValue="SN4711"),  # X/D, device K
        content("PNAME", code("121008", "DCM", "Person Observer Name"), PersonName="Okonkwo^Ola"),
        content("DATE", code("111018", "DCM", "Content Date"), Date="20200301"),
        content("UIDREF", code("112040", "DCM", "Tracking Unique Identifier"), UID=f"{UID_MARKER}.5"),
        content("NUM", code("G-A16A", "SRT", "Area"), MeasuredValueSequence=[item(NumericValue="1.7")]),
    ]
    return dataset


def values(dataset: Dataset) -> dict[str, object]:
    keywords = ("TextValue", "PersonName", "Date", "UID")
    return {
        i.ConceptNameCodeSequence[0].CodeValue: next((i.get(k) for k in keywords if k in i), i.ValueType)
        for i in dataset.ContentSequence
    }


def test_content_items_follow_their_table():
    cleaned = values(deidentified(report(), "clean-structured-content"))
    assert cleaned["100001"] == "Nodule in the left lung of" and "121106" not in cleaned
    assert cleaned["113880"] == "ANONYMIZED" and str(cleaned["121008"]) == "ANONYMIZED"
    assert cleaned["111018"] == "19000101" and cleaned["112040"].startswith("2.25.") and cleaned["G-A16A"] == "NUM"
    device = values(deidentified(report(), "clean-structured-content", "retain-device-identity"))
    assert device["113880"] == "SN4711"
    dated = values(deidentified(report(), "clean-structured-content", "retain-full-dates"))
    assert dated["111018"] == "20200301"
    described = values(deidentified(report(), "clean-structured-content", "clean-descriptors"))
    assert "Henderson" not in str(described)
    basic = values(deidentified(report()))
    assert basic["100001"] == "ANONYMIZED" and basic["G-A16A"] == "NUM"


# graphics ----------------------------------------------------------------------------------------------------


def test_graphics_stay_with_cleaned_text_and_overlays_only_when_they_were_screened():
    dataset = image(PatientName="Henderson^Jane")
    text = item(UnformattedTextValue="Henderson left lung")
    shape = item(GraphicAnnotationUnits="PIXEL", GraphicDimensions=2, NumberOfGraphicPoints=1, GraphicData=[4.0, 5.0])
    dataset.GraphicAnnotationSequence = [
        item(GraphicLayer="ONE", TextObjectSequence=[text], GraphicObjectSequence=[shape])
    ]
    dataset.add_new(0x60000010, "US", 40)
    dataset.add_new(0x60000011, "US", 48)
    dataset.add_new(0x60003000, "OW", bytes(240))
    dataset.add_new(0x60004000, "LT", "Henderson")
    dataset.add_new(0x50003000, "OW", bytes(4))
    result = deidentified(dataset, "clean-graphics")
    (annotation,) = result.GraphicAnnotationSequence
    assert annotation.TextObjectSequence[0].UnformattedTextValue == "left lung"
    assert annotation.GraphicObjectSequence[0].GraphicData == [4.0, 5.0]
    assert 0x60003000 not in result
    screened = deidentified(dataset, "clean-graphics", overlays_screened=True)
    assert screened[0x60003000].value == bytes(240) and screened[0x60000010].value == 40
    assert 0x60004000 not in screened and 0x50003000 not in screened
    assert 0x60003000 not in deidentified(dataset, overlays_screened=True)


# pixels, documents, DICOMDIR ---------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_what_follows_the_pixels_is_cut(syntax):
    dataset = image()
    pixels = dataset.PixelData
    dataset.PixelData = pixels + MARKER.encode() + b"0"
    dataset.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    little = syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(
        file, dataset, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=little, enforce_file_format=True
    )
    result = Deidentifier(KEY).deidentify(file.getvalue()).data
    assert MARKER.encode() not in result and parse(result).PixelData == pixels


def document(mime: str, data: bytes) -> Dataset:
    dataset = image(
        MIMETypeOfEncapsulatedDocument=mime, EncapsulatedDocument=data, EncapsulatedDocumentLength=len(data)
    )
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(dataset, keyword)
    return dataset


def test_a_pdf_becomes_a_page_that_says_so_and_other_documents_are_refused():
    result = deidentified(document("application/pdf", b"%PDF-1.4 Henderson"))
    data = result.EncapsulatedDocument[: result.EncapsulatedDocumentLength]
    assert data.startswith(b"%PDF-1.4") and data.rstrip().endswith(b"%%EOF") and b"removed" in data
    start = int(data.split(b"startxref\n")[1].split()[0])
    assert data[start : start + 4] == b"xref"
    with pytest.raises(DeidentificationError, match="encapsulated document"):
        deidentified(document("text/XML", b"<ClinicalDocument>Henderson</ClinicalDocument>"))


def test_a_dicomdir_is_refused_and_a_new_one_names_nobody(test_data, tmp_path, monkeypatch):
    source = tmp_path / "in"
    source.mkdir()
    for name in (
        "deid/pseudo-phi-mr/dicom/1-01.dcm",
        "deid/pseudo-phi-mr/dicom/1-02.dcm",
        "dicom/highdicom/ct_image.dcm",
    ):
        shutil.copy(test_data / name, source)
    directory = pydicom.fileset.FileSet()
    for file in sorted(source.iterdir()):
        dataset = pydicom.dcmread(file)
        dataset.PatientName = f"{MARKER}^JANE"
        dataset.PatientID, dataset.StudyDate, dataset.StudyTime, dataset.StudyID = MARKER, "20200101", "1200", "1"
        directory.add(dataset)
    directory.write(tmp_path / "medium")
    with pytest.raises(DeidentificationError, match="DICOMDIR"):
        Deidentifier(KEY).deidentify((tmp_path / "medium" / "DICOMDIR").read_bytes())
    monkeypatch.setenv("MEDAI_HOME", str(tmp_path / "home"))
    run = CliRunner().invoke(
        main, ["deidentify", str(tmp_path / "medium"), "--out", str(tmp_path / "out"), "--dicomdir"]
    )
    assert run.exit_code == 0, run.output
    made = pydicom.fileset.FileSet(tmp_path / "out" / "fileset" / "DICOMDIR")
    originals = {path.read_bytes() for path in (tmp_path / "out").glob("*/anonymized/*.dcm")}
    assert len(originals) == 3 == len(list(made))
    for instance in made:
        assert Path(instance.path).read_bytes() in originals
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or MARKER.encode() not in path.read_bytes()


# what is said about it ---------------------------------------------------------------------------------------


def test_the_readme_holds_the_statement_that_the_code_prints():
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    shown = readme.split("a test holds it equal -->\n")[1].split("<!-- /conformance -->")[0]
    assert shown == overview(all_options=True)


def test_describe_names_every_row_of_the_table_and_every_option(test_data):
    run = CliRunner().invoke(main, ["deidentify", "--describe", "--option", "retain-full-dates"])
    assert run.exit_code == 0 and run.output == statement(frozenset({Option.FULL_DATES}))
    with (test_data / "standard" / "ps3.15_e1-1.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert f" {row['name'].strip()} | {row['basic']} | " in run.output
    assert all(option.about.code in run.output for option in Option)
    assert "| 00080020 | Study Date | Z | kept |" in run.output
    assert "| 00080020 | Study Date | Z | emptied |" in CliRunner().invoke(main, ["deidentify", "--describe"]).output


def test_no_forbidden_value_survives_the_options_that_clean(test_data):
    forbidden = json.loads((test_data / "deid" / "forbidden_values.json").read_text())["pseudo-phi-mr/dicom"]
    clean = [
        "clean-descriptors",
        "clean-structured-content",
        "clean-graphics",
        "retain-safe-private",
        "retain-modified-dates",
    ]
    deidentifier = Deidentifier(KEY, parse_options(clean))
    for file in sorted((test_data / "deid" / "pseudo-phi-mr" / "dicom").glob("*.dcm")):
        result = deidentifier.deidentify(file.read_bytes())
        header = result.data[: -len(parse(result.data).PixelData)]
        found = {value for value, what in forbidden.items() if what["vr"] != "TM" and value.encode() in header}
        assert found <= {"LIVER/KIDNEY/PELVIS", "POST  CONTRAST"}  # descriptions of known words alone
        assert (result.instance.private_elements, result.instance.identity_values) == (0, 0)
