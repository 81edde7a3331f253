"""Quality checks find what they are for, and a bad study fails alone among the studies of its run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from medai_pipeline.dicom.table import instance_table
from medai_pipeline.quality.engine import Check, blocking_failures, validate
from medai_pipeline.quality.instances import REQUIRED, check_instances
from medai_pipeline.quality.predictions import check_predictions
from medai_pipeline.quality.tensors import check_tensors
from medai_pipeline_tests.report_samples import LABELS, SIZE, instance, prediction, tensors


def table(*instances) -> pl.DataFrame:
    return instance_table(instances)


def failed(results) -> list[str]:
    return [result.name for result in results if not result.passed]


def instances_fail(*instances) -> list[str]:
    return failed(check_instances({"S": table(*instances)})["S"])


def test_a_good_study_passes_every_check():
    results = check_instances({"S": table(instance(0), instance(1))})["S"]
    assert len(results) >= 10
    assert failed(results) == []
    assert failed(check_tensors([tensors(study_key="S")])["S"]) == []
    assert failed(check_predictions([prediction(study_key="S")])["S"]) == []


def test_one_bad_study_fails_alone():
    studies = {f"S{number}": table(instance(0), instance(1)) for number in range(32)}
    studies["S7"] = table(instance(0), instance(1, patient_identity_removed=""))
    results = check_instances(studies)
    assert {key for key, found in results.items() if failed(found)} == {"S7"}
    assert [result.detail for result in blocking_failures(results["S7"])] == [
        "1 image(s) do not say that the patient's identity was removed"
    ]


FAULTY_IMAGES = [
    ({"study_instance_uid": "2.25.99"}, "all images belong to one study"),
    ({"sop_instance_uid": "1.2.840.113619.2.55"}, "the sop UID is a new one"),
    ({"series_instance_uid": ""}, "the series UID is a new one"),
    ({"patient_identity_removed": "NO"}, "identities are removed"),
    ({"private_elements": 1}, "no private element is left"),
    ({"identity_values": 2}, "no value of the source's identity is left"),
    ({"burned_in_annotation": "YES"}, "no burned-in annotation is declared"),
    ({"spacing_mm": (0.8, 70.0)}, "pixel spacing is plausible"),
    ({"spacing_mm": (0.0, 0.0)}, "pixel spacing is plausible"),
    ({"series_description": "DOE^JANE"}, "descriptions hold no name or date"),
    ({"series_description": "chest 1957-03-02"}, "descriptions hold no name or date"),
    ({"sop_instance_uid": instance(0).sop_instance_uid}, "every instance occurs once"),
]


@pytest.fixture(scope="module")
def faulty_images():
    """All of them checked in one pass, as the studies of a run are."""
    return check_instances(
        {str(number): table(instance(0), instance(1, **changes)) for number, (changes, _) in enumerate(FAULTY_IMAGES)}
    )


@pytest.mark.parametrize("number", range(len(FAULTY_IMAGES)))
def test_each_fault_of_an_image_is_named(faulty_images, number):
    assert failed(faulty_images[str(number)]) == [FAULTY_IMAGES[number][1]]


@pytest.mark.parametrize("changes", [{"burned_in_annotation": "YES"}, {"spacing_mm": (0.8, 70.0)}])
def test_faults_that_a_person_may_judge_do_not_stop_the_study(changes):
    results = check_instances({"S": table(instance(0), instance(1, **changes))})["S"]
    assert failed(results)
    assert blocking_failures(results) == ()


def test_unknown_spacing_is_not_implausible():
    assert instances_fail(instance(0, spacing_mm=None), instance(1)) == []


def test_a_missing_column_stops_its_study_and_not_the_neighbour():
    whole = table(instance(0))
    results = check_instances({**{column: whole.drop(column) for column in REQUIRED}, "good": whole})
    for column in REQUIRED:
        assert "required columns are there" in [result.name for result in blocking_failures(results[column])]
    assert failed(results["good"]) == []


def test_a_filled_identifying_column_stops_the_study_and_its_value_is_not_told():
    whole = table(instance(0))
    named = whole.with_columns(pl.lit("Wintergreen^Ada").alias("patient_name"))
    results = check_instances({"bad": named, "blank": whole.with_columns(pl.lit(" ").alias("patient_name"))})
    assert [result.name for result in blocking_failures(results["bad"])] == ["no identifying column is filled"]
    assert "Wintergreen" not in str(results)
    assert failed(results["blank"]) == []


def test_a_study_without_images_fails_and_its_neighbour_does_not():
    results = check_instances({"empty": table(instance(0)).clear(), "good": table(instance(0))})
    assert "the study has images" in failed(results["empty"])
    assert failed(results["good"]) == []


def test_no_study_gives_no_result():
    assert check_instances({}) == {}
    assert check_tensors([]) == {}
    assert check_predictions([]) == {}


def pixels(**places: float) -> np.ndarray:
    good = tensors().pixels.copy()
    for value in places.values():
        good[1, 0, 5, 5] = value
    return good


FAULTY_TENSORS = [
    ({"pixels": pixels(bad=np.nan)}, ["all values are finite"]),
    ({"pixels": pixels(bad=np.inf)}, ["all values are finite"]),
    ({"pixels": pixels(bad=1.5)}, ["values lie in the contract's range"]),
    ({"pixels": pixels(bad=-0.5)}, ["values lie in the contract's range"]),
    ({"pixels": tensors().pixels.astype(np.float64)}, ["the shape is the contract's"]),
    ({"pixels": tensors().pixels[..., :-1]}, ["the shape is the contract's"]),
    ({"pixels": np.zeros((2, 1, SIZE, SIZE), np.float32)}, ["some image has content", "no image is constant"]),
    ({"items": tensors().items[:1]}, ["every image is described"]),
]


@pytest.fixture(scope="module")
def faulty_tensors():
    bad = [tensors(study_key=str(number), **changes) for number, (changes, _) in enumerate(FAULTY_TENSORS)]
    return check_tensors([*bad, tensors(study_key="good")])


@pytest.mark.parametrize("number", range(len(FAULTY_TENSORS)))
def test_each_fault_of_a_tensor_is_named_and_stays_with_its_study(faulty_tensors, number):
    assert failed(faulty_tensors[str(number)]) == FAULTY_TENSORS[number][1]
    assert blocking_failures(faulty_tensors[str(number)])
    assert failed(faulty_tensors["good"]) == []


def test_one_constant_image_among_others_does_not_stop_the_study():
    some = tensors().pixels.copy()
    some[0] = 0
    results = check_tensors([tensors(study_key="S", pixels=some)])["S"]
    assert failed(results) == ["no image is constant"]
    assert blocking_failures(results) == ()


def test_a_tensor_without_images_stops_the_study():
    empty = tensors(study_key="S", pixels=np.zeros((0, 1, SIZE, SIZE), np.float32), items=())
    assert blocking_failures(check_tensors([empty])["S"])


def test_a_study_without_a_model_has_nothing_to_hold_to():
    none = tensors(study_key="none", contract=None, pixels=np.zeros((0, 1, 1, 1), np.float32), items=())
    assert check_tensors([none, tensors(study_key="some")])["none"] == ()


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


FAULTY_PREDICTIONS = [
    ({"probabilities": floats(0.1, 0.2, np.nan, 0.1, 0.1)}, "every class has an answer"),
    ({"probabilities": floats(0.1, 0.2)}, "every class has an answer"),
    ({"probabilities": floats(0.1, 0.2, 1.2, 0.1, 0.1)}, "probabilities are between 0 and 1"),
    ({"thresholds": floats(0.5, 0.5, 0.0, 0.5, 0.5)}, "thresholds lie between 0 and 1"),
    ({"thresholds": floats(0.5, 0.5, 0.5, 0.5, 1.0)}, "thresholds lie between 0 and 1"),
    ({"uncertainty": floats(0.1, 0.1, 0.7, 0.1, 0.1)}, "uncertainty is a deviation, where it was measured"),
    ({"labels": ("Nodule", *LABELS[1:])}, "classes are named once"),
    ({"image_probabilities": np.full((2, 5), np.nan, np.float32)}, "every image has its probabilities"),
    ({"image_probabilities": np.full((1, 5), 0.5, np.float32)}, "every image has its probabilities"),
    ({"multi_label": False}, "exclusive classes add up to 1"),
]


@pytest.fixture(scope="module")
def faulty_predictions():
    bad = [
        replace(prediction(study_key=str(number)), **changes) for number, (changes, _) in enumerate(FAULTY_PREDICTIONS)
    ]
    return check_predictions([*bad, prediction(study_key="good")])


@pytest.mark.parametrize("number", range(len(FAULTY_PREDICTIONS)))
def test_each_fault_of_a_prediction_is_named_and_stays_with_its_study(faulty_predictions, number):
    assert failed(faulty_predictions[str(number)]) == [FAULTY_PREDICTIONS[number][1]]
    assert failed(faulty_predictions["good"]) == []


def test_a_prediction_without_classes_stops_the_study():
    nothing = np.zeros(0, np.float32)
    empty = prediction(study_key="S", labels=(), probabilities=nothing, thresholds=nothing, uncertainty=nothing)
    assert blocking_failures(check_predictions([empty])["S"])


def test_a_check_that_cannot_be_carried_out_has_not_passed():
    checks = (Check("impossible", "ExpectColumnValuesToBeBetween", "absent", "bad", options={"min_value": 0}),)
    (result,) = validate("impossible", pl.DataFrame({"study_key": ["S"]}), checks)["S"]
    assert not result.passed
    assert result.blocking


def test_checks_print_nothing():
    script = (
        "from medai_pipeline_tests.report_samples import prediction\n"
        "from medai_pipeline.quality.predictions import check_predictions\n"
        "check_predictions([prediction()])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "Calculating" not in done.stderr


def test_importing_the_checks_does_not_import_great_expectations():
    script = (
        "import sys, medai_pipeline.quality.instances, medai_pipeline.quality.tensors, "
        "medai_pipeline.quality.predictions, medai_pipeline.explain.study, medai_pipeline.explain.reference, "
        "medai_pipeline.results.report, medai_pipeline.triage.decide\n"
        "print({'great_expectations', 'torch', 'highdicom', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
