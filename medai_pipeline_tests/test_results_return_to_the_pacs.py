"""Results lie in the original study when the settings say so, start nothing, and are never read as images again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from uuid import uuid4

import dagster as dg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from pydicom.dataset import Dataset

from medai_pipeline.cli import main
from medai_pipeline.local.ports import free_port
from medai_pipeline.orchestration.return_assets import DELIVERY_CHECK, RETURN_JOB
from medai_pipeline.phantoms.studies import PhantomStudy, make_study
from medai_pipeline.records import StudyState
from medai_pipeline.settings import SETTINGS
from medai_pipeline.storage.tables import audit_log, images, reviews
from medai_pipeline_tests.orthanc import file_bytes
from medai_pipeline_tests.pipeline import Pipeline
from medai_pipeline_tests.postgres import NewDatabase


def chest(seed: int, findings: tuple[str, ...] = ()) -> PhantomStudy:
    return make_study("chest-xray", seed, findings=findings, rows=128, columns=128)


@pytest.fixture
def returning(pipeline: Pipeline) -> Pipeline:
    return pipeline.with_settings(return_when="at-once", return_retry_seconds=0.0)


def ours(found: Sequence[Dataset]) -> list[Dataset]:
    return [one for one in found if one.Modality in {"SR", "KO", "SEG"} or "AI" in str(one.get("SeriesDescription"))]


def check_of(pipeline: Pipeline, key: str) -> dg.AssetCheckEvaluation:
    """The last evaluation of the delivery check of a partition."""
    check = dg.AssetCheckKey(dg.AssetKey("pacs_results"), DELIVERY_CHECK)
    history = pipeline.instance.event_log_storage.get_asset_check_execution_history(check, limit=20)
    found = [r.event.dagster_event.event_specific_data for r in history if r.event and r.event.dagster_event]
    return next(one for one in found if one.partition == key)


def test_results_lie_in_the_original_study_and_start_no_run(returning: Pipeline) -> None:
    study = chest(501, ("Pneumothorax",))
    (key,) = returning.send(study)
    returning.work()
    before = returning.state(key)
    (run,) = returning.deliver()
    assert run.success and returning.materialized("pacs_results") == {key}
    (row,) = returning.services.deliveries.of_study(key)
    assert (row.state, row.reason, row.attempts) == ("sent", "", 1)
    found = returning.in_pacs(study)
    sent = {one["sop_instance_uid"] for one in row.objects}
    assert {one.SOPInstanceUID for one in ours(found)} == sent == returning.services.deliveries.uids_of(key)
    assert len(found) == len(study.datasets) + len(sent) and len(sent) >= 4
    source = study.datasets[0]
    for one in ours(found):
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
            assert one.get(keyword) == source.get(keyword)
    assert returning.requested() == [] and returning.deliver() == []
    after = returning.state(key)
    assert (after.revision, after.source_digest, after.state) == (1, before.source_digest, StudyState.REPORTED)
    assert returning.services.worklist.in_progress() == []  # not even for the quiet period


def test_late_images_after_our_results_make_a_revision_of_the_images_alone(returning: Pipeline) -> None:
    whole = chest(502, ("Pneumothorax",))
    (key,) = returning.send(replace(whole, datasets=whole.datasets[:1]))
    returning.work()
    returning.deliver()
    first = ours(returning.in_pacs(whole))
    returning.send(replace(whole, datasets=whole.datasets[1:]))
    returning.work()
    assert [row.revision for row in returning.services.lifecycle.revisions(key)] == [1, 2]
    with returning.services.engine.connect() as connection:
        rows = connection.execute(sa.select(images).where(images.c.revision == 2)).all()
    assert len(rows) == returning.state(key).instance_count == len(whole.datasets)
    returning.deliver()
    assert returning.requested() == []
    rows = returning.services.deliveries.of_study(key)
    assert [(row.edition, row.revision, row.state) for row in rows] == [(1, 1, "sent"), (2, 2, "sent")]
    second = [one for one in ours(returning.in_pacs(whole)) if one not in first]
    taken_back = [one for one in second if "superseded" in one.SeriesDescription]
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in taken_back[0].ContentSequence
        if "ReferencedSOPSequence" in item
    }
    assert named == {one.SOPInstanceUID for one in first}


def test_a_site_that_lost_its_database_knows_its_results_again(
    returning: Pipeline, new_database: NewDatabase, tmp_path
) -> None:
    study = chest(503, ("Effusion",))
    (key,) = returning.send(study)
    returning.work()
    returning.deliver()
    there = {one.SOPInstanceUID for one in returning.in_pacs(study)}
    with dg.DagsterInstance.ephemeral() as instance:
        settings = {**returning.settings, "database_url": new_database(), "dicom_storage_path": str(tmp_path / "new")}
        anew = Pipeline(settings, instance)
        (run,) = anew.work()
        assert run.success and anew.state(key).instance_count == len(study.datasets)
        assert anew.state(key).source_digest == returning.state(key).source_digest
        anew.deliver()
        (row,) = anew.services.deliveries.of_study(key)
        assert row.state == "sent" and anew.requested() == []
    assert {one.SOPInstanceUID for one in returning.in_pacs(study)} == there


def test_results_that_come_back_alone_under_another_patient_start_nothing(returning: Pipeline) -> None:
    """As from a node that coerces the Patient ID: to Orthanc another study with the same UID."""
    study = chest(504, ("Pneumothorax",))
    (key,) = returning.send(study)
    returning.work()
    returning.deliver()
    for one in ours(returning.in_pacs(study)):
        one.PatientID = "COERCED"
        returning.services.pacs.upload(file_bytes(one))
    assert len(returning.services.pacs.find_studies(str(study.datasets[0].StudyInstanceUID))) == 2
    assert returning.requested() == []
    assert len(returning.services.lifecycle.revisions(key)) == 1


def test_after_review_the_sensor_sends_what_was_accepted(pipeline: Pipeline) -> None:
    careful = pipeline.with_settings(return_when="after-review")
    study, other = chest(505, ("Pneumothorax",)), chest(506)
    key, rejected = careful.send(study, other)
    careful.work()
    assert careful.deliver() == [] and ours(careful.in_pacs(study)) == []
    for study_key, decision in ((key, "accepted"), (rejected, "rejected")):
        (report,) = careful.reports(study_key)
        with careful.services.engine.begin() as connection:
            connection.execute(
                sa.insert(reviews).values(
                    id=uuid4(), report_id=report.report_id, reviewer="user:reader", decision=decision,
                    created_at=careful.now(),
                )
            )  # fmt: skip
    (run,) = careful.deliver()
    assert run.success and careful.materialized("pacs_results") == {key}
    assert ours(careful.in_pacs(study)) and ours(careful.in_pacs(other)) == []


def test_a_pacs_that_does_not_answer_fails_no_study_and_is_shown(returning: Pipeline) -> None:
    where = f"dicom://GONE@127.0.0.1:{free_port()}"
    failing = returning.with_settings(return_to=where)
    (key,) = failing.send(chest(507))
    failing.work()
    (run,) = failing.deliver()
    assert run.success  # what is wrong is the destination's
    assert failing.state(key).state is StudyState.REPORTED and failing.materialized("pacs_results") == set()
    evaluation = check_of(failing, key)
    assert not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.WARN
    (row,) = failing.services.deliveries.latest([key])
    assert row.troubled and row.open and "does not answer" in row.reason
    by_hand = failing.materialize_one(key, RETURN_JOB)
    assert not by_hand.success  # who asks is told
    healed = failing.with_settings(return_to="orthanc")
    assert healed.materialize_one(key, RETURN_JOB).success
    assert check_of(healed, key).passed


def test_no_identity_reaches_dagster_and_every_reading_and_delivery_is_in_the_chain(returning: Pipeline) -> None:
    study = chest(508, ("Effusion",))
    (key,) = returning.send(study)
    returning.work()
    (run,) = returning.deliver()
    logs = "".join(str(entry) for entry in returning.instance.all_logs(run.run_id))
    told = {str(uid) for uid in returning.services.deliveries.uids_of(key)}
    assert key in logs and not [word for word in (*study.markers, *told) if word in logs]
    with returning.services.engine.connect() as connection:
        rows = connection.execute(sa.select(audit_log).order_by(audit_log.c.seq)).all()
    own = [(row.action, row.detail) for row in rows if row.actor == "pipeline:pacs_results"]
    assert [action for action, _ in own] == ["identity.read", "delivery.sent"]
    assert own[1][1] == {"destination": "orthanc", "edition": 1, "objects": len(told)}
    assert returning.services.audit.verify().ok


@pytest.fixture
def medai(returning: Pipeline, monkeypatch: pytest.MonkeyPatch):
    for setting in SETTINGS:
        if setting.attribute in returning.settings:
            monkeypatch.setenv(setting.variable, str(returning.settings[setting.attribute]))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_the_commands_show_what_went_where_and_lead_from_the_object_to_its_making(returning: Pipeline, medai) -> None:
    study = chest(509, ("Pneumothorax",))
    (key,) = returning.send(study)
    returning.work()
    assert json.loads(medai("worklist", "--json"))["studies"][0]["deliveries"] == []
    returning.deliver()
    (document,) = [one for one in ours(returning.in_pacs(study)) if one.Modality == "SR"]
    (chain,) = json.loads(medai("lineage", str(document.SOPInstanceUID), "--json"))
    assert {row["study_key"] for row in chain} == {key}
    assert "orthanc: sent" in medai("lineage", str(document.SOPInstanceUID))
    (told,) = json.loads(medai("worklist", "--json"))["studies"][0]["deliveries"]
    assert (told["destination"], told["state"], told["edition"]) == ("orthanc", "sent", 1)
    assert json.loads(medai("deliveries", "--json"))[key] == [told]
    assert json.loads(medai("deliveries", "--problems", "--json")) == {}
    assert "sent" in medai("deliveries")
    table = medai("worklist")
    assert "sent" in table, table


def test_our_results_among_files_are_left_out_of_an_analysis(returning: Pipeline, tmp_path) -> None:
    study = chest(510, ("Pneumothorax",))
    returning.send(study)
    returning.work()
    returning.deliver()
    folder = tmp_path / "files"
    folder.mkdir()
    for number, one in enumerate(returning.in_pacs(study)):
        stream = BytesIO()
        one.save_as(stream, enforce_file_format=True)
        (folder / f"{number}.dcm").write_bytes(stream.getvalue())
    home = ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["analyze", str(folder), *home], env={"MEDAI_HOME": str(tmp_path / "home")})
    assert result.exit_code == 0, result.output
    (report,) = (tmp_path / "out").glob("*/report.json")
    told = json.loads(report.read_text())["images"]
    assert told["usable"] == len(study.datasets)
    assert "a result of this pipeline, not an image" in {one["reason"] for one in told["excluded"]}
