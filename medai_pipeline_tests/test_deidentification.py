"""De-identification leaves nothing that identifies, keeps everything else to the byte, and fails closed."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    UID_dictionary,
)

from medai_pipeline.dicom.deidentify import IMPLEMENTATION_CLASS_UID, PROFILE, Deidentifier
from medai_pipeline.dicom.image import Image
from medai_pipeline.dicom.profile import Action, decide, table
from medai_pipeline.dicom.read import parse
from medai_pipeline.errors import DeidentificationError, DicomError, MedaiError, UndecodablePixels
from medai_pipeline_tests.dicom_objects import MARKER, UID_MARKER, image, planted, written

KEY = b"a key that only this test knows!"
DEIDENTIFIER = Deidentifier(KEY)
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


def in_syntax(dataset, syntax) -> bytes:
    """The data set as a file of that transfer syntax, its native pixels re-ordered where bytes are."""
    file = BytesIO()
    dataset.file_meta.TransferSyntaxUID = syntax
    little = syntax != ExplicitVRBigEndian
    if not little:
        dataset.PixelData = dataset.pixel_array.astype(">i2").tobytes()
    pydicom.dcmwrite(
        file, dataset, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=little, enforce_file_format=True
    )
    return file.getvalue()


def plain_bytes(data: bytes) -> bytes:
    """A file's content without compression of its data set, for searching."""
    dataset = parse(data)
    file = BytesIO()
    if dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True)
        return data + file.getvalue()
    return data


def every_element(dataset):
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from every_element(item)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_no_planted_marker_survives_anywhere_in_the_bytes(syntax):
    source = in_syntax(planted(), syntax)
    assert plain_bytes(source).count(MARKER.encode()) > 20, "the markers were planted"
    result = DEIDENTIFIER.deidentify(source)
    content = plain_bytes(result.data)
    for secret in (MARKER, UID_MARKER, "19770707"):
        assert secret.encode() not in content
        assert secret not in repr(result.instance)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_pixels_and_transfer_syntax_stay_as_they_are(syntax):
    source = in_syntax(planted(), syntax)
    result = DEIDENTIFIER.deidentify(source)
    before, after = pydicom.dcmread(BytesIO(source)), pydicom.dcmread(BytesIO(result.data))
    assert after.file_meta.TransferSyntaxUID == syntax == result.instance.transfer_syntax_uid
    assert after.PixelData == before.PixelData
    assert (after.pixel_array == before.pixel_array).all()
    assert after.Rows == 40 and after.SpecificCharacterSet == "ISO_IR 100"
    assert after.AnatomicRegionSequence[0].CodeMeaning == "Chest"


def test_encapsulated_fragments_are_copied_byte_for_byte():
    dataset = image(NumberOfFrames=1)
    dataset.compress(RLELossless)
    source = written(dataset)
    assert pydicom.dcmread(BytesIO(DEIDENTIFIER.deidentify(source).data)).PixelData == dataset.PixelData


def test_references_hold_across_files_and_keys_differ():
    first, second = DEIDENTIFIER.deidentify(written(planted())), DEIDENTIFIER.deidentify(written(image()))
    assert first.uids == second.uids and len(first.uids) == 4
    dataset = parse(first.data)
    assert dataset.ReferencedImageSequence[0].ReferencedSOPInstanceUID == first.instance.sop_instance_uid
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID == first.instance.sop_instance_uid
    other = Deidentifier(b"another key, of enough bytes....").deidentify(written(image()))
    assert set(other.uids.values()).isdisjoint(second.uids.values())
    assert all(re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid) for uid in first.uids.values())


def test_the_file_says_how_it_was_deidentified():
    dataset = parse(DEIDENTIFIER.deidentify(written(planted())).data)
    assert dataset.PatientIdentityRemoved == "YES"
    assert PROFILE in dataset.DeidentificationMethod
    assert dataset.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert dataset.LongitudinalTemporalInformationModified == "REMOVED"
    assert dataset.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert "SourceApplicationEntityTitle" not in dataset.file_meta
    assert dataset.preamble == bytes(128)


def test_only_standard_elements_stay_and_no_name_has_content():
    dataset = parse(DEIDENTIFIER.deidentify(written(planted())).data)
    for element in every_element(dataset):
        assert element.tag in DicomDictionary and not element.tag.is_private
        assert element.VR != "PN" or str(element.value) in ("", "ANONYMIZED")
        if element.VR == "UI":
            assert element.value in UID_dictionary or element.value.startswith("2.25.")


def test_a_value_that_hides_under_a_wrong_vr_is_removed():
    dataset = image()
    dataset.add_new(0x00189073, "LO", MARKER)  # Acquisition Duration is FD
    dataset.add_new(0x00180060, "DS", "120")
    dataset.add_new(0x00280106, "SH", MARKER)  # Smallest Image Pixel Value is US or SS
    result = parse(DEIDENTIFIER.deidentify(written(dataset)).data)
    assert result.KVP == 120
    assert 0x00189073 not in result and 0x00280106 not in result


def test_text_in_a_decimal_string_is_removed():
    source = written(image(KVP="120")).replace(b"120 ", b"JANE")
    assert MARKER not in str(parse(DEIDENTIFIER.deidentify(source).data))
    assert b"JANE" not in DEIDENTIFIER.deidentify(source).data


