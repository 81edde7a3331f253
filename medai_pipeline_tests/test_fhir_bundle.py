"""The FHIR bundle holds what R4B asks for, its codes are of the value sets, and it names a person only when told to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.results.fhir import SYSTEMS, bundle, bundle_json
from medai_pipeline_tests.result_samples import Sample

# hl7.org/fhir/R4B: required bindings, and the codes that an element may have
CODES = {
    ("Bundle", "type"): {
        "document", "message", "transaction", "transaction-response", "batch", "batch-response", "history", "searchset",
        "collection",
    },
    ("DiagnosticReport", "status"): {
        "registered", "partial", "preliminary", "final", "amended", "corrected", "appended", "cancelled",
        "entered-in-error", "unknown",
    },
    ("Observation", "status"): {
        "registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown",
    },
    ("ImagingStudy", "status"): {"registered", "available", "cancelled", "entered-in-error", "unknown"},
    ("Device", "status"): {"active", "inactive", "entered-in-error", "unknown"},
    ("Patient", "gender"): {"male", "female", "other", "unknown"},
}  # fmt: skip
DEVICE_NAMES = {
    "udi-label-name", "user-friendly-name", "patient-reported-name", "manufacturer-name", "model-name", "other",
}  # fmt: skip
REQUIRED = {
    "Bundle": {"type"},
    "DiagnosticReport": {"status", "code"},
    "Observation": {"status", "code"},
    "ImagingStudy": {"status", "subject"},
    "Device": set(),
    "Patient": set(),
}


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample(list(make_study("chest-ct", 9, slices=4, rows=96, columns=80).datasets))


@pytest.fixture(scope="module", params=["nobody", "named"])
def made(request: pytest.FixtureRequest, sample: Sample) -> dict[str, Any]:
    return bundle(sample.evidence(), sample.identity if request.param == "named" else None)


def resources(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in made["entry"]]


def of_type(made: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [found for found in resources(made) if found["resourceType"] == name]


def every(value: Any) -> Iterator[Any]:
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from every(child)


def test_every_required_element_is_there_and_every_code_of_its_value_set(made: dict[str, Any]) -> None:
    for found in (made, *resources(made)):
        kind = found["resourceType"]
        assert REQUIRED[kind] <= set(found)
        for (resource, element), allowed in CODES.items():
            if resource == kind and element in found:
                assert found[element] in allowed
    assert {name["type"] for name in of_type(made, "Device")[0]["deviceName"]} <= DEVICE_NAMES


def test_a_reader_of_r4b_takes_it(made: dict[str, Any]) -> None:
    from fhir.resources.R4B.bundle import Bundle
    from pydantic import ValidationError

    assert len(Bundle.model_validate(made).entry) == len(made["entry"])
    with pytest.raises(ValidationError):
        Bundle.model_validate(made | {"entry": [{"resource": {"resourceType": "ImagingStudy", "status": "available"}}]})


def test_no_element_is_empty(made: dict[str, Any]) -> None:
    assert not [value for value in every(made) if value in ("", [], {}) or value is None]


def test_every_reference_is_to_an_entry_of_the_bundle(made: dict[str, Any]) -> None:
    names = [entry["fullUrl"] for entry in made["entry"]]
    assert len(set(names)) == len(names)
    assert {v["reference"] for v in every(made) if isinstance(v, dict) and "reference" in v} <= set(names)
    assert all(entry["fullUrl"] == f"urn:uuid:{entry['resource']['id']}" for entry in made["entry"])


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
