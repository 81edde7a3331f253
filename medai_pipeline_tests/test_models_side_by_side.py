"""What two versions say of the same studies: compared after a promotion, and while one stands in the shadow of the other."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
from PIL import Image
from sqlalchemy import text

from medai_pipeline.local import comparing
from medai_pipeline.models.catalog import entry
from medai_pipeline.orchestration.model_assets import COMPARISON_JOB, SHADOW_JOB, described
from medai_pipeline.orchestration.model_sensors import Asked, reached, request_comparisons, request_shadows
from medai_pipeline.orchestration.partitions import DEFER_EVENTS, RANGE_START
from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.registering import compared, pairs_of
from medai_pipeline.results.comparison_plots import _drawn
from medai_pipeline.stages.comparison import compare
from medai_pipeline_tests.pipeline import Pipeline
from medai_pipeline_tests.versions_in_use import FILM, FILM2, Models, film


def test_two_versions_are_compared_study_by_study(pipeline: Pipeline, models: Models) -> None:
    keys = pipeline.send(film(571, ("Pneumothorax",)), film(572))
    pipeline.work()
    models.promote(models.register("2"))
    (request,) = models.sensor()
    models.backfill(request)
    models.sensor()
    (wanted,) = models.sensor("model_followers")
    assert wanted.partition_key == f"{FILM}..{FILM2}"
    job = pipeline.definitions.resolve_job_def(COMPARISON_JOB)
    result = job.execute_in_process(instance=pipeline.instance, partition_key=wanted.partition_key)
    (event,) = result.asset_materializations_for_node("model_comparison")
    metadata = {name: value.value for name, value in event.metadata.items()}
    assert metadata["studies"] == 2
    assert metadata["findings that flipped"] > 0  # every logit rose by 3
    rows = [record.data for record in metadata["by finding"].records]
    assert [row["finding"] for row in rows] == sorted(entry(FILM).classes)
    assert all(row["mean shift"] >= 0 for row in rows)
    assert max(row["greatest shift"] for row in rows) > 0.1
    assert metadata["probabilities"].startswith("![plot](data:image/png;base64,")
    found = comparing.comparison(models.services, FILM2)  # against what it took the place of
    assert (found.old, found.new) == (FILM, FILM2)
    again = compared(models.services.changes, FILM, FILM2, None)
    assert found.shifts.equals(again.shifts) and found.moves.equals(again.moves)
    said = "\n".join(str(cell) for table in comparing.as_tables(found) for c in table.columns for cell in c.cells)
    assert {*entry(FILM).classes, *found.flips["study_key"]} <= set(said.splitlines())
    assert comparing.in_words(found).startswith(f"2 studies read by both: {found.flips.height} findings flipped")
    pictures = comparing.write_plots(found, models.folder / "plots")
    assert [Image.open(path).size > (300, 250) for path in pictures] == [True, True]
    assert set(found.moves["study_key"]) == set(keys)
    assert (found.shifts["new"] > found.shifts["old"]).all()


def test_a_shadow_is_asked_beside_and_the_worklist_does_not_know_it(pipeline: Pipeline, models: Models) -> None:
    (old,) = pipeline.send(film(581))
    pipeline.work()
    label = models.register("2")
    models.services.registry.shadow(*label.split("@"), "ann", pipeline.now())
    (new,) = pipeline.send(film(582))
    pipeline.work()
    before = json.dumps([str(row) for row in models.services.worklist.worklist()])
    (request,) = [r for r in models.sensor("model_followers") if r.job_name == SHADOW_JOB]
    assert (request.tags[DEFER_EVENTS], request.tags[RANGE_START]) == ("true", new)
    job = pipeline.definitions.resolve_job_def(SHADOW_JOB)
    assert job.execute_in_process(instance=pipeline.instance, tags=dict(request.tags)).success
    assert models.results(new) == [("1", "primary"), ("2", "shadow")]
    assert models.results(old) == [("1", "primary")]  # only new studies
    assert json.dumps([str(row) for row in models.services.worklist.worklist()]) == before
    assert list(models.services.objects.names(f"kept/predictions/{new}/"))  # for its promotion
    assert pairs_of(models.services.registry.versions()) == [(FILM, FILM2)]
    (comparison,) = models.sensor("model_followers")
    assert (comparison.job_name, comparison.partition_key) == (COMPARISON_JOB, f"{FILM}..{FILM2}")
    models.promote(label)
    (request,) = models.sensor()
    assert all(result.success for result in models.backfill(request))
    assert models.results(new) == [
        ("1", "primary"),
        ("2", "shadow"),
        ("2", "primary"),
    ]  # its report names an answer of its own
    row = next(row for row in models.services.worklist.worklist() if row.study_key == new)
    assert {line["role"] for line in models.services.lineage.of(str(row.report_id))} == {"primary"}


def test_a_shadow_that_cannot_answer_is_asked_a_few_times_and_not_for_ever(pipeline: Pipeline, models: Models) -> None:
    label = models.register("2")
    models.services.registry.shadow(*label.split("@"), "ann", pipeline.now())
    (key,) = pipeline.send(film(585))
    pipeline.work()
    for stored in (models.services.settings.models_path / "objects").iterdir():
        stored.unlink()
    job, instance = pipeline.definitions.resolve_job_def(SHADOW_JOB), pipeline.instance
    asked: dict[str, Asked] = {}
    for tries in range(1, models.services.settings.max_attempts + 1):
        (request,), asked, _ = request_shadows(models.services, instance, asked)
        assert asked == {f"{label} {key}": Asked(tries, asked[f"{label} {key}"].at)}
        if tries == 1:
            assert job.execute_in_process(instance=instance, tags=dict(request.tags)).success
            assert models.results(key) == [("1", "primary")]
    requests, asked, words = request_shadows(models.services, instance, asked)
    assert requests == [] and "1 answers of shadow versions are given up" in words
    (other,) = pipeline.send(film(586))
    pipeline.work()
    (request,), asked, _ = request_shadows(models.services, instance, asked)  # a new study is asked about all the same
    assert request.tags[RANGE_START] == other
    models.services.registry.retire(*label.split("@"), "ann")
    assert request_shadows(models.services, instance, asked) == ([], {}, "")


def test_a_comparison_whose_run_was_killed_is_made_again(pipeline: Pipeline, models: Models) -> None:
    pipeline.send(film(587))
    pipeline.work()
    models.promote(models.register("2"))
    models.backfill(models.sensor()[0])
    models.sensor()
    (first,) = request_comparisons(models.services, pipeline.instance)
    job = pipeline.definitions.resolve_job_def(COMPARISON_JOB)
    pipeline.instance.add_dynamic_partitions("model_pairs", [first.partition_key or ""])
    run = pipeline.instance.create_run_for_job(job, tags={"dagster/partition": first.partition_key or ""})
    assert [r.run_key for r in request_comparisons(models.services, pipeline.instance)] == [first.run_key]
    pipeline.instance.report_run_failed(run, "its worker was killed")
    (again,) = request_comparisons(models.services, pipeline.instance)
    assert (again.partition_key, again.run_key == first.run_key) == (first.partition_key, False)


def test_a_comparison_is_made_anew_in_growing_steps() -> None:
    assert [reached(n) for n in (1, 9, 10, 14, 99, 100, 149, 1234)] == [1, 9, 10, 10, 95, 100, 100, 1000]


def test_of_very_many_findings_those_that_flipped_are_drawn_first() -> None:
    old = np.linspace(0, 0.4, 50_000)
    shifts = pl.DataFrame({"label": "Mass", "old": old, "new": old, "old_present": False, "new_present": False})
    flipped = pl.DataFrame({"label": "Mass", "old": 0.4, "new": 0.6, "old_present": False, "new_present": True}).head(1)
    drawn, count = _drawn(pl.concat([shifts, *[flipped] * 9]).with_columns(flipped=pl.col("new_present")))
    assert count == 50_009 and drawn.height <= 6000
    assert drawn["flipped"].sum() == 9
    assert drawn["old"].max() > 0.39 and drawn["old"].min() < 0.01  # evenly spaced, not the first ones


def test_a_finding_that_the_new_version_does_not_know_is_told() -> None:
    def said(*labels: str) -> dict[str, list[dict[str, object]]]:
        rows = [{"label": label, "probability": 0.9, "threshold": 0.5, "uncertainty": 0.0} for label in labels]
        return {"findings": rows}

    studies = [((key, 1), said("Mass", "Pneumothorax"), said("Mass")) for key in "AB"]
    found = compare("m@1", "m@2", studies, ({}, {}))
    assert found.alone.rows() == [("Pneumothorax", "m@1", 2, 2)]
    assert "1 findings are known to one version only" in comparing.in_words(found)
    cells = [str(cell) for table in comparing.as_tables(found) for c in table.columns for cell in c.cells]
    assert "Pneumothorax" in cells and comparing.as_json(found)["known_to_one"][0]["present"] == 2
    assert described(found)["known to one version only"].records[0].data["finding"] == "Pneumothorax"


def test_a_shadow_is_asked_about_each_kind_that_its_promotion_would_read(pipeline: Pipeline, models: Models) -> None:
    services = models.services
    film2 = models.register("2")
    breasts = models.register("1", name="breasts", modality=("MG",), body_parts=("BREAST",))
    for label in (film2, breasts):
        services.registry.shadow(*label.split("@"), "ann", pipeline.now())
    study = make_study("chest-xray", 586)
    study.datasets[1].Modality, study.datasets[1].BodyPartExamined = "MG", "BREAST"
    (key,) = pipeline.send(study)
    pipeline.work()
    assert models.reported_by(key) == FILM
    (request,) = [r for r in models.sensor("model_followers") if r.job_name == SHADOW_JOB]
    job = pipeline.definitions.resolve_job_def(SHADOW_JOB)
    assert job.execute_in_process(instance=pipeline.instance, tags=dict(request.tags)).success
    # the film's shadow reads what the active one read, and "breasts" what it would read in its place: MG comes first
    with services.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT model_name, role, result FROM medai.inference_results ORDER BY id")
        ).all()
    assert {(row.model_name, row.role) for row in rows} == {
        ("demo-chest-xray", "primary"), ("demo-chest-xray", "shadow"), ("breasts", "shadow")}  # fmt: skip
    images = {(row.model_name, row.role): {i for f in row.result["findings"] for i in f["images"]} for row in rows}
    assert images["demo-chest-xray", "shadow"] == images["demo-chest-xray", "primary"]
    assert images["breasts", "shadow"].isdisjoint(images["demo-chest-xray", "primary"])
