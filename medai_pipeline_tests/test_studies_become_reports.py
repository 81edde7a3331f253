"""From the PACS to the report: one run for what is ready, partial success, late images, nothing twice, nothing lost."""

from __future__ import annotations

import json
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from sqlalchemy import text

from medai_pipeline.orchestration.jobs import STUDY_JOB
from medai_pipeline.orchestration.partitions import DEFER_EVENTS, RANGE_END, RANGE_START
from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.records import StudyState
from medai_pipeline_tests.pipeline import Pipeline, empty_pacs

STAGES = (
    "raw_dicom",
    "anonymized_instances",
    "normalized_tensors",
    "predictions",
    "gradcam_maps",
    "triage_reports",
)


def chest(seed: int, findings: tuple[str, ...] = ()):
    return make_study("chest-xray", seed, findings=findings)


def without_pixels(seed: int):
    """A study whose only image has lost its pixels: nothing a model may see."""
    study = chest(seed)
    for dataset in study.datasets:
        del dataset.PixelData
    return study


def test_all_ready_studies_go_in_one_run_and_each_gets_its_report(pipeline: Pipeline) -> None:
    keys = pipeline.send(chest(11, ("Pneumothorax",)), chest(12), make_study("chest-ct", 13, slices=4))
    requests = pipeline.requested()
    assert len(requests) == 1
    assert requests[0].tags[DEFER_EVENTS] == "true"
    result = pipeline.run(requests[0])
    assert result.success
    for stage in STAGES:
        assert pipeline.materialized(stage) == set(keys)
    for key in keys:
        (row,) = pipeline.reports(key)
        content = pipeline.services.results.report(row.report_id)
        assert content["lineage"]["run_id"] == result.run_id
        assert json.loads(pipeline.services.objects.get(f"{row.object_prefix}/report.json")) == content
        assert b"Research use only" in pipeline.services.objects.get(f"{row.object_prefix}/report.html")


def test_a_study_that_cannot_be_used_stops_alone_and_turns_the_run_red(pipeline: Pipeline) -> None:
    good, bad, other = pipeline.send(chest(21), without_pixels(22), chest(23))
    (result,) = pipeline.work()
    assert not result.success
    assert pipeline.materialized("triage_reports") == {good, other}
    assert pipeline.materialized("anonymized_instances") >= {good, other}
    row = pipeline.state(bad)
    assert row.state is StudyState.FAILED
    assert row.stage == "normalized_tensors"
    assert "no image" in row.reason
    assert pipeline.state(good).state is StudyState.REPORTED
    failure = result.failure_data_for_node("triage_reports")
    assert failure is not None
    assert bad in str(failure.error)


def test_a_failed_study_is_a_failed_check_of_its_partition_with_the_reason(pipeline: Pipeline) -> None:
    _, bad = pipeline.send(chest(24), without_pixels(25))
    pipeline.work()
    key = dg.AssetCheckKey(dg.AssetKey("normalized_tensors"), "tensor_contract")
    history = pipeline.instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    evaluations = {r.event.dagster_event.event_specific_data.partition: r for r in history if r.event is not None}
    assert not evaluations[bad].event.dagster_event.event_specific_data.passed


def test_each_partition_names_the_versions_it_was_made_from(pipeline: Pipeline) -> None:
    (key,) = pipeline.send(chest(26))
    pipeline.work()

    def tags(asset: str) -> dict[str, str]:
        (record,) = pipeline.instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[key]), limit=1
        ).records
        assert record.asset_materialization is not None
        return dict(record.asset_materialization.tags or {})

    for asset, upstream in zip(STAGES[1:4], STAGES[:3], strict=True):
        assert tags(asset)[f"dagster/input_data_version/{upstream}"] == tags(upstream)["dagster/data_version"]


def test_the_same_study_again_is_not_processed_again(pipeline: Pipeline) -> None:
    study = chest(31)
    (key,) = pipeline.send(study)
    pipeline.work()
    pipeline.send(study)
    assert pipeline.requested() == []
    assert len(pipeline.services.lifecycle.revisions(key)) == 1


