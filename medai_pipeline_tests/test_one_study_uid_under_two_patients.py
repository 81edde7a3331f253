"""One Study Instance UID under two patients: seen as a whole, refused as a whole, and done once the PACS is corrected."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from medai_pipeline.cli import main
from medai_pipeline.dicom.heading import count_patients, patient_of
from medai_pipeline.phantoms.studies import PhantomStudy, make_study, to_bytes, write_study
from medai_pipeline.records import StudyState
from medai_pipeline_tests.orthanc import RunningOrthanc
from medai_pipeline_tests.pipeline import Pipeline


def two_patients(seed: int, **second: str) -> tuple[PhantomStudy, PhantomStudy]:
    """A film study, one view of it under the first patient and the other under another."""
    study = make_study("chest-xray", seed)
    one, other = study.datasets[:1], [copy.deepcopy(dataset) for dataset in study.datasets[1:]]
    for dataset in other:
        for keyword, value in ({"PatientID": "ZZOTHER", "PatientName": "ZZOther^Patient"} | second).items():
            setattr(dataset, keyword, value)
    return replace(study, datasets=one), replace(study, datasets=other)


def delete_patient(orthanc: RunningOrthanc, patient_id: str) -> None:
    with httpx.Client(base_url=orthanc.url, auth=(orthanc.username, orthanc.password)) as client:
        query = {"Level": "Study", "Query": {"PatientID": patient_id}}
        for found in client.post("/tools/find", json=query).json():
            client.delete(f"/studies/{found}").raise_for_status()


def test_the_study_fails_with_what_to_do_and_a_correction_in_the_pacs_heals_it(
    pipeline: Pipeline, orthanc: RunningOrthanc
) -> None:
    one, other = two_patients(11)
    (key, _) = pipeline.send(one, other)
    pipeline.work()
    row = pipeline.state(key)
    assert (row.state, row.instance_count) == (StudyState.FAILED, 2)
    assert "2 patients" in row.reason and "PACS" in row.reason and "ZZ" not in row.reason
    assert pipeline.reports(key) == []
    assert pipeline.requested() == [], "the same content is not tried again by itself"
    delete_patient(orthanc, "ZZOTHER")
    for dataset in other.datasets:
        dataset.PatientID, dataset.PatientName = one.datasets[0].PatientID, one.datasets[0].PatientName
    pipeline.send(other)
    pipeline.work()
    assert (pipeline.state(key).state, pipeline.state(key).revision) == (StudyState.REPORTED, 2)
    assert pipeline.services.vault.read(key, "test", "test").patient_id == one.datasets[0].PatientID


def test_images_of_another_patient_that_come_late_are_not_lost_and_the_report_is_of_the_first_alone(
    pipeline: Pipeline, orthanc: RunningOrthanc
) -> None:
    one, other = two_patients(12)
    (key,) = pipeline.send(one)
    pipeline.work()
    pipeline.send(other)
    pipeline.work()
    row = pipeline.state(key)
    assert (row.state, row.revision) == (StudyState.FAILED, 2)
    assert [report.revision for report in pipeline.reports(key)] == [1]
    delete_patient(orthanc, one.datasets[0].PatientID)
    pipeline.work()
    assert (pipeline.state(key).state, pipeline.state(key).revision) == (StudyState.REPORTED, 3)
    identity = pipeline.services.vault.read(key, "test", "test")
    assert (identity.patient_id, identity.patient_name) == ("ZZOTHER", "ZZOther^Patient")


def test_the_study_vanishes_only_when_both_parts_are_gone(pipeline: Pipeline, orthanc: RunningOrthanc) -> None:
    waiting = pipeline.with_settings(stable_seconds=3600.0)
    one, other = two_patients(13)
    (key, _) = waiting.send(one, other)
    waiting.tick()
    delete_patient(orthanc, "ZZOTHER")
    waiting.tick()
    (row,) = waiting.services.worklist.in_progress()
    assert (row.state, row.instance_count) == (StudyState.RECEIVING, 1)
    delete_patient(orthanc, one.datasets[0].PatientID)
    waiting.tick()
    (row,) = waiting.services.worklist.in_progress()
    assert (row.study_key, row.state) == (key, StudyState.VANISHED)


@pytest.mark.parametrize("command", ["analyze", "deidentify"])
def test_without_servers_the_study_fails_alone_and_no_file_of_it_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("MEDAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GPU_ENABLED", "false")
    for number, study in enumerate((*two_patients(14), make_study("chest-xray", 15))):
        write_study(study, tmp_path / "in" / str(number))
    result = CliRunner().invoke(main, [command, str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "2 patients share one Study Instance UID" in result.output
    assert "1 of 2 studies done" in result.output
    files = [path for path in (tmp_path / "out").rglob("*.dcm") if path.parent.name != "results"]
    assert len(files) == 2, "those of the good study alone"


@pytest.mark.parametrize(
    ("patients", "count"),
    [
        ([("A", ""), ("A", "")], 1),
        ([("A", ""), ("A", "H1")], 1),
        ([("A", "H1"), ("A", "H2")], 2),
        ([("A", ""), ("B", "")], 2),
        ([("", ""), ("", "")], 1),
        ([("", ""), ("A", "")], 2),
    ],
)
def test_a_patient_is_an_id_and_its_issuer(patients: list[tuple[str, str]], count: int) -> None:
    assert count_patients(patients) == count


def test_the_patient_is_read_from_whole_and_cut_files_and_of_other_files_is_nobody() -> None:
    dataset = make_study("chest-ct", 16, slices=1).datasets[0]
    dataset.PatientID, dataset.IssuerOfPatientID = "ZZID ", "ZZISSUER"
    data = to_bytes(dataset)
    assert patient_of(data) == patient_of(data[: len(data) // 2]) == ("ZZID", "ZZISSUER")
    assert patient_of(b"") == patient_of(b"no DICOM at all, but some words") == ("", "")
