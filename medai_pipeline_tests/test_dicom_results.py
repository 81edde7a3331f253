"""What goes back to a PACS passes the validators, is about the right patient, and says no more than it knows."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medai_pipeline.dicom.deidentify import IMPLEMENTATION_CLASS_UID
from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.results.dicom import objects
from medai_pipeline.results.evidence import Kind
from medai_pipeline.results.written import DicomResult
from medai_pipeline_tests.conftest import missing
from medai_pipeline_tests.result_samples import Sample

SMALL = {"rows": 96, "columns": 80}


def tool(name: str) -> str:
    found = shutil.which(name)
    if not found:
        missing(f"{name} (Debian: dicom3tools, dcmtk)")
    return str(found)


def film(**changes: object) -> list[Dataset]:
    return list(make_study("chest-xray", 7, monochrome1=False, **SMALL).datasets[:1])


def dark_film() -> list[Dataset]:
    return list(make_study("chest-xray", 8, monochrome1=True, **SMALL).datasets)


def ct() -> list[Dataset]:
    return list(make_study("chest-ct", 9, slices=4, **SMALL).datasets)


def mr() -> list[Dataset]:
    return list(make_study("brain-mr", 10, slices=3, **SMALL).datasets)


def colour_film() -> list[Dataset]:
    (made,) = film()
    grey = (made.pixel_array >> 4).astype(np.uint8)
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.PixelData = np.repeat(grey[..., None], 3, axis=2).tobytes()
    return [made]


def enhanced_ct() -> list[Dataset]:
    made = LegacyConvertedEnhancedCTImage(ct(), generate_uid(), 1, generate_uid(), 1)
    made.BodyPartExamined = "CHEST"
    return [made]


def film_without_spacing_or_body_part() -> list[Dataset]:
    (made,) = film()
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "BodyPartExamined", "PatientOrientation"):
        delattr(made, keyword)
    return [made]


STUDIES = [film, dark_film, ct, mr, colour_film, enhanced_ct, film_without_spacing_or_body_part]


@pytest.fixture(scope="module")
def samples() -> dict[str, Sample]:
    return {make.__name__: Sample(make()) for make in STUDIES}


@pytest.fixture(params=[make.__name__ for make in STUDIES])
def sample(request: pytest.FixtureRequest, samples: dict[str, Sample]) -> Sample:
    return samples[request.param]


def read(result: DicomResult) -> Dataset:
    return pydicom.dcmread(BytesIO(result.data))


def of_kind(results: Sequence[DicomResult], kind: Kind) -> list[Dataset]:
    return [read(result) for result in results if result.kind is kind]


def errors(data: bytes, folder: Path) -> list[str]:
    path = folder / "result.dcm"
    path.write_bytes(data)
    said = subprocess.run([tool("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (said.stderr + said.stdout).splitlines() if line.startswith("Error")]


def every_item(dataset: Dataset) -> list[Dataset]:
    return [item for element in dataset.iterall() if element.VR == "SQ" for item in element.value]


def test_every_object_of_every_kind_of_study_passes_dciodvfy(sample: Sample, tmp_path: Path) -> None:
    results = objects(sample.evidence())
    assert {result.kind for result in results} == set(Kind) - {Kind.SUPERSEDED}
    assert {result.kind: errors(result.data, tmp_path) for result in results} == {r.kind: [] for r in results}


def test_the_report_is_read_by_dsrdump_with_every_finding_and_its_caution(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(objects(sample.evidence())[0].data)
    said = subprocess.run([tool("dsrdump"), "+Pl", str(path)], capture_output=True, text=True, check=True).stdout
    for words in (
        "Preliminary Flag    : PRELIMINARY", "Verification Flag   : UNVERIFIED", "Research use only", "Priority: ",
        '(36118008,SCT,"Pneumothorax")', '(60046008,SCT,"Pleural effusion")', "(pleural_thickenin,99MEDAI",
        '"Certainty of Finding")="93.0" (%,UCUM,"%")', "(386136009,SCT", '"Algorithm Name")="sample"',
        f"weights_sha256={'ab' * 32}", '(52101004,SCT,"Present")', '(272519000,SCT,"Absent")', "Tracking Unique Identifier",
    ):  # fmt: skip
        assert words.replace("pleural_thickenin", "pleural_thickeni") in said


def test_the_right_kind_of_report_is_made(samples: dict[str, Sample]) -> None:
    in_space, flat = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.33"
    kinds = {name: objects(sample.evidence())[0].sop_class_uid for name, sample in samples.items()}
    assert {name for name, kind in kinds.items() if kind == in_space} == {"ct", "mr", "enhanced_ct"}
    assert set(kinds.values()) == {in_space, flat}


def test_the_objects_are_about_the_original_patient_and_refer_to_the_original_images(sample: Sample) -> None:
    ours = set(sample.identity.uids.values())
    originals = set(sample.identity.uids)
    for result in objects(sample.evidence()):
        made = read(result)
        for keyword, value in (
            ("PatientName", sample.identity.patient_name), ("PatientID", sample.identity.patient_id),
            ("PatientBirthDate", sample.identity.birth_date), ("PatientSex", sample.identity.sex),
            ("StudyInstanceUID", sample.identity.study_instance_uid), ("StudyDate", sample.identity.study_date),
            ("StudyTime", sample.identity.study_time), ("AccessionNumber", sample.identity.accession_number),
            ("StudyID", sample.identity.study_id), ("ReferringPhysicianName", sample.identity.referring_physician),
        ):  # fmt: skip
            assert str(made.get(keyword)) == value, (result.kind, keyword)
        named = {str(item.ReferencedSOPInstanceUID) for item in every_item(made) if "ReferencedSOPInstanceUID" in item}
        assert named and named <= originals
        assert not any(uid.encode() in result.data for uid in ours), "a new UID beside an original one"
        assert made.SeriesInstanceUID not in originals


def test_the_same_evidence_gives_the_same_bytes_and_every_object_a_uid_of_its_own(sample: Sample) -> None:
    first, second = objects(sample.evidence()), objects(sample.evidence())
    assert [result.data for result in first] == [result.data for result in second]
    assert len({result.sop_instance_uid for result in first}) == len(first)
    assert len({result.series_instance_uid for result in first}) == len({result.kind for result in first})


def test_another_revision_model_or_study_gives_other_uids() -> None:
    uids = [
        {result.sop_instance_uid for result in objects(evidence)}
        for evidence in (
            Sample(film()).evidence(),
            Sample(film(), revision=2).evidence(),
            Sample(film(), version="2").evidence(),
        )
    ]
    sample = Sample(film())
    nobody = replace(sample.identity, study_instance_uid="2.25.77", uids={})
    uids.append({result.sop_instance_uid for result in objects(sample.evidence(nobody))})
    assert len(set.union(*uids)) == sum(map(len, uids))


def test_results_about_the_deidentified_study_name_nobody(samples: dict[str, Sample]) -> None:
    study = make_study("chest-ct", 9, slices=4, **SMALL)
    sample = samples["ct"]
    from medai_pipeline.stages import identity_in

    for result in objects(sample.evidence(identity_in(sample.study, sample))):
        assert not [marker for marker in study.markers if marker.encode() in result.data]


def test_values_that_the_standard_forbids_come_back_as_they_were(samples: dict[str, Sample]) -> None:
    odd = replace(
        samples["film"].identity,
        patient_id="X" * 80, patient_name="Müller^Ærø=山田^太郎", birth_date="1 May 1950", sex="female",
        accession_number="A" * 30, study_time="", referring_physician="broken \udce9^bytes",
    )  # fmt: skip
    made = read(objects(samples["film"].evidence(odd))[0])
    assert made.PatientID == "X" * 80
    assert made.PatientName == "Müller^Ærø=山田^太郎"
    assert made["PatientBirthDate"].value == "1 May 1950"
    assert made.ReferringPhysicianName == "broken ?^bytes"


def test_file_meta_information_names_this_implementation(sample: Sample) -> None:
    for result in objects(sample.evidence()):
        made = read(result)
        assert made.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
        assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID == result.sop_instance_uid
        assert "research use only" in made.SeriesDescription


def test_a_segment_lies_where_the_heat_is(samples: dict[str, Sample]) -> None:
    for name in ("film", "ct", "enhanced_ct"):
        (made,) = of_kind(objects(samples[name].evidence()), Kind.SEGMENTATION)
        assert [item.SegmentLabel for item in made.SegmentSequence] == [
            "Attention: Pneumothorax",
            "Attention: Effusion",
        ]
        assert {item.SegmentAlgorithmType for item in made.SegmentSequence} == {"AUTOMATIC"}
        frames = made.pixel_array.reshape(-1, 96, 80)
        numbers = [
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            for group in made.PerFrameFunctionalGroupsSequence
        ]
        for frame, number in zip(frames, numbers, strict=True):
            heatmap = samples[name].heatmaps.heatmaps[number - 1]
            boxes = np.zeros(frame.shape, bool)
            for x0, y0, x1, y1 in (region.box for region in heatmap.regions):
                boxes[y0:y1, x0:x1] = True
            assert frame.any() and not (frame.astype(bool) & ~boxes).any()
            assert frame.sum() > 0.3 * boxes.sum()


def test_two_films_make_two_segmentations_when_heat_lies_on_both() -> None:
    sample = Sample(dark_film())
    other = replace(sample.heatmaps.heatmaps[1], item=sample.tensors.items[0])
    sample.heatmaps = replace(sample.heatmaps, heatmaps=(sample.heatmaps.heatmaps[0], other))
    made = of_kind(objects(sample.evidence()), Kind.SEGMENTATION)
    assert [item.InstanceNumber for item in made] == [1, 2]
    assert {len(item.SegmentSequence) for item in made} == {1}


def test_a_parametric_map_holds_the_heat_and_says_what_its_values_mean(sample: Sample) -> None:
    evidence = sample.evidence()
    made = of_kind(objects(evidence), Kind.PARAMETRIC_MAP)
    assert len(made) == len(evidence.drawn) == 2
    for one, drawn in zip(made, evidence.drawn, strict=True):
        np.testing.assert_array_equal(np.squeeze(hd.pm.ParametricMap.from_dataset(one).get_frames()), drawn.heat)
        mapping = one.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
        assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "130403"
        assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1.0, 0.0)
        assert one.ContentQualification == "RESEARCH"


def test_a_large_film_has_a_smaller_map_over_the_same_field() -> None:
    sample = Sample(list(make_study("chest-xray", 7, rows=2100, columns=1500).datasets[:1]))
    made = of_kind(objects(sample.evidence()), Kind.PARAMETRIC_MAP)[0]
    spacing = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    placed = sample.heatmaps.heatmaps[0].item
    assert max(made.Rows, made.Columns) == 1024
    for count, step, all_of_it in zip(
        (made.Rows, made.Columns), spacing, (2100 * placed.spacing_mm[0], 1500 * placed.spacing_mm[1]), strict=True
    ):
        assert count * float(step) == pytest.approx(all_of_it, rel=1e-4)


def test_frames_of_a_multi_frame_object_are_named_by_number(samples: dict[str, Sample]) -> None:
    sample = samples["enhanced_ct"]
    frame = sample.heatmaps.heatmaps[0].item.frame
    results = objects(sample.evidence())
    for kind in (Kind.SEGMENTATION, Kind.PARAMETRIC_MAP, Kind.CAPTURE):
        made = of_kind(results, kind)[0]
        numbers = [item.ReferencedFrameNumber for item in every_item(made) if "ReferencedFrameNumber" in item]
        assert numbers and set(numbers) == {frame}
    listed = of_kind(results, Kind.SEGMENTATION)[0].ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert len(listed) == 1


def test_the_regions_of_a_volume_lie_in_the_patient(samples: dict[str, Sample]) -> None:
    for name in ("ct", "enhanced_ct"):
        sample = samples[name]
        made = read(objects(sample.evidence())[0])
        shapes = [item for item in every_item(made) if item.get("ValueType") == "SCOORD3D"]
        originals = {one.FrameOfReferenceUID for one in ct()}
        assert shapes and {item.ReferencedFrameOfReferenceUID for item in shapes} <= originals
        points = np.array(shapes[0].GraphicData).reshape(-1, 3)
        assert (points[0] == points[-1]).all() and len(points) == 5
        heatmap = sample.heatmaps.heatmaps[0]
        x0, y0, _, _ = heatmap.extent.box if heatmap.extent and heatmap.extent.size_mm else heatmap.regions[0].box
        source = ct()[0]
        row, column = map(float, source.PixelSpacing)
        corner = [float(v) for v in source.ImagePositionPatient[:2]]
        assert points[0][:2] == pytest.approx([corner[0] + (x0 - 0.5) * column, corner[1] + (y0 - 0.5) * row], abs=1e-3)
        depths = {round(float(one.ImagePositionPatient[2]), 3) for one in ct()}
        assert {round(float(point[2]), 3) for point in points} <= depths


def test_a_capture_shows_the_overlay_and_hides_no_identity(sample: Sample) -> None:
    import cv2

    for made, drawn in zip(of_kind(objects(sample.evidence()), Kind.CAPTURE), sample.evidence().drawn, strict=True):
        picture = cv2.imdecode(np.frombuffer(drawn.overlay, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(made.pixel_array, picture)
        assert made.BurnedInAnnotation == "NO"


def test_what_is_not_there_or_not_reliable_has_no_place_and_no_picture() -> None:
    nothing = Sample(film(), probabilities=(0.1, 0.2, 0.05))
    results = objects(nothing.evidence())
    assert [result.kind for result in results] == [Kind.REPORT]
    sample = Sample(film())
    doubtful = tuple(replace(found, reliable=False, reason="flat") for found in sample.heatmaps.heatmaps)
    sample.heatmaps = replace(sample.heatmaps, heatmaps=doubtful)
    results = objects(sample.evidence())
    assert [result.kind for result in results] == [Kind.REPORT, Kind.KEY_OBJECTS]
    assert not [item for item in every_item(read(results[0])) if item.get("ValueType") in ("SCOORD", "SCOORD3D")]


def test_a_report_of_nothing_found_passes_dciodvfy(tmp_path: Path) -> None:
    (report,) = objects(Sample(ct(), probabilities=(0.1, 0.2, 0.05)).evidence())
    assert errors(report.data, tmp_path) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"FrameOfReferenceUID": None, "PixelSpacing": None},
        {"ImageOrientationPatient": [1, 0.1, 0, 0, 1, 0]},
        {"ImageOrientationPatient": [0.8, 0.6, 0, -0.6, 0.8, 0], "SliceThickness": None},
    ],
    ids=["flat", "skewed", "oblique"],
)
def test_geometry_that_is_odd_or_missing_still_makes_valid_objects(changes: dict[str, object], tmp_path: Path) -> None:
    slices = ct()
    for made in slices:
        for keyword, value in changes.items():
            delattr(made, keyword) if value is None else setattr(made, keyword, value)
    results = objects(Sample(slices).evidence())
    assert len(results) == 7
    assert [errors(result.data, tmp_path) for result in results] == [[] for _ in results]


def test_names_that_are_too_long_for_dicom_are_cut(samples: dict[str, Sample], tmp_path: Path) -> None:
    evidence = samples["film"].evidence()
    name = "ü\\" + 90 * "n"
    drawn = [replace(one, heatmap=replace(one.heatmap, label=name)) for one in evidence.drawn]
    content = {
        **evidence.content,
        "models": [{**evidence.model, "name": name, "version": name}],
        "findings": [{**row, "label": name} for row in evidence.content["findings"][:1]],
    }
    results = objects(replace(evidence, content=content, drawn=drawn))
    assert [errors(result.data, tmp_path) for result in results] == [[] for _ in results]


def test_a_study_that_no_model_covers_sends_nothing_back(samples: dict[str, Sample]) -> None:
    evidence = samples["film"].evidence()
    assert objects(replace(evidence, content={**evidence.content, "models": []})) == []


def test_earlier_results_are_named_as_superseded(tmp_path: Path) -> None:
    earlier = objects(Sample(ct()).evidence())
    results = objects(Sample(ct(), revision=2).evidence(previous=[one.reference for one in earlier]))
    report = read(results[0])
    (series,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == earlier[0].sop_instance_uid
    (note,) = of_kind(results, Kind.SUPERSEDED)
    assert note.ConceptNameCodeSequence[0].CodeValue == "113001"
    named = {item.ReferencedSOPInstanceUID for item in every_item(note) if "ReferencedSOPInstanceUID" in item}
    assert named == {one.sop_instance_uid for one in earlier}
    kinds = [item.ValueType for item in note.ContentSequence if "ReferencedSOPSequence" in item]
    assert sorted(kinds) == ["COMPOSITE"] * 2 + ["IMAGE"] * 5
    assert not named & {one.sop_instance_uid for one in results}
    assert [errors(result.data, tmp_path) for result in results] == [[] for _ in results]


def test_nothing_tells_an_identity_when_it_is_shown(samples: dict[str, Sample]) -> None:
    evidence = samples["film"].evidence()
    shown = repr(objects(evidence)) + repr(evidence.origin) + repr(evidence.origin.identity)
    assert samples["film"].identity.patient_id not in shown
    assert samples["film"].identity.study_instance_uid not in shown