def test_late_images_make_a_new_revision_and_the_old_report_stays(pipeline: Pipeline) -> None:
    whole = make_study("chest-ct", 41, slices=6)
    early = type(whole)(**{**vars_of(whole), "datasets": whole.datasets[:4]})
    (key,) = pipeline.send(early)
    pipeline.work()
    pipeline.send(whole)
    pipeline.work()
    first, second = sorted(pipeline.services.lifecycle.revisions(key), key=lambda row: row.revision)
    assert (first.revision, second.revision) == (1, 2)
    assert (first.instance_count, second.instance_count) == (4, 6)
    (row,) = pipeline.reports(key)
    assert row.revision == 2
    with pipeline.services.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM medai.reports WHERE study_key = :k"), {"k": key}) == 2


def test_a_person_materializes_one_partition_again_and_nothing_is_doubled(pipeline: Pipeline) -> None:
    (key,) = pipeline.send(chest(51))
    pipeline.work()
    result = pipeline.materialize_one(key)
    assert result.success
    with pipeline.services.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM medai.reports WHERE study_key = :k"), {"k": key}) == 1
    assert pipeline.state(key).state is StudyState.REPORTED


def test_a_person_materializes_one_stage_and_the_report_counts_on(pipeline: Pipeline) -> None:
    (key,) = pipeline.send(chest(52))
    pipeline.work()
    result = pipeline.materialize_one(key, asset_selection=[dg.AssetKey("gradcam_maps")])
    assert result.success
    assert pipeline.requested() == []
    assert pipeline.state(key).state is StudyState.REPORTED


def test_a_persons_run_of_a_bad_study_fails_with_its_reason(pipeline: Pipeline) -> None:
    (key,) = pipeline.send(without_pixels(53))
    pipeline.work()
    result = pipeline.materialize_one(key)
    assert not result.success
    assert key not in pipeline.materialized("normalized_tensors")


def test_a_study_is_not_requested_while_images_still_arrive(pipeline: Pipeline) -> None:
    waiting = pipeline.with_settings(stable_seconds=3600.0)
    (key,) = waiting.send(chest(61))
    assert waiting.requested() == []
    (row,) = waiting.services.worklist.in_progress()
    assert (row.study_key, row.state) == (key, StudyState.RECEIVING)


def test_a_study_deleted_before_its_report_is_shown_as_vanished(pipeline: Pipeline, orthanc) -> None:
    waiting = pipeline.with_settings(stable_seconds=3600.0)
    (key,) = waiting.send(chest(62))
    waiting.tick()
    empty_pacs(orthanc)
    waiting.tick()
    (row,) = waiting.services.worklist.in_progress()
    assert (row.study_key, row.state) == (key, StudyState.VANISHED)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"orthanc_url": "http://127.0.0.1:9"}, "ORTHANC_URL"), ({"orthanc_password": "wrong"}, "ORTHANC_PASSWORD")],
)
def test_an_unreachable_pacs_is_one_line_at_the_tick_and_nothing_is_lost(pipeline: Pipeline, change, words) -> None:
    pipeline.send(chest(63))
    broken = pipeline.with_settings(**change)
    assert broken.tick() == []
    assert words in broken.skipped
    assert "\n" not in broken.skipped
    assert len(pipeline.work()) == 1


def test_a_full_disk_is_the_reason_at_the_study_and_a_later_retry_succeeds(pipeline: Pipeline, monkeypatch) -> None:
    (key,) = pipeline.send(chest(64))
    requests = pipeline.requested()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os.write", full)
        assert not pipeline.run(requests[0]).success
    row = pipeline.state(key)
    assert row.state is StudyState.READY
    assert "space" in row.reason
    (result,) = pipeline.work()
    assert result.success
    assert len(pipeline.reports(key)) == 1


