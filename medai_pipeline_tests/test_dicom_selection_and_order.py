"""Which images a model may see, in which order, and the table they are kept in."""

from __future__ import annotations

from dataclasses import fields, replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from medai_pipeline.dicom.bodypart import named_in
from medai_pipeline.dicom.read import find_files
from medai_pipeline.dicom.select import IMAGE_MODALITIES, select
from medai_pipeline.dicom.series import series_problems, sort_series
from medai_pipeline.dicom.table import SCHEMA, instance_table, instances
from medai_pipeline.dicom.validate import problems
from medai_pipeline.records import Instance
from medai_pipeline_tests.dicom_objects import MARKER, image, written

CT = "1.2.840.10008.5.1.4.1.1.2"
ROW = Instance(
    "2.25.1", "2.25.2", "2.25.3", CT, "1.2.840.10008.1.2.1", "CT", "ab" * 32, rows=512, columns=512, frames=1,
    photometric="MONOCHROME2", image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
)  # fmt: skip
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"image_type": ("DERIVED", "PRIMARY", "AXIAL")}, ""),
        ({"image_type": ("DERIVED", "SECONDARY", "AXIAL")}, "derived"),
        ({"image_type": ("DERIVED", "SECONDARY"), "transfer_syntax_uid": "1.2.840.10008.1.2.4.91"}, ""),
        ({"image_type": ("DERIVED", "SECONDARY"), "modality": "DX"}, ""),
        ({"image_type": ("DERIVED", "PRIMARY", "MPR")}, "reformatted"),
        ({"image_type": ("DERIVED", "SECONDARY", "PROJECTION IMAGE")}, "projection"),
        ({"image_type": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC"), "modality": "MR"}, "computed map"),
        ({"image_type": ("DERIVED", "PRIMARY", "PERFUSION", "RCBF"), "sop_class_uid": CT + ".1"}, "perfusion map"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "M", "SE"), "modality": "MR"}, ""),
        ({"image_type": ("ORIGINAL", "PRIMARY", "P", "FFE"), "modality": "MR"}, "phase image"),
        ({"image_type": ("DERIVED", "SECONDARY", "SCREEN SAVE")}, "screen"),
        ({"image_type": ("DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT")}, "dose sheet"),
        ({"content": "dose-sheet"}, "dose sheet"),
        ({"content": "localizer"}, "localizer"),
        ({"content": "digitized-film", "sop_class_uid": SECONDARY_CAPTURE, "modality": "CR"}, ""),
        ({"content": "workstation", "sop_class_uid": SECONDARY_CAPTURE, "modality": "CR"}, "workstation"),
        ({"sop_class_uid": SECONDARY_CAPTURE}, "secondary capture of modality CT"),
        ({"sop_class_uid": SECONDARY_CAPTURE + ".4", "modality": "MR"}, "secondary capture of modality MR"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.67"}, "dose report"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.11.8"}, "presentation state"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.3"}, "registration"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.66"}, "raw data"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.12345"}, "not known to be an image"),
        ({"sop_class_uid": "1.2.826.0.1.3680043.1"}, "private"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.2.1", "modality": "MG"}, ""),
        ({"sop_class_uid": SECONDARY_CAPTURE, "modality": "DX"}, ""),
        ({"modality": "RG", "samples_per_pixel": 1}, ""),
        ({"modality": "US", "samples_per_pixel": 3, "photometric": "RGB"}, ""),
        ({"sop_class_uid": CT + ".1", "frames": 120}, ""),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localizer"),
        ({"image_type": ("DERIVED", "SECONDARY", "SCREEN")}, "screen"),
        ({"modality": "XYZ"}, "unknown modality XYZ"),
        ({"modality": ""}, "no modality"),
        ({"samples_per_pixel": 3, "photometric": "RGB"}, "colour"),
        ({"photometric": "PALETTE COLOR", "modality": "MR"}, "colour"),
        ({"rows": 31}, "smaller"),
        ({"rows": 0}, "no image"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34"}, "structured report"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.59"}, "key object"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.4"}, "segmentation"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.481.2"}, "radiotherapy"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.11.1"}, "presentation state"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.104.1"}, "encapsulated document"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.9.1.1"}, "waveform"),
    ],
)
def test_a_model_sees_images_only_and_each_other_object_has_its_reason(change, reason):
    (judged,) = select([replace(ROW, **change)])
    assert judged.usable == (not reason)
    assert reason in judged.reason if reason else judged.reason == ""