def test_deidentifying_twice_changes_no_pixel_and_names_nobody():
    once = DEIDENTIFIER.deidentify(written(planted()))
    twice = DEIDENTIFIER.deidentify(once.data)
    assert parse(twice.data).PixelData == parse(once.data).PixelData
    assert twice.instance.rows == once.instance.rows


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"])
def test_an_object_that_belongs_nowhere_is_refused(keyword):
    dataset = planted()
    delattr(dataset, keyword)
    file = BytesIO()
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.file_meta.MediaStorageSOPInstanceUID = f"{UID_MARKER}.1"
    pydicom.dcmwrite(file, dataset)
    with pytest.raises(DeidentificationError) as caught:
        DEIDENTIFIER.deidentify(file.getvalue())
    assert UID_MARKER not in str(caught.value) and MARKER not in str(caught.value)


def test_a_private_transfer_syntax_is_refused_without_naming_it():
    source = written(image()).replace(b"1.2.840.10008.1.2.1\0", b"1.2.999.10008.1.2.1\0")
    with pytest.raises(DeidentificationError, match="private transfer syntax"):
        DEIDENTIFIER.deidentify(source)


def test_trouble_inside_becomes_an_error_that_chains_nothing(monkeypatch):
    def broken(*_):
        raise ValueError(MARKER)

    monkeypatch.setattr("medai_pipeline.dicom.deidentify.instance_row", broken)
    with pytest.raises(DeidentificationError) as caught:
        DEIDENTIFIER.deidentify(written(planted()))
    assert MARKER not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_every_row_of_the_standards_table_has_an_action():
    assert len(table()) == 655
    codes = Counter(row["basic"] for row in table())
    assert codes["X"] == 415 and codes["U"] == 55 and codes["Z"] == 42
    for row in table():
        if row["basic"] == "X" and len(row["tag"]) == 8 and "x" not in row["tag"]:
            assert decide(int(row["tag"], 16), 0, "ct-image").action is Action.REMOVE, row["name"]
        if row["basic"] == "U":
            assert decide(int(row["tag"], 16)).action in (Action.REMAP, Action.REMOVE), row["name"]


def test_the_shipped_tables_are_those_their_scripts_make(test_data, tmp_path):
    from medai_pipeline.dicom import generate_iod_types, generate_profile

    assert generate_profile.write(test_data / "standard", tmp_path) == [655, 479, 211]
    generate_iod_types.write(tmp_path)
    made = sorted(tmp_path.glob("*.csv"))
    assert len(made) == 5
    for file in made:
        assert file.read_bytes() == (generate_profile.HERE / file.name).read_bytes(), file.name


def test_no_forbidden_value_of_the_public_collection_survives(test_data):
    forbidden = json.loads((test_data / "deid" / "forbidden_values.json").read_text())["pseudo-phi-mr/dicom"]
    files = sorted((test_data / "deid" / "pseudo-phi-mr" / "dicom").glob("*.dcm"))
    assert len(files) == 26
    studies = set()
    for file in files:
        result = DEIDENTIFIER.deidentify(file.read_bytes())
        header = result.data[: -len(parse(result.data).PixelData)]  # random pixels may spell a short value
        assert [value for value in forbidden if value.encode() in header] == []
        studies.add(result.instance.study_instance_uid)
    assert len(studies) == 1


def real_files(test_data: Path) -> list[Path]:
    return [
        path
        for path in sorted((test_data / "dicom").rglob("*"))
        if path.is_file() and path.suffix not in (".csv", ".json")
    ]


def same_frames(before: bytes, after: bytes) -> bool:
    """Whether the first frame decodes to the same values; where it cannot be decoded, it could not be before."""
    try:
        expected = Image.of(before).stored(1)
    except UndecodablePixels:
        return True
    return np.array_equal(Image.of(after).stored(1), expected)


def test_pixels_of_every_real_file_stay_identical(test_data):
    done = 0
    for path in real_files(test_data):
        data = path.read_bytes()
        try:
            result = DEIDENTIFIER.deidentify(data)
        except (DicomError, DeidentificationError):
            continue
        before = pydicom.dcmread(BytesIO(data), force=True).get("PixelData", b"")
        dataset = parse(result.data)
        after = dataset.get("PixelData", b"")
        if after[:-1] != before[: len(after) - 1] or len(after) < len(before):  # comments, bits beside the stored ones
            assert same_frames(data, result.data), path.name
        done += 1
    assert done > 150


def dciodvfy_errors(path: Path) -> Counter[str]:
    run = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, errors="replace", timeout=60)
    lines = (line for line in run.stderr.splitlines() if line.startswith("Error"))
    return Counter(re.sub(r"<[^>]*>", "<>", line) for line in lines)


def test_the_row_describes_the_image_without_its_texts():
    dataset = planted()
    dataset.SeriesDescription = f"Thorax {MARKER} 5mm"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", MARKER]
    del dataset.AnatomicRegionSequence
    row = DEIDENTIFIER.deidentify(written(dataset)).instance
    assert (row.modality, row.body_part, row.rows, row.columns, row.frames) == ("CT", "CHEST", 40, 48, 1)
    assert row.series_description == "" and row.image_type == ("ORIGINAL", "PRIMARY", "OTHER")


def test_errors_are_of_the_one_tree():
    for data in (b"", b"DICM", b"\0" * 200, written(image())[:-10]):
        with pytest.raises(MedaiError):
            DEIDENTIFIER.deidentify(data)