def test_a_run_whose_process_died_is_failed_in_dagster_and_its_studies_are_ready_again(pipeline: Pipeline) -> None:
    (key,) = pipeline.send(chest(65))
    (request,) = pipeline.requested()
    job = pipeline.definitions.resolve_job_def("study_job")
    run = pipeline.instance.create_run_for_job(job, tags=dict(request.tags))
    pipeline.instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, job.name, message="started"), run.run_id
    )
    hold = pipeline.services.lifecycle.hold_run(run.run_id)
    assert pipeline.services.lifecycle.claim(key, run.run_id, pipeline.now()) is not None
    assert pipeline.requested() == []  # alive: not touched
    hold.release()  # what Postgres does when the process ends
    (again,) = pipeline.requested()
    assert pipeline.instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE
    assert pipeline.run(again).success
    assert len(pipeline.reports(key)) == 1
    assert pipeline.state(key).attempts == 2


def test_a_request_that_was_lost_is_made_again(pipeline: Pipeline, monkeypatch) -> None:
    (key,) = pipeline.send(chest(66))
    pipeline.requested()  # the daemon dies here: the run was never made
    assert pipeline.state(key).state is StudyState.QUEUED
    assert pipeline.requested() == []
    later = pipeline.now() + timedelta(seconds=60)
    monkeypatch.setattr("medai_pipeline.services.Services.now", staticmethod(lambda: later))
    assert len(pipeline.requested()) == 1


def test_a_canceled_run_leaves_its_studies_to_a_person(pipeline: Pipeline) -> None:
    (key,) = pipeline.send(chest(67))
    (request,) = pipeline.requested()
    job = pipeline.definitions.resolve_job_def("study_job")
    run = pipeline.instance.create_run_for_job(job, tags=dict(request.tags))
    pipeline.services.lifecycle.claim(key, run.run_id, pipeline.now())
    pipeline.instance.report_run_canceled(run)
    assert pipeline.requested() == []
    row = pipeline.state(key)
    assert row.state is StudyState.FAILED
    assert "canceled" in row.reason


def test_ranges_name_only_neighbours(pipeline: Pipeline) -> None:
    """Keys that are old and apart in Dagster's order are requested in runs of their own, never the ones between them."""
    small = pipeline.with_settings(studies_per_run=2)
    keys = small.send(*(chest(70 + n) for n in range(5)))
    requests = small.requested()
    covered = []
    order = list(small.instance.get_dynamic_partitions("studies"))
    for request in requests:
        start, end = order.index(request.tags[RANGE_START]), order.index(request.tags[RANGE_END])
        covered += order[start : end + 1]
    assert sorted(covered) == sorted(keys)
    assert len(requests) == 3


def vars_of(record: object) -> dict:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}  # type: ignore[attr-defined]


def test_what_gets_ready_while_a_run_waits_goes_together_in_the_next_one(pipeline: Pipeline) -> None:
    pipeline.send(chest(301))
    (request,) = pipeline.requested()
    job = pipeline.definitions.resolve_job_def(STUDY_JOB)
    code = RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("127.0.0.1", 1), "repository")
    waiting = pipeline.instance.create_run_for_job(
        job,
        tags=dict(request.tags),
        status=dg.DagsterRunStatus.QUEUED,
        remote_job_origin=RemoteJobOrigin(code, STUDY_JOB),
        job_code_origin=JobPythonOrigin(STUDY_JOB, RepositoryPythonOrigin("python", ModuleCodePointer("none", "none"))),
    )
    keys = []
    for seed in (302, 303, 304):
        keys += pipeline.send(chest(seed))
        assert pipeline.requested(2) == []
    assert {pipeline.state(key).state for key in keys} == {StudyState.READY}
    pipeline.instance.report_run_canceled(waiting)
    (later,) = [request for request in pipeline.requested() if request.tags["medai/studies"] == "3"]
    assert later.tags[RANGE_START] in keys and later.tags[RANGE_END] in keys