def test_real_files_are_judged_by_what_they_are(test_data):
    from medai_pipeline.dicom.deidentify import Deidentifier

    usable = {
        "highdicom/ct_image.dcm": True,
        "highdicom/sr_document.dcm": False,
        "highdicom/seg_image_ct_binary.dcm": False,
        "pylibjpeg-data/LittleEndianImplicit/rtdose.dcm": False,
        "pydicom-data/emri_small.dcm": True,
        "wg04/J2KI/RG1_J2KI": True,
        "nhsx/1.3.6.1.4.1.11129.5.5.110503645592756492463169821050252582267888.dcm": True,
    }
    deidentifier = Deidentifier(b"0123456789abcdef")
    for name, expected in usable.items():
        row = deidentifier.deidentify((test_data / "dicom" / name).read_bytes()).instance
        assert select([row])[0].usable is expected, name


@pytest.mark.parametrize(
    ("attributes", "content"),
    [
        ({}, ""),
        ({"SeriesDescription": "Dose Report"}, "dose-sheet"),
        ({"SeriesDescription": "Patient Protocol"}, "dose-sheet"),
        ({"SeriesDescription": "Low dose chest"}, ""),
        ({"SeriesDescription": "Scout AP"}, "localizer"),
        ({"ProtocolName": "3-plane LOC"}, ""),
        ({"ProtocolName": "LOC 3 plane"}, "localizer"),
        ({"SeriesDescription": "Screen Save"}, "screen"),
        ({"ConversionType": "WSD"}, "workstation"),
        ({"ConversionType": "DF"}, "digitized-film"),
        ({"ConversionType": MARKER}, ""),
    ],
)
def test_what_free_text_says_an_object_is_becomes_a_fixed_term(attributes, content):
    from medai_pipeline.dicom.attributes import Attributes
    from medai_pipeline.dicom.read import check_whole
    from medai_pipeline.dicom.row import CONTENTS, instance_row

    part = check_whole(written(image(**attributes)))
    row = instance_row(Attributes(part.elements), lambda uid, tag: uid, part.transfer_syntax, "")
    assert row.content == content and content in CONTENTS | {""}


def slice_at(z: float, number: int = 0, uid: str = "") -> Instance:
    return replace(
        ROW, sop_instance_uid=uid or f"2.25.{int(z * 10) + 10000}", instance_number=number,
        orientation=(1.0, 0, 0, 0, 1, 0), position_mm=(-100.0, -100.0, z),
    )  # fmt: skip


@given(
    st.lists(st.integers(-500, 500), unique=True, max_size=20).flatmap(
        lambda zs: st.tuples(st.just(zs), st.permutations(zs))
    )
)
def test_slices_are_ordered_by_geometry_whatever_their_numbers_and_order(both):
    slices = [slice_at(z, number) for number, z in enumerate(both[1])]
    assert [i.position_mm[2] for i in sort_series(slices)] == sorted(both[0])


def test_without_common_geometry_the_instance_number_orders():
    flat = [replace(slice_at(z, number), position_mm=None) for z, number in ((1, 3), (2, 1), (3, 2))]
    assert [i.instance_number for i in sort_series(flat)] == [1, 2, 3]
    tilted = [slice_at(5, 2), replace(slice_at(9, 1), orientation=(0.0, 1, 0, 0, 0, 1))]
    assert [i.instance_number for i in sort_series(tilted)] == [1, 2]


def found_in(series) -> dict[str, str]:
    return {problem.code: problem.reason for problem in series_problems(series)}


def test_a_whole_series_has_no_problems():
    assert found_in([slice_at(z * 2.5, z) for z in range(20)]) == {}


@given(st.permutations(range(20)), st.sets(st.integers(1, 18), min_size=1, max_size=4))
def test_missing_slices_are_counted_whatever_the_order(order, missing):
    series = [slice_at(z * 2.5, z) for z in order if z not in missing]
    assert f"about {len(missing)} slices" in found_in(series)["series-gaps"]


def test_duplicates_mixed_orientations_and_sizes_are_found():
    series = [slice_at(z, z) for z in range(10)]
    assert found_in([*series, slice_at(4, 99, "2.25.5")]).keys() == {"series-duplicates"}
    across = [replace(i, orientation=(0.0, 1, 0, 0, 0, -1), position_mm=(i.position_mm[2], 0, 0), sop_instance_uid=f"2.25.8{n}",
                      instance_number=50 + n) for n, i in enumerate(series)]  # fmt: skip
    assert found_in([*series, *across]).keys() == {"series-orientations"}
    ordered = sort_series([*across, *series])
    assert [i.instance_number for i in ordered] == [
        *range(10),
        *sorted((i.instance_number for i in across), reverse=True),
    ] or [i.instance_number for i in ordered] == [*range(10), *(i.instance_number for i in across)]
    assert found_in([replace(series[0], rows=256), *series[1:]]).keys() == {"series-sizes"}
    assert found_in([replace(series[0], position_mm=None), *series[1:]]).keys() == {"series-geometry"}
    irregular = [slice_at(z, z) for z in (0, 1, 2, 3.3, 4.3)]
    assert found_in(irregular).keys() == {"series-spacing"}
    assert found_in([replace(i, position_mm=(float("inf"), 0, 0)) for i in series]).keys() == {"series-geometry"}


