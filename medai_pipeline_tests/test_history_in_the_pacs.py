"""A PACS that was there before us: what is older than the site wants is left alone, until something new comes to it."""

from __future__ import annotations

from dataclasses import replace

from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.records import StudyState
from medai_pipeline_tests.pipeline import Pipeline


def test_old_studies_are_left_alone_until_they_are_wanted(pipeline: Pipeline) -> None:
    (key,) = pipeline.send(make_study("chest-xray", 61, findings=()))
    only_new = pipeline.with_settings(history_days=0.0)
    assert only_new.requested() == []
    assert pipeline.state(key) is None
    pipeline.work()
    assert pipeline.state(key).state is StudyState.REPORTED


def test_a_late_image_of_a_known_study_counts_whatever_its_age(pipeline: Pipeline) -> None:
    study = make_study("chest-xray", 62, findings=())
    (key,) = pipeline.send(replace(study, datasets=study.datasets[:1]))
    pipeline.work()
    only_new = pipeline.with_settings(history_days=0.0)
    only_new.cursor = pipeline.cursor
    only_new.send(study)
    only_new.work()
    assert pipeline.state(key).revision == 2
