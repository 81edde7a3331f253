"""The FHIR bundle holds what R4B asks for, its codes are of the value sets, and it names a person only when told to."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.results.fhir import SYSTEMS, bundle, bundle_json
from medai_pipeline_tests.fhir_r4b import conforms, every, of_type, resources
from medai_pipeline_tests.result_samples import Sample


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample(list(make_study("chest-ct", 9, slices=4, rows=96, columns=80).datasets))


@pytest.fixture(scope="module", params=["nobody", "named"])
def made(request: pytest.FixtureRequest, sample: Sample) -> dict[str, Any]:
    return bundle(sample.evidence(), sample.identity if request.param == "named" else None)


def test_it_is_a_bundle_of_r4b_with_codes_of_the_value_sets(made: dict[str, Any]) -> None:
    from pydantic import ValidationError

    conforms(made)
    with pytest.raises(ValidationError):
        conforms(made | {"entry": [{"resource": {"resourceType": "ImagingStudy", "status": "available"}}]})
    with pytest.raises(AssertionError):
        conforms(made | {"type": "bundle"})


def test_codings_name_known_systems(made: dict[str, Any]) -> None:
    known = {*SYSTEMS.values(), "urn:ietf:rfc:3986", "urn:dicom:uid"}
    for value in every(made):
        if isinstance(value, dict) and "system" in value:
            assert value["system"] in known or value["system"].startswith("http://terminology.hl7.org/CodeSystem/")


def test_there_is_one_preliminary_observation_a_finding(made: dict[str, Any], sample: Sample) -> None:
    found = of_type(made, "Observation")
    assert [one["code"]["text"] for one in found] == [row["label"] for row in sample.report.content["findings"]]
    assert {one["status"] for one in (*found, *of_type(made, "DiagnosticReport"))} == {"preliminary"}
    assert [one["valueCodeableConcept"]["coding"][0]["display"] for one in found] == ["Present", "Present", "Absent"]
    assert found[0]["component"][0]["valueQuantity"] == {
        "value": 93.0, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%",
    }  # fmt: skip
    assert [coding["code"] for coding in found[0]["code"]["coding"]] == ["36118008", "RID5352"]
    assert "coding" not in next(one for one in found if one["code"]["text"] == "Pleural_Thickening")["code"]


def test_the_report_says_how_urgent_and_for_research_only(made: dict[str, Any]) -> None:
    (report,) = of_type(made, "DiagnosticReport")
    assert report["conclusion"].startswith("Priority: ")
    assert "Research use only" in report["conclusion"]
    assert len(report["result"]) == len(of_type(made, "Observation"))


def test_counts_of_the_imaging_study_are_those_of_the_study(made: dict[str, Any], sample: Sample) -> None:
    (study,) = of_type(made, "ImagingStudy")
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (1, 4)
    originals = set(sample.identity.uids)
    assert {study["series"][0]["uid"], *(image["uid"] for image in study["series"][0]["instance"])} <= originals


def test_without_an_identity_nothing_of_the_person_is_in_it(sample: Sample) -> None:
    study = make_study("chest-ct", 9, slices=4, rows=96, columns=80)
    text = bundle_json(sample.evidence()).decode()
    who = sample.identity
    for value in (who.patient_id, who.birth_date, who.study_date, who.accession_number, who.referring_physician):
        assert value and value not in text
    assert [marker for marker in study.markers if marker in text and not marker.startswith("2.25.")] == []
    assert set(of_type(bundle(sample.evidence()), "Patient")[0]) == {"resourceType", "id"}


def test_with_an_identity_the_patient_is_named(sample: Sample) -> None:
    who = replace(sample.identity, patient_name="Doe^Jane^Q^Dr", birth_date="19500402", sex="F")
    (patient,) = of_type(bundle(sample.evidence(), who), "Patient")
    assert patient["name"] == [{"family": "Doe", "given": ["Jane", "Q"], "prefix": ["Dr"]}]
    assert (patient["birthDate"], patient["gender"]) == ("1950-04-02", "female")
    odd = replace(who, patient_name="", birth_date="about 1950", sex="", patient_id="")
    assert set(of_type(bundle(sample.evidence(), odd), "Patient")[0]) == {"resourceType", "id"}


def test_the_same_evidence_gives_the_same_bundle_and_another_revision_other_ids(sample: Sample) -> None:
    assert bundle_json(sample.evidence()) == bundle_json(sample.evidence())
    again = Sample(list(make_study("chest-ct", 9, slices=4, rows=96, columns=80).datasets), revision=2)
    first, second = ({e["fullUrl"] for e in bundle(s.evidence())["entry"]} for s in (sample, again))
    assert not first & second


def test_a_study_that_no_model_covers_has_a_bundle_without_findings(sample: Sample) -> None:
    evidence = sample.evidence()
    bare = replace(evidence, content={**evidence.content, "models": [], "findings": []})
    made = json.loads(bundle_json(bare))
    assert {found["resourceType"] for found in resources(made)} == {"DiagnosticReport", "ImagingStudy", "Patient"}
