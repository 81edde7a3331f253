"""Findings become a priority with reasons, and doubt becomes a review, never a silent normal."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai_pipeline.explain.study import explain
from medai_pipeline.records import Priority, Problem, QualityResult, StudyHeatmaps
from medai_pipeline.triage.decide import triage
from medai_pipeline.triage.findings import findings
from medai_pipeline.triage.rules import default_rules, read_rules
from medai_pipeline_tests.report_samples import LABELS, prediction, tensors

ALL = [row.label for row in findings()]


def decide(given_probabilities=None, *, threshold=0.5, uncertainty=0.02, **options):
    chosen = given_probabilities or {"Pneumothorax": 0.02, "Nodule": 0.1}
    count = len(chosen)
    return triage(list(chosen), list(chosen.values()), [threshold] * count, [uncertainty] * count, **options)


@pytest.mark.parametrize(
    ("label", "priority"),
    [
        ("Pneumothorax", "critical"),
        ("Haemorrhage", "critical"),
        ("Tumour", "urgent"),
        ("Consolidation", "urgent"),
        ("Infarct", "urgent"),
        ("Pneumonia", "urgent"),
        ("COVID-19", "urgent"),
        ("Nodule", "routine"),
        ("Cardiomegaly", "routine"),
    ],
)
def test_each_finding_has_its_urgency(label, priority):
    found = decide({label: 0.97})
    assert found.priority == priority
    assert "97%" in found.reasons[0]
    assert not found.review_required


def test_the_most_urgent_finding_decides_and_comes_first():
    found = decide({"Nodule": 0.95, "Pneumothorax": 0.8, "Consolidation": 0.9})
    assert found.priority is Priority.CRITICAL
    assert "pneumothorax" in found.reasons[0]
    assert "nodule" in found.reasons[-1]


def test_an_effusion_is_routine_until_it_is_very_likely():
    assert decide({"Effusion": 0.7}).priority is Priority.ROUTINE
    assert decide({"Effusion": 0.97}).priority is Priority.URGENT


def test_an_effusion_with_an_enlarged_heart_is_urgent():
    found = decide({"Effusion": 0.7, "Cardiomegaly": 0.7})
    assert found.priority is Priority.URGENT
    assert "decompensation" in found.reasons[0]


def test_other_spellings_fall_under_the_same_rule():
    assert decide({"Hemorrhage": 0.9}).priority is Priority.CRITICAL
    assert decide({"Pleural_Thickening": 0.9}).reasons[0].startswith("Possible pleural thickening")


def test_a_finding_without_a_rule_is_not_lost():
    found = decide({"Foreign_body": 0.9})
    assert found.priority is Priority.ROUTINE
    assert "Foreign body" in found.reasons[0]


def test_nothing_present_and_all_well_is_normal():
    found = decide()
    assert (found.priority, found.review_required) == (Priority.NORMAL, False)
    assert found.reasons == ("No finding reached its threshold.",)


def test_a_probability_close_to_its_threshold_needs_a_review():
    below, above = decide({"Nodule": 0.42}), decide({"Nodule": 0.58})
    assert (below.priority, below.review_required) == (Priority.ROUTINE, True)
    assert above.review_required
    assert "close to the threshold of 50%" in above.reasons[-1]
    assert not decide({"Nodule": 0.39}).review_required


def test_a_low_threshold_does_not_make_every_low_probability_close():
    assert not decide({"Nodule": 0.01}, threshold=0.05).review_required
    assert decide({"Nodule": 0.03}, threshold=0.05).review_required


def test_a_probability_within_its_own_deviation_of_the_threshold_needs_a_review():
    assert decide({"Haemorrhage": 0.73}, threshold=0.63 - 0.01, uncertainty=0.14).review_required
    assert not decide({"Haemorrhage": 0.80}, threshold=0.62, uncertainty=0.14).review_required


def test_what_no_model_read_is_named_once_with_its_count():
    unread = [Problem("other-modality", "MR beside CT", str(n)) for n in range(20)]
    found = decide(problems=unread)
    assert found.priority is Priority.ROUTINE and found.review_required
    assert sum("MR beside CT (20 images)" in reason for reason in found.reasons) == 1


def test_high_uncertainty_needs_a_review():
    found = decide({"Pneumothorax": 0.95}, uncertainty=0.2)
    assert found.review_required
    assert "0.20" in found.reasons[-1]


def test_a_failed_check_needs_a_review_and_says_which():
    found = decide(quality=[QualityResult("spacing", False, False, "2 image(s) have no plausible spacing")])
    assert (found.priority, found.review_required) == (Priority.ROUTINE, True)
    assert "2 image(s) have no plausible spacing" in found.reasons[-1]


def test_a_passed_check_needs_none():
    assert not decide(quality=[QualityResult("spacing", True, True)]).review_required


@pytest.mark.parametrize("code", ["truncated", "undecodable", "not-dicom", "unreadable"])
def test_images_that_could_not_be_read_need_a_review(code):
    found = decide(problems=[Problem(code, "why")] * 3)
    assert found.review_required
    assert "3 received image(s) could not be read" in found.reasons[-1]


def test_a_localizer_left_out_on_purpose_needs_none():
    assert not decide(problems=[Problem("unsupported", "a localizer")]).review_required


def test_a_study_without_a_model_is_routine_and_must_be_reviewed():
    found = triage([], [], [], [], no_model_reason="no model for ultrasound.")
    assert (found.priority, found.review_required) == (Priority.ROUTINE, True)
    assert found.reasons == ("No model covers this study: no model for ultrasound.",)


def test_no_answer_at_all_is_never_normal():
    assert triage([], [], [], []).review_required


def test_an_assumed_body_part_needs_a_review():
    assert decide(assumed_body_part=True).review_required


def test_a_present_finding_with_an_unreliable_map_needs_a_review():
    sample = prediction(head=-np.eye(len(LABELS), dtype=np.float32))
    maps = explain(sample, tensors())
    found = decide({"Pneumothorax": 0.95}, heatmaps=maps)
    assert found.review_required
    assert "heatmap is not reliable" in found.reasons[-1]
    assert not decide({"Pneumothorax": 0.02}, heatmaps=maps).review_required


def test_a_present_finding_without_any_map_needs_a_review():
    found = decide({"Pneumothorax": 0.95}, heatmaps=StudyHeatmaps("K", 1, ()))
    assert "no heatmap" in found.reasons[-1]


def test_a_model_that_decides_for_nothing_needs_a_review():
    found = decide({"Normal": 0.2, "COVID-19": 0.2, "Pneumonia": 0.2})
    assert found.review_required
    assert "Neither" in found.reasons[-1]


def test_normal_being_present_is_not_a_finding():
    found = decide({"Normal": 0.95, "COVID-19": 0.02, "Pneumonia": 0.03})
    assert found.priority is Priority.NORMAL


def test_a_probability_that_is_no_number_is_never_normal():
    assert decide({"Nodule": float("nan")}).review_required


def test_a_distance_that_float32_blurs_counts_as_the_limit():
    found = triage(["Nodule"], np.array([0.4], np.float32), np.array([0.5], np.float32), [0.0])
    assert found.review_required


@given(
    st.dictionaries(st.sampled_from(ALL), st.floats(0, 1), min_size=1),
    st.floats(0.05, 0.95),
    st.floats(0, 0.5),
)
def test_normal_means_nothing_present_and_no_review(probabilities, threshold, uncertainty):
    found = decide(probabilities, threshold=threshold, uncertainty=uncertainty)
    present = [label for label, value in probabilities.items() if value >= threshold and label != "Normal"]
    assert (found.priority is Priority.NORMAL) == (not present and not found.review_required)
    assert found.reasons
    assert found.rules_version == default_rules().version


@given(st.sampled_from([label for label in ALL if label != "Normal"]), st.floats(0.5, 1), st.floats(0.5, 1))
def test_a_higher_probability_never_lowers_the_urgency(label, one, other):
    low, high = sorted([one, other])
    assert decide({label: high}).priority.rank <= decide({label: low}).priority.rank


@given(st.dictionaries(st.sampled_from(ALL), st.floats(0.6, 1), min_size=1, max_size=6), st.sampled_from(ALL))
def test_one_more_finding_never_lowers_the_urgency(probabilities, more):
    before = decide(probabilities).priority.rank
    assert decide({**probabilities, more: 0.99}).priority.rank <= before


def test_a_row_may_ask_for_a_view_or_an_age_and_then_comes_before_the_general_one() -> None:
    def why(label: str, **known: object) -> str:
        return triage([label], [0.9], [0.5], [0.0], **known).reasons[0]

    assert "AP view" in why("Cardiomegaly", views=["AP"])
    assert "AP view" not in why("Cardiomegaly", views=["PA"]) and "AP view" not in why("Cardiomegaly")
    assert "35 years" in why("Nodule", age_years=34)
    assert "35 years" not in why("Nodule", age_years=35) and "35 years" not in why("Nodule")


def test_a_rows_condition_wins_also_against_a_more_urgent_row_without_one() -> None:
    table = (files("medai_pipeline.triage") / "rules.toml").read_text(encoding="utf-8")
    own = read_rules(
        table
        + '\n[[finding]]\nfinding = "Pneumothorax"\nmin_margin = 0.0\nmin_age = 18\nmax_age = 40\nviews = ["PA"]\n'
        'severity = "acute"\nreason = "Young."\n'
    )
    said = {
        (age, view): triage(["Pneumothorax"], [0.9], [0.5], [0.0], age_years=age, views=[view], rules=own).priority
        for age in (17, 18, 40, 41)
        for view in ("PA", "AP")
    }
    assert {known for known, priority in said.items() if priority == "urgent"} == {(18, "PA"), (40, "PA")}
    assert set(said.values()) == {"urgent", "critical"}
