"""A study of reports, key objects and presentation states alone is normal: it ends as a report, not as a failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    generate_uid,
)

from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.records import StudyState
from medai_pipeline_tests.pipeline import Pipeline

KINDS = {
    "SR": BasicTextSRStorage,
    "KO": KeyObjectSelectionDocumentStorage,
    "PR": GrayscaleSoftcopyPresentationStateStorage,
}


def without_image(kind: str, image: Dataset) -> Dataset:
    """An object of another kind in the study of `image`."""
    made = Dataset()
    made.file_meta = image.file_meta
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber"):
        if keyword in image:
            setattr(made, keyword, image[keyword].value)
    made.SOPClassUID, made.Modality = KINDS[kind], kind
    made.SOPInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    if kind != "PR":
        made.ValueType, made.ContinuityOfContent = "CONTAINER", "SEPARATE"
        concept = Dataset()
        concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning = "113000", "DCM", "Of Interest"
        made.ConceptNameCodeSequence = [concept]
    return made


def send(pipeline: Pipeline, datasets: list[Dataset]) -> str:
    results = pipeline.services.pacs.upload_many([to_bytes(dataset) for dataset in datasets])
    assert all(result.stored for result in results), results
    return pipeline.services.keys.study_key(str(datasets[0].StudyInstanceUID))


def test_it_is_reported_as_routine_with_nothing_to_analyse(pipeline: Pipeline) -> None:
    image = make_study("chest-xray", 91).datasets[0]
    key = send(pipeline, [without_image(kind, image) for kind in KINDS])
    (result,) = pipeline.work()
    assert result.success
    assert pipeline.state(key).state is StudyState.REPORTED
    (row,) = pipeline.reports(key)
    assert row.priority.value == "routine"
    assert "holds no image: nothing to analyse" in " ".join(row.reasons)
    content = pipeline.services.results.report(row.report_id)
    assert content["models"] == [] and content["findings"] == []


def test_images_that_come_later_are_read(pipeline: Pipeline) -> None:
    study = make_study("chest-xray", 92)
    key = send(pipeline, [without_image("SR", study.datasets[0])])
    pipeline.work()
    pipeline.send(study)
    pipeline.work()
    (row,) = pipeline.reports(key)
    assert row.revision == 2 and "no image" not in " ".join(row.reasons)


def test_images_that_are_all_unusable_stay_a_failure(pipeline: Pipeline) -> None:
    image = make_study("chest-xray", 93).datasets[0]
    del image.PixelData
    key = send(pipeline, [without_image("SR", image), image])
    pipeline.work()
    row = pipeline.state(key)
    assert row.state is StudyState.FAILED and "no image could be" in row.reason


def test_without_servers_it_is_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medai_pipeline.cli import main

    monkeypatch.setenv("MEDAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GPU_ENABLED", "false")
    (tmp_path / "in").mkdir()
    image = make_study("chest-xray", 94).datasets[0]
    (tmp_path / "in" / "sr").write_bytes(to_bytes(without_image("SR", image)))
    result = CliRunner().invoke(main, ["analyze", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "out").glob("*/report.json")
    assert json.loads(path.read_text())["priority"] == "routine"
    assert "nothing to analyse" in path.with_suffix(".html").read_text()
