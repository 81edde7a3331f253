"""report.json keeps its schema, says the same for the same study, and leaves nothing out that a reader needs."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from medai_pipeline.explain.overlay import overlay
from medai_pipeline.explain.study import caption, explain
from medai_pipeline.records import Problem, QualityResult, Report, StudyHeatmaps
from medai_pipeline.results.report import build_report, finding_rows, overlay_name, report_json, report_schema
from medai_pipeline.triage.decide import triage
from medai_pipeline.triage.findings import codes_of
from medai_pipeline_tests.report_samples import LABELS, SIZE, SOURCE, instance, prediction, tensors, uid

CHECKS = (QualityResult("spacing", True, False), QualityResult("burned in", False, False, "1 image declares text"))


def make(answer=None, **options) -> Report:
    """The whole way from a prediction to its report."""
    answer, study = answer or prediction(), options.pop("study", tensors())
    maps = options.pop("heatmaps", None) or explain(answer, study)
    decided = triage(
        answer.labels, answer.probabilities, answer.thresholds, answer.uncertainty, heatmaps=maps, quality=CHECKS
    )
    pictures = {
        overlay_name(number, found): overlay(
            np.full(SOURCE, 90, dtype=np.uint8),
            found.values,
            found.item.placement,
            (SIZE, SIZE),
            title=caption(answer, found),
            regions=found.regions,
            withheld=found.withheld,
        )
        for number, found in enumerate(maps.heatmaps)
    }
    values = {
        "instances": [instance(0), instance(1)],
        "quality": CHECKS,
        "overlays": pictures,
        "codes": codes_of(answer.labels),
        "run_id": "run-1",
        "profile": "basic profile",
        "code_version": "0.1.0",
        **options,
    }
    return build_report(study, answer, maps, decided, **values)


def no_model() -> Report:
    study = tensors(0, modality="US", model="", contract=None, no_model_reason="no model for ultrasound.")
    maps = StudyHeatmaps(study.study_key, 1, ())
    decided = triage([], [], [], [], no_model_reason=study.no_model_reason, heatmaps=maps)
    return build_report(
        study,
        None,
        maps,
        decided,
        instances=[instance(0, modality="US")],
        quality=(),
        overlays={},
        codes={},
        run_id="run-1",
        profile="basic profile",
        code_version="0.1.0",
    )


def problems_with(report: Report) -> list[str]:
    validator = jsonschema.Draft202012Validator(report_schema())
    return [error.message for error in validator.iter_errors(json.loads(report_json(report)))]


def test_the_schema_is_a_valid_one():
    jsonschema.Draft202012Validator.check_schema(report_schema())


def test_reports_keep_the_schema():
    assert problems_with(make()) == []
    assert problems_with(make(generated_at="2025-11-22T10:00:00+00:00")) == []
    assert problems_with(no_model()) == []


@pytest.mark.parametrize("key", ["study_key", "findings", "lineage", "disclaimer", "rules_version"])
def test_the_schema_notices_what_is_missing(key):
    content = dict(make().content)
    del content[key]
    assert list(jsonschema.Draft202012Validator(report_schema()).iter_errors(content))


def test_the_same_study_gives_the_same_bytes():
    one, other = make(), make()
    assert report_json(one) == report_json(other)
    assert one.html == other.html
    assert "generated_at" not in one.content


def test_present_findings_come_first_with_code_regions_and_images():
    first, *rest = make().content["findings"]
    assert (first["label"], first["code"], first["present"]) == ("Pneumothorax", "SCT:36118008", True)
    assert first["images"] == [uid(0), uid(1)]
    assert first["regions"][0]["image"] == uid(0)
    assert first["regions"][0]["area_mm2"] > 0
    assert [row["present"] for row in rest] == [True, False, False, False]
    assert first["probability"] == 0.93


def test_regions_come_from_reliable_maps_alone():
    bad = prediction(head=-np.eye(len(LABELS), dtype=np.float32))
    content = make(bad).content
    assert all(not row["regions"] for row in content["findings"])
    assert [found["reliable"] for found in content["quality"]["heatmaps"]] == [False, False]


def test_a_label_that_is_no_finding_has_no_row():
    answer = prediction((0.9, 0.1, 0.1, 0.1, 0.1), labels=("Normal", *LABELS[1:]))
    assert "Normal" not in [
        row.label for row in finding_rows(answer, explain(answer, tensors()), codes_of(answer.labels))
    ]


def test_every_image_is_accounted_for():
    left_out = instance(2, usable=False, reason="a localizer")
    broken = Problem("undecodable", "cannot be decoded", uid(1))
    lost = Problem("truncated", "the file ends early", "0123abcd")
    content = make(
        study=replace(tensors(), problems=(broken,)), instances=[instance(0), instance(1), left_out], problems=[lost]
    ).content
    assert (content["images"]["received"], content["images"]["usable"]) == (4, 1)
    assert [entry["code"] for entry in content["images"]["excluded"]] == ["truncated", "undecodable", "unsupported"]


def test_an_image_named_twice_is_excluded_once():
    told = Problem("unsupported", "a localizer", uid(2))
    content = make(
        instances=[instance(0), instance(1), instance(2, usable=False, reason="a localizer")], problems=[told]
    ).content
    assert len(content["images"]["excluded"]) == 1
    assert content["images"]["received"] == 3


def test_lineage_names_every_source_once_and_sorted():
    content = make(instances=[instance(9), instance(3), instance(3)]).content
    assert content["lineage"]["source_sha256"] == [f"{3:064x}", f"{9:064x}"]


def test_a_demo_model_is_called_one_and_another_is_not():
    assert "no clinical value" in make().content["disclaimer"]
    assert "no clinical value" not in make(prediction(demo=False)).content["disclaimer"]
    assert "Research use only" in make(prediction(demo=False)).content["disclaimer"]


def test_a_study_without_a_model_says_so():
    content = no_model().content
    assert (content["priority"], content["review_required"], content["models"]) == ("routine", True, [])


def test_overlay_names_are_plain_and_apart():
    maps = explain(prediction(labels=("Pleural_Thickening", *LABELS[1:])), tensors()).heatmaps
    assert [overlay_name(number, found) for number, found in enumerate(maps)] == [
        "1-pleural-thickening.png",
        "2-effusion.png",
    ]
