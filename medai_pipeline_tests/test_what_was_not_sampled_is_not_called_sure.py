"""A model without dropout answers the same each time: its deviation is not measured, and nothing says that it is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from jinja2 import ChoiceLoader, DictLoader, PackageLoader

from medai_pipeline.models.cards import from_card
from medai_pipeline.models.catalog import catalog, entry
from medai_pipeline.models.ensemble import combine
from medai_pipeline.models.infer import predict_study
from medai_pipeline.models.load import LoadedModel, load_anew
from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.quality.predictions import check_predictions
from medai_pipeline.records import Placement, StudyPrediction, StudyTensors, TensorItem
from medai_pipeline.results.dicom import objects
from medai_pipeline.results.fhir import bundle
from medai_pipeline.results.report import report_json, report_schema
from medai_pipeline.stages.registration import phantom_images
from medai_pipeline.storage.codec import decode, encode
from medai_pipeline.triage.decide import triage
from medai_pipeline.web.templating import environment
from medai_pipeline_tests.model_versions import CARD, small_network, write_weights
from medai_pipeline_tests.result_samples import Sample


class Unsampled(Sample):
    def _predicted(self, *given) -> StudyPrediction:
        return replace(super()._predicted(*given), uncertainty=None)


@pytest.fixture(scope="module")
def unsampled() -> Sample:
    return Unsampled(list(make_study("chest-xray", 5, rows=96, columns=80).datasets))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"), small_network())


def said(weights: Path, dropout: float) -> StudyPrediction:
    card = from_card({**CARD, "dropout": dropout})
    pixels = phantom_images(card)
    items = tuple(TensorItem(f"2.25.{i + 1}", 1, Placement(64, 64, 1, 1, 0, 0)) for i in range(len(pixels)))
    study = StudyTensors("A", 1, "DX", "CHEST", card.name, card.contract, pixels, items)
    return predict_study(load_anew(card, weights), study)


def test_only_a_model_with_dropout_has_a_deviation(weights: Path) -> None:
    without, sampled = said(weights, 0.0), said(weights, 0.4)
    assert without.uncertainty is None and without.information is None and without.entropy is not None
    assert sampled.uncertainty is not None and sampled.uncertainty.max() > 0
    again = decode(encode(without))
    assert again.uncertainty is None
    assert all(check.passed for check in check_predictions([without])["A"])
    both = replace(entry("demo-chest-xray"), thresholds=(0.5, 0.5), members={"a@1": 1.0, "b@1": 1.0})
    apart = combine(both, [without, replace(without, probabilities=1 - without.probabilities)])
    assert apart.uncertainty is not None  # members that disagree measure it
    np.testing.assert_allclose(apart.uncertainty, apart.disagreement, atol=1e-6)


def test_the_demo_models_are_sampled() -> None:
    def model(dropout: float, inside: bool) -> LoadedModel:
        known = replace(entry("demo-chest-xray"), dropout=dropout)
        return LoadedModel(known, small_network, "cpu", "", np.zeros((5, 4)), np.zeros(5), drops_inside=inside)

    assert all(known.dropout > 0 for known in catalog() if known.demo)
    assert [model(*case).samples for case in ((0.2, False), (0.0, True), (0.0, False))] == [True, True, False]


def test_the_report_says_not_measured(unsampled: Sample) -> None:
    content = json.loads(report_json(unsampled.report))
    jsonschema.validate(content, report_schema())
    assert {row["uncertainty"] for row in content["findings"]} == {None}
    html = unsampled.report.html
    assert html.count("± not measured") == len(content["findings"]) and "plus or minus" not in html
    assert 'class="spread"' not in html and "± &lt;1%" not in html
    assert "No out-of-distribution score" in html and content["novelty"] is None


def test_the_page_says_not_measured_and_reads_reports_of_before(unsampled: Sample) -> None:
    others = DictLoader({"study_decision.html": "", "study_more.html": ""})
    pages = environment().overlay(loader=ChoiceLoader([others, PackageLoader("medai_pipeline.web")]))

    def shown(content: dict) -> str:
        view = SimpleNamespace(newer_on_its_way=False, undelivered=[], override=None)
        return pages.get_template("study_panel.html").render(
            report=content, view=view, script={"heatmaps": []}, may=SimpleNamespace(annotate=False, retry=False),
            failed_checks=[], excluded=[],
        )  # fmt: skip

    now = shown(dict(unsampled.report.content))
    assert now.count("± not measured") == 3 and "&lt;1%" not in now and 'class="spread"' not in now
    assert "No out-of-distribution score" in now
    before = dict(unsampled.report.content)
    del before["novelty"]
    before["findings"] = [{**row, "uncertainty": 0.03} for row in before["findings"]]
    then = shown(before)
    assert then.count("± 3%") == 3 and "not measured" not in then and "out-of-distribution" not in then


def test_neither_the_structured_report_nor_fhir_hold_a_deviation(unsampled: Sample) -> None:
    told = next(made for made in objects(unsampled.evidence()) if made.kind == "report")
    assert b"111012" in told.data and b"386136009" not in told.data
    made = bundle(unsampled.evidence())
    assert "386136009" not in json.dumps(made) and "111012" in json.dumps(made)


def test_close_to_its_threshold_a_person_is_asked_all_the_same() -> None:
    labels, thresholds = ["Pneumothorax"], [0.5]
    assert triage(labels, [0.45], thresholds, [None]).review_required
    assert not triage(labels, [0.05], thresholds, [None]).review_required
    assert triage(labels, [0.95], thresholds, [0.2]).review_required
    assert not triage(labels, [0.95], thresholds, [None]).review_required
