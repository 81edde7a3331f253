"""A real PACS files what goes back with the study it is about, and what is sent again is there once."""

from __future__ import annotations

import httpx

from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.results.dicom import objects
from medai_pipeline_tests.orthanc import RunningOrthanc
from medai_pipeline_tests.result_samples import Sample


def test_orthanc_files_every_result_under_the_original_study_and_patient(empty_orthanc: RunningOrthanc) -> None:
    datasets = list(make_study("chest-ct", 9, slices=4, rows=96, columns=80).datasets)
    results = objects(Sample(datasets).evidence())
    signed_in = (empty_orthanc.username, empty_orthanc.password)
    with httpx.Client(base_url=empty_orthanc.url, auth=signed_in, timeout=30) as client:
        for data in [*map(to_bytes, datasets), *(result.data for result in results), results[0].data]:
            client.post("/instances", content=data).raise_for_status()
        (patient,) = client.get("/patients?expand").json()
        (study,) = client.get("/studies?expand").json()
        series = client.get("/series?expand").json()
        stored = client.get("/instances?expand").json()
    assert patient["MainDicomTags"]["PatientID"] == datasets[0].PatientID
    assert study["MainDicomTags"]["StudyInstanceUID"] == datasets[0].StudyInstanceUID
    assert study["MainDicomTags"]["AccessionNumber"] == datasets[0].AccessionNumber
    assert sorted(one["MainDicomTags"]["Modality"] for one in series) == ["CT", "KO", "OT", "OT", "SEG", "SR"]
    assert len(stored) == len(datasets) + len(results)
