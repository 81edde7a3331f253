"""A row of the worklist can be acted on: which model spoke, who it is about, and a failed study once more."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from medai_pipeline.cli import main
from medai_pipeline.phantoms.studies import PhantomStudy, make_study
from medai_pipeline.records import StudyState
from medai_pipeline.settings import SETTINGS
from medai_pipeline.storage.tables import audit_log
from medai_pipeline_tests.pipeline import Pipeline


@pytest.fixture
def medai(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    for setting in SETTINGS:
        if setting.attribute in pipeline.settings:
            monkeypatch.setenv(setting.variable, str(pipeline.settings[setting.attribute]))

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(main, arguments)
        assert "unexpected" not in result.output, result.output
        return result

    return run


def without_pixels(seed: int) -> PhantomStudy:
    study = make_study("chest-xray", seed)
    for dataset in study.datasets:
        del dataset.PixelData
    return study


def test_the_model_stands_on_the_worklist_and_demo_models_are_called_so(pipeline: Pipeline, medai) -> None:
    (key,) = pipeline.send(make_study("chest-xray", 101))
    pipeline.work()
    (row,) = json.loads(medai("worklist", "--json").stdout)["studies"]
    assert row["study_key"] == key and row["demo_model"] is True
    (model,) = row["models"]
    assert model.startswith("demo-chest-xray@")
    table = medai("worklist").stdout
    assert model in table and "DEMO" in table


def test_whois_tells_who_a_study_is_about_and_leaves_a_trace(pipeline: Pipeline, medai) -> None:
    study = make_study("chest-xray", 102)
    dataset = study.datasets[0]
    for each in study.datasets:
        each.PatientName = "ZZDoe^\x1b[31mJane"
    (key,) = pipeline.send(study)
    pipeline.work()
    result = medai("whois", key.lower())
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output and "ZZDoe^" in result.output
    values = (dataset.PatientID, dataset.PatientBirthDate, dataset.AccessionNumber, dataset.StudyDate, "DX")
    assert all(str(value) in result.output for value in values)
    with pipeline.services.engine.connect() as connection:
        actors = connection.scalars(sa.select(audit_log.c.actor).where(audit_log.c.action == "identity.read")).all()
    assert any(actor.startswith("user:") for actor in actors)


def test_whois_of_an_unknown_study_is_one_line(medai) -> None:
    result = medai("whois", "NOSUCHSTUDY")
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1 and "NOSUCHSTUDY" in result.output


def test_failed_studies_are_tried_again_when_a_person_asks(pipeline: Pipeline, medai) -> None:
    good, bad, other = pipeline.send(make_study("chest-xray", 103), without_pixels(104), without_pixels(105))
    pipeline.work()
    assert medai("retry").exit_code == 2
    assert "1 studies" in medai("retry", bad).output
    assert [pipeline.state(key).state for key in (bad, other)] == [StudyState.READY, StudyState.FAILED]
    assert "1 studies" in medai("retry", "--failed").output
    assert pipeline.state(other).state is StudyState.READY
    refused = medai("retry", good)
    assert refused.exit_code == 1 and good in refused.output
    assert pipeline.state(good).state is StudyState.REPORTED
    assert not any(result.success for result in pipeline.work())
    assert {(pipeline.state(key).attempts, pipeline.state(key).state) for key in (bad, other)} == {
        (1, StudyState.FAILED)
    }
