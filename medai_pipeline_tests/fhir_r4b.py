"""What FHIR R4B asks of a bundle, beside what a reader of it checks: required elements, value sets, references. No test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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


def resources(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in made["entry"]]


def of_type(made: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [found for found in resources(made) if found["resourceType"] == name]


def every(value: Any) -> Iterator[Any]:
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from every(child)


def conforms(made: Mapping[str, Any]) -> None:
    """Fails unless a reader of R4B takes it, every required element is there, every code is of its value set, nothing is
    empty, and every reference leads to an entry."""
    from fhir.resources.R4B.bundle import Bundle

    for found in (made, *resources(made)):
        kind = found["resourceType"]
        for (resource, element), allowed in CODES.items():
            assert resource != kind or element not in found or found[element] in allowed, (kind, element)
    assert len(Bundle.model_validate(made).entry) == len(made["entry"])
    assert all(REQUIRED[found["resourceType"]] <= set(found) for found in (made, *resources(made)))
    assert all(name["type"] in DEVICE_NAMES for device in of_type(made, "Device") for name in device["deviceName"])
    assert not [value for value in every(made) if value in ("", [], {}) or value is None]
    names = [entry["fullUrl"] for entry in made["entry"]]
    assert len(set(names)) == len(names)
    assert {v["reference"] for v in every(made) if isinstance(v, dict) and "reference" in v} <= set(names)
    assert all(entry["fullUrl"] == f"urn:uuid:{entry['resource']['id']}" for entry in made["entry"])