def test_series_do_not_mix():
    rows = [replace(slice_at(z, uid=f"2.25.9{n}"), series_instance_uid=f"2.25.{z % 2}") for n, z in enumerate(range(6))]
    assert [i.series_instance_uid for i in sort_series(rows)] == ["2.25.0"] * 3 + ["2.25.1"] * 3


texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)
rows = st.builds(
    Instance,
    sop_instance_uid=texts, series_instance_uid=texts, study_instance_uid=texts, sop_class_uid=texts,
    transfer_syntax_uid=texts, modality=st.sampled_from(sorted(IMAGE_MODALITIES)), source_sha256=texts,
    rows=st.integers(0, 65535), instance_number=st.integers(-(2**31), 2**31 - 1), size_bytes=st.integers(0, 2**40),
    spacing_mm=st.none() | st.tuples(numbers, numbers),
    orientation=st.none() | st.tuples(*[numbers] * 6),
    position_mm=st.none() | st.tuples(numbers, numbers, numbers),
    slice_thickness_mm=st.none() | numbers,
    image_type=st.lists(texts, max_size=4).map(tuple),
    usable=st.booleans(), reason=texts,
)  # fmt: skip


@given(st.lists(rows, max_size=4))
def test_the_instance_table_loses_nothing(given_rows):
    table = instance_table(given_rows)
    assert instances(table) == tuple(given_rows)
    assert table.schema == pl.Schema(SCHEMA)


def test_the_table_has_a_column_for_every_field():
    assert list(SCHEMA) == [field.name for field in fields(Instance)]


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("CHEST", "CHEST"), ("Thorax PA", "CHEST"), ("CT LUNG/ABD", "CHEST"), ("HEAD", "HEAD"), ("Brain^Routine", "BRAIN"),
        ("t1_abdomen", "ABDOMEN"), ("", ""), (f"{MARKER} JANE", ""), ("AHEAD OF TIME", ""),
        ("MR hippocampus", ""),
        ("L HIP AP", "PELVIS"),
    ],
)  # fmt: skip
def test_a_body_part_is_recognised_in_free_text_or_not_at_all(text, term):
    assert named_in(text) == term


def test_a_good_object_has_no_problems():
    assert problems(written(image())) == []


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"Modality": ""}, "missing-attribute"),
        ({"BitsStored": 20}, "bits"),
        ({"HighBit": 3}, "bits"),
        ({"PhotometricInterpretation": "RGB"}, "photometric"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric"),
        ({"PhotometricInterpretation": MARKER}, "photometric"),
        ({"StudyInstanceUID": "1.2.03"}, "uid"),
        ({"SpecificCharacterSet": "ISO_IR 999"}, "character-set"),
        ({"PixelSpacing": [0, 1]}, "geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0], "ImagePositionPatient": [0, 0, 0]}, "geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "geometry"),
        ({"RescaleSlope": 0}, "rescale"),
        ({"WindowCenter": [1, 2], "WindowWidth": [3]}, "window"),
        ({"WindowCenter": 1, "WindowWidth": 0}, "window"),
        ({"StudyDate": "20261399"}, "value"),
        ({"BodyPartExamined": "chest " + MARKER.lower()}, "value"),
        ({"PerFrameFunctionalGroupsSequence": [Dataset(), Dataset()]}, "frames"),
    ],
)
def test_each_problem_is_found_and_says_nothing_of_the_patient(attributes, code):
    found = problems(written(image(**attributes)))
    assert code in {problem.code for problem in found}
    assert all(MARKER.lower() not in problem.reason.lower() for problem in found)


def test_a_file_that_cannot_be_read_is_a_problem_and_no_exception():
    assert [problem.code for problem in problems(b"")] == ["truncated"]
    assert [problem.code for problem in problems(written(image())[:-9])] == ["truncated"]
    assert [problem.code for problem in problems(b"PK" + bytes(range(256)) * 3)] == ["not-dicom"]


def test_real_files_can_all_be_looked_at(test_data):
    for path in find_files([test_data / "dicom", test_data / "deid"]):
        for problem in problems(path.read_bytes()):
            assert problem.code and "\n" not in problem.reason
