"""A model version changes: exactly its studies are computed again, without the PACS, and going back computes nothing."""

from __future__ import annotations

import dataclasses

import dagster as dg
import pytest
import torch
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from sqlalchemy import text

from medai_pipeline import stages
from medai_pipeline.definitions import build_definitions
from medai_pipeline.errors import PacsUnreachable
from medai_pipeline.local import comparing
from medai_pipeline.local.model_commands import what_follows
from medai_pipeline.models.catalog import entry
from medai_pipeline.models.load import weights_path
from medai_pipeline.orchestration import model_choice, model_sensors
from medai_pipeline.orchestration.io_managers import StudyValues
from medai_pipeline.orchestration.partitions import BACKFILL, RANGE_END, RANGE_START
from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.records import StudyState
from medai_pipeline.registering import pairs_of
from medai_pipeline.storage.changes import Changes
from medai_pipeline_tests.pipeline import Pipeline
from medai_pipeline_tests.versions_in_use import FILM, FILM2, Models, film


def no_pacs(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise PacsUnreachable("the PACS must not be asked")

    monkeypatch.setattr("medai_pipeline.pacs.orthanc.Orthanc._send", unreachable, raising=False)
    monkeypatch.setattr("httpx.Client.send", unreachable)


def test_a_promotion_makes_exactly_its_studies_stale_and_their_backfill_needs_no_pacs(
    pipeline: Pipeline, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = pipeline.send(film(501, ("Pneumothorax",)), film(502))
    (ct,) = pipeline.send(make_study("chest-ct", 503, slices=4))
    pipeline.work()
    assert not any(models.stale(key) for key in (*films, ct))
    assert models.sensor() == []
    label = models.register("2")
    count, words = what_follows(models.services, label)
    assert count == 2
    assert "2 older studies were read by another version" in words
    assert "s a study (the whole way, measured over the last 3)" in words
    models.promote(label)
    no_pacs(monkeypatch)
    (request,) = models.sensor()
    assert [models.stale(key) for key in (*films, ct)] == [True, True, False]
    assert request.tags[BACKFILL] == FILM2
    assert int(request.tags["dagster/priority"]) < 0
    assert {key.to_user_string() for key in request.asset_graph_subset.asset_keys} == {
        "predictions", "gradcam_maps", "triage_reports"}  # fmt: skip
    results = models.backfill(request, chunk=1)
    assert len(results) == 2  # in chunks
    assert all(result.success for result in results)
    assert [models.reported_by(key) for key in (*films, ct)] == [FILM2, FILM2, "demo-chest-ct@1"]
    assert not any(models.stale(key) for key in (*films, ct))
    assert models.results(films[0]) == [("1", "primary"), ("2", "primary")]  # both stay
    (row,) = pipeline.reports(films[0])
    assert row.first_reported_at < row.reported_at  # how long the study waited is not told anew
    assert models.sensor() == []
    assert "no study is left" in models.skipped
    assert models.services.registry.version("demo-chest-xray").backfill_since is None


def test_going_back_computes_nothing(pipeline: Pipeline, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    (key,) = pipeline.send(film(511, ("Effusion",)))
    pipeline.work()
    (before,) = pipeline.reports(key)
    models.promote(models.register("2"))
    (request,) = models.sensor()
    models.backfill(request)
    models.sensor()
    assert "(1 of them were before: these are only put back), about 0 seconds" in what_follows(models.services, FILM)[1]
    models.promote(FILM)
    before_it = models.services.changes.seconds_a_study()

    def computed(*_: object, **__: object) -> None:
        raise AssertionError("this was computed before")

    monkeypatch.setattr(stages, "predict_studies", computed)
    monkeypatch.setattr(stages, "explain_study", computed)
    no_pacs(monkeypatch)
    (request,) = models.sensor()
    assert all(result.success for result in models.backfill(request))
    (after,) = pipeline.reports(key)
    assert (after.report_id, after.models, after.priority) == (before.report_id, before.models, before.priority)
    assert not models.stale(key)
    assert models.results(key) == [("1", "primary"), ("2", "primary")]
    assert (
        before_it and models.services.changes.seconds_a_study() is None
    )  # putting back tells nothing of how long one takes


def test_a_backfill_that_died_is_taken_up_again_with_what_is_left_and_without_the_pacs(
    pipeline: Pipeline, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = pipeline.send(film(521), film(522))
    pipeline.work()
    models.promote(models.register("2"))
    (request,) = models.sensor()
    assets = sorted(request.asset_graph_subset.asset_keys, key=lambda key: key.to_user_string())
    assert models.run(keys[:1], assets, dict(request.tags)).success
    job = pipeline.definitions.get_repository_def().get_implicit_global_asset_job_def()
    run = pipeline.instance.create_run_for_job(job.get_subset(asset_selection=set(assets)), tags=dict(request.tags))
    started = dg.DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, job.name, message="started")
    pipeline.instance.report_dagster_event(started, run.run_id)
    hold = pipeline.services.lifecycle.hold_run(run.run_id)
    assert pipeline.services.lifecycle.claim(keys[1], run.run_id, pipeline.now(), only_reported=True)
    assert models.sensor() == [] and "at work" in models.skipped  # nothing is left to ask for, and yet it is not done
    hold.release()  # what Postgres does when the process ends
    assert pipeline.requested() == []  # nothing is fetched again
    assert pipeline.state(keys[1]).state is StudyState.REPORTED
    no_pacs(monkeypatch)
    (again,) = models.sensor()
    left = again.asset_graph_subset.get_partitions_subset(dg.AssetKey("predictions")).get_partition_keys()
    assert set(left) == {keys[1]}
    assert all(result.success for result in models.backfill(again))
    assert [models.reported_by(key) for key in keys] == [FILM2, FILM2]


def test_a_promotion_during_a_running_backfill_ends_with_the_newest_version_everywhere(
    pipeline: Pipeline, models: Models
) -> None:
    keys = pipeline.send(film(531), film(532))
    pipeline.work()
    models.promote(models.register("2"))
    (request,) = models.sensor()
    assets = sorted(request.asset_graph_subset.asset_keys, key=lambda key: key.to_user_string())
    assert models.run(keys[:1], assets, dict(request.tags)).success
    models.promote(models.register("3", shift=-3.0))
    assert models.run(keys[1:], assets, dict(request.tags)).success  # the old backfill's next chunk
    assert [models.reported_by(key) for key in keys] == [FILM2, "demo-chest-xray@3"]
    (rest,) = models.sensor()
    left = rest.asset_graph_subset.get_partitions_subset(dg.AssetKey("predictions")).get_partition_keys()
    assert set(left) == {keys[0]}
    assert all(result.success for result in models.backfill(rest))
    assert [models.reported_by(key) for key in keys] == ["demo-chest-xray@3"] * 2
    models.sensor()
    pairs = [(old, "demo-chest-xray@3") for old in (FILM2, FILM)]  # each was replaced in some studies
    assert pairs_of(models.services.registry.versions()) == pairs
    assert comparing.comparison(models.services, "demo-chest-xray@3").old == FILM


def test_a_version_that_takes_other_images_gets_them_from_what_is_kept(
    pipeline: Pipeline, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = pipeline.send(film(541))
    pipeline.work()
    contract = dataclasses.replace(entry(FILM).contract, height=160, width=160)
    models.promote(models.register("2", contract=contract))
    no_pacs(monkeypatch)
    (request,) = models.sensor()
    assert dg.AssetKey("normalized_tensors") in request.asset_graph_subset.asset_keys
    assert all(result.success for result in models.backfill(request))
    assert models.reported_by(key) == FILM2


def test_a_study_of_several_kinds_is_offered_to_a_new_model_of_each(
    pipeline: Pipeline, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study("chest-xray", 546)
    study.datasets[1].Modality, study.datasets[1].BodyPartExamined = "MG", "BREAST"
    models.services.registry.retire(*FILM.split("@"), "ann")
    (key,) = pipeline.send(study)
    pipeline.work()
    (read,) = models.services.changes.read_studies()
    assert (read.modality, read.model, read.kinds) == ("MG", "", (("MG", "BREAST"), ("DX", "CHEST")))
    no_pacs(monkeypatch)
    film = models.register("2")  # of the second kind, which was not read
    assert what_follows(models.services, film)[0] == 1
    models.promote(film)
    assert _read_anew(models) and models.reported_by(key) == FILM2
    assert models.sensor() == [] and "no study is left" in models.skipped
    breasts = models.register("1", name="breasts", modality=("MG",), body_parts=("BREAST",))  # of the first
    assert what_follows(models.services, breasts)[0] == 1
    models.promote(breasts)
    assert _read_anew(models) and models.reported_by(key) == breasts
    assert models.sensor() == [] and "no study is left" in models.skipped
    assert models.services.changes.read_studies()[0].modality == "MG"


def _read_anew(models: Models) -> bool:
    """By the backfill that the sensor asks for, which takes other images of what is kept."""
    (request,) = models.sensor()
    assert dg.AssetKey("normalized_tensors") in request.asset_graph_subset.asset_keys
    return all(result.success for result in models.backfill(request))


def test_a_study_for_which_the_new_version_gives_no_number_keeps_its_report_and_the_others_go_on(
    pipeline: Pipeline, models: Models
) -> None:
    good, bad = pipeline.send(film(551), film(552))
    pipeline.work()
    images = {key: StudyValues(models.services, "normalized_tensors", [key])[key].pixels for key in (good, bad)}
    spared = [float(image.mean()) for image in images[good]]
    hit = float(images[bad][0].mean())

    class Fragile(torch.nn.Module):
        """No number for images of one brightness; it answers all others."""

        def __init__(self, hit: float, reach: float, classes: int) -> None:
            super().__init__()
            self.hit, self.reach, self.classes = hit, reach, classes

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            away = (pixels.mean((1, 2, 3)) - self.hit).abs()
            logits = torch.where(away < self.reach, torch.full_like(away, float("nan")), away)
            return logits[:, None].repeat(1, self.classes)

    program = models.folder / "fragile.ts"
    reach = min(abs(mean - hit) for mean in spared) / 2
    torch.jit.save(torch.jit.script(Fragile(hit, reach, 5)), str(program))
    models.promote(models.register("2", weights=program, kind="torchscript", dropout=0.0))
    (request,) = models.sensor()
    (result,) = models.backfill(request)
    assert not result.success
    assert (models.reported_by(good), models.reported_by(bad)) == (FILM2, FILM)
    row = pipeline.state(bad)
    assert (row.state, row.stage) == (StudyState.FAILED, "predictions")
    assert "not a number" in row.reason
    assert models.sensor() == []  # it waits for a person, and is not tried for ever
    assert "no study is left" in models.skipped
    models.promote(models.register("3"))  # a version that mends it, or another model altogether
    (request,) = models.sensor()
    assert all(result.success for result in models.backfill(request))
    assert {models.reported_by(key) for key in (good, bad)} == {"demo-chest-xray@3"}
    assert pipeline.state(bad).state is StudyState.REPORTED


def test_a_backfill_that_a_person_cancels_stops_and_loses_no_report(pipeline: Pipeline, models: Models) -> None:
    (key,) = pipeline.send(film(556))
    pipeline.work()
    reported_at = pipeline.state(key).finished_at
    models.promote(models.register("2"))
    (request,) = models.sensor()
    instance, lifecycle = pipeline.instance, pipeline.services.lifecycle
    asked = PartitionBackfill(
        backfill_id="asked", status=BulkActionStatus.CANCELED, from_failure=False, tags=dict(request.tags),
        backfill_timestamp=pipeline.now().timestamp(), asset_selection=sorted(request.asset_graph_subset.asset_keys),
    )  # fmt: skip
    instance.add_backfill(asked)
    job = pipeline.definitions.get_repository_def().get_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, tags=dict(request.tags))
    assert lifecycle.claim(key, run.run_id, pipeline.now(), only_reported=True)
    instance.report_run_canceled(run)
    assert pipeline.requested() == []
    row = pipeline.state(key)
    assert (row.state, row.finished_at, models.reported_by(key)) == (StudyState.REPORTED, reported_at, FILM)
    assert models.sensor() == [] and "was canceled" in models.skipped
    assert models.sensor() == [] and "canceled" not in models.skipped
    models.services.registry.want_backfill("demo-chest-xray", "2", "ann", pipeline.now())
    assert len(models.sensor()) == 1  # asked for anew, it starts


def test_a_study_that_the_version_before_reported_in_between_is_read_again(
    pipeline: Pipeline, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send(film(557))
    pipeline.work()
    models.promote(models.register("2"))
    monkeypatch.setattr(Changes, "read_studies", lambda _: monkeypatch.undo() or [])  # it was at work then
    assert models.sensor() == [] and "again soon" in models.skipped
    assert len(models.sensor()) == 1


def test_versions_that_share_their_weights_are_told_apart(pipeline: Pipeline, models: Models) -> None:
    (key,) = pipeline.send(film(558, ("Pneumothorax",)))
    pipeline.work()
    first = models.services.catalogue.counting_report(key)
    own = models.services.registry.version("demo-chest-xray", "1").weights_sha256
    packaged = weights_path(entry(FILM), None)
    for version, temperature in (("2", 4.0), ("3", 4.0)):  # the third says just what the second said
        models.promote(models.register(version, weights=packaged, temperature=temperature))
        (request,) = models.sensor()
        assert all(result.success for result in models.backfill(request))
    assert [version for version, _ in models.results(key)] == ["1", "2", "3"]
    last = models.services.catalogue.counting_report(key)
    assert first and last and first["content"]["models"][0]["weights_sha256"] == own
    told = [models.services.catalogue.result_in(report) for report in (first, last)]
    assert [row["model_version"] for row in told if row] == ["1", "3"]
    assert [models.services.catalogue.report_of_result(row)["id"] for row in told if row] == [first["id"], last["id"]]
    with models.services.engine.connect() as connection:
        query = text("SELECT DISTINCT report_id, model_version FROM medai.lineage WHERE study_key = :key")
        chains = {str(row.report_id): row.model_version for row in connection.execute(query, {"key": key})}
    assert (chains[str(first["id"])], chains[str(last["id"])]) == ("1", "3")


def test_a_backfill_that_gets_nowhere_stops_and_says_how_to_go_on(pipeline: Pipeline, models: Models) -> None:
    patient = pipeline.with_settings(max_attempts=2)
    (key,) = patient.send(film(561))
    patient.work()
    models = Models(patient, models.folder)
    models.promote(models.register("2"))
    for stored in (patient.services.settings.models_path / "objects").iterdir():
        stored.unlink()  # the weights are lost after the promotion
    for _ in range(2):
        (request,) = models.sensor()
        assert not models.backfill(request)[0].success
        assert patient.state(key).state is StudyState.REPORTED
    assert models.sensor() == []
    assert "medai backfill --model demo-chest-xray@2" in models.skipped
    models.services.registry.want_backfill("demo-chest-xray", "2", "ann", patient.now())
    assert len(models.sensor()) == 1


def test_very_many_studies_come_in_backfills_one_after_another_the_last_reported_first(
    pipeline: Pipeline, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    _few_at_once(monkeypatch, studies=2)
    keys = []
    for seed in (566, 567, 568, 569):
        keys += pipeline.send(film(seed))
        pipeline.work()
    models.promote(models.register("2"))
    (first,) = models.sensor()
    assert _studies_of(first) == set(keys[2:]) and first.tags["medai/studies"] == "2"
    assert [models.stale(key) for key in keys] == [False, False, True, True]
    assert all(result.success for result in models.backfill(first))
    assert [models.reported_by(key) for key in keys] == [FILM, FILM, FILM2, FILM2]
    (second,) = models.sensor()
    assert _studies_of(second) == set(keys[:2])
    assert dg.AssetKey("normalized_tensors") not in second.asset_graph_subset.asset_keys  # none of its runs has died
    assert all(result.success for result in models.backfill(second))
    assert models.sensor() == [] and "no study is left" in models.skipped


def test_all_studies_of_a_promotion_are_marked_while_its_first_backfill_runs(
    pipeline: Pipeline, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    _few_at_once(monkeypatch, studies=1)
    keys = pipeline.send(film(571), film(572), film(573))
    pipeline.work()
    models.promote(models.register("2"))
    (request,) = models.sensor()
    marked = [sum(models.stale(key) for key in keys)]
    running = PartitionBackfill(
        backfill_id="running", status=BulkActionStatus.REQUESTED, from_failure=False, tags=dict(request.tags),
        backfill_timestamp=pipeline.now().timestamp(), asset_selection=sorted(request.asset_graph_subset.asset_keys),
    )  # fmt: skip
    pipeline.instance.add_backfill(running)
    for _ in range(2):
        assert models.sensor() == [] and "3 studies are left" in models.skipped
        marked.append(sum(models.stale(key) for key in keys))
    assert marked == [1, 2, 3]
    monkeypatch.setattr(Changes, "read_studies", None)  # all are not read every few seconds for days
    assert models.sensor() == [] and "its backfill is under way" in models.skipped


def _few_at_once(monkeypatch: pytest.MonkeyPatch, studies: int) -> None:
    """A backfill takes so many studies, and one is marked at a time."""
    monkeypatch.setattr(model_sensors, "STUDIES_AT_ONCE", studies)
    monkeypatch.setattr(model_sensors, "MARKED_AT_ONCE", 1)
    monkeypatch.setattr(model_choice, "EVENTS_AT_ONCE", 1)


def _studies_of(request: dg.RunRequest) -> set[str]:
    return set(request.asset_graph_subset.get_partitions_subset(dg.AssetKey("predictions")).get_partition_keys())


def test_a_backfill_of_many_studies_comes_in_chunks() -> None:
    from dagster._core.definitions.automation_tick_evaluation_context import build_run_requests_with_backfill_policies
    from dagster._core.definitions.events import AssetKeyPartitionKey

    graph = build_definitions(database_url=None, orthanc_url=None).get_repository_def().asset_graph
    keys = [f"S{number:02}" for number in range(40)]
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("studies", keys)
        assets = ("predictions", "gradcam_maps", "triage_reports")
        wanted = {AssetKeyPartitionKey(dg.AssetKey(asset), key) for asset in assets for key in keys}
        with partition_loading_context(dynamic_partitions_store=instance):
            requests = build_run_requests_with_backfill_policies(wanted, graph, instance)
    assert [(r.tags[RANGE_START], r.tags[RANGE_END]) for r in requests] == [
        ("S00", "S15"), ("S16", "S31"), ("S32", "S39")]  # fmt: skip
    assert {len(r.asset_selection) for r in requests} == {3}
