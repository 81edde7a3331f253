"""The report as a FHIR R4B bundle: ImagingStudy, Observations and a preliminary DiagnosticReport, for systems that read no DICOM.

Plain JSON data, with deterministic ids. Whom it is about is in it only when a caller gives the identity.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from medai_pipeline import __version__
from medai_pipeline.records import Identity, Instance
from medai_pipeline.results.evidence import Evidence

Json = dict[str, Any]

# HL7's names of coding systems (terminology.hl7.org); what is not here is written as text alone
SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "RADLEX": "http://radlex.org",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
}
_SEX = {"M": "male", "F": "female", "O": "other"}
_NAMESPACE = uuid.UUID("7d2b1d7f-5f0e-5c55-9d2c-3f6c8a2f7f11")


def bundle(evidence: Evidence, who: Identity | None = None) -> Json:
    """A Bundle of type collection. Without `who` the Patient is empty: the bundle then holds the study's UIDs alone."""
    return _Bundle(evidence, who).made()


def bundle_json(evidence: Evidence, who: Identity | None = None) -> bytes:
    """The bundle as a file: UTF-8, indented."""
    return (json.dumps(bundle(evidence, who), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


class _Bundle:
    """One bundle in the making; entries refer to each other by urn:uuid."""

    def __init__(self, evidence: Evidence, who: Identity | None) -> None:
        self._evidence = evidence
        self._content = evidence.content
        self._who = who
        self._issued = _instant(evidence.at)

    def made(self) -> Json:
        observations = [self._observation(row) for row in self._content["findings"]]
        resources = [self._report(), *observations, self._imaging_study(), self._patient()]
        if self._content["models"]:
            resources.append(self._device())
        return {
            "resourceType": "Bundle",
            "identifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{self._id('Bundle')}"},
            "type": "collection",
            "timestamp": self._issued,
            "entry": [{"fullUrl": f"urn:uuid:{made['id']}", "resource": made} for made in resources],
        }

    def _id(self, *parts: str) -> str:
        return str(uuid.uuid5(_NAMESPACE, self._evidence.uid("fhir", *parts)))

    def _to(self, *parts: str) -> Json:
        return {"reference": f"urn:uuid:{self._id(*parts)}"}

    def _patient(self) -> Json:
        made: Json = {"resourceType": "Patient", "id": self._id("Patient")}
        who = self._who
        if who is None:
            return made
        family, given, middle, prefix, suffix = [*_clean(who.patient_name).split("=")[0].split("^"), *[""] * 5][:5]
        name = {
            "family": family,
            "given": [part for part in (given, middle) if part],
            "prefix": [prefix] if prefix else [],
            "suffix": [suffix] if suffix else [],
        }
        return made | _without_empty(
            {
                "identifier": [{"value": _clean(who.patient_id)}] if who.patient_id else [],
                "name": [_without_empty(name)] if any(name.values()) else [],
                "gender": _SEX.get(who.sex, "unknown" if who.sex else ""),
                "birthDate": _date(who.birth_date),
            }
        )

    def _device(self) -> Json:
        model = self._evidence.model
        return {
            "resourceType": "Device",
            "id": self._id("Device"),
            "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:sha256:{model['weights_sha256']}"}],
            "status": "active",
            "manufacturer": "medai_pipeline",
            "deviceName": [{"name": model["name"], "type": "model-name"}],
            "version": [{"value": model["version"]}, {"type": {"text": "medai_pipeline"}, "value": __version__}],
            "note": [{"text": self._content["disclaimer"]}],
        }

    def _imaging_study(self) -> Json:
        origin = self._evidence.origin.identity
        numbers = [{"value": _clean(self._who.accession_number)}] if self._who and self._who.accession_number else []
        series: dict[str, list[Instance]] = {}
        for instance in self._evidence.instances:
            series.setdefault(instance.series_instance_uid, []).append(instance)
        return _without_empty(
            {
                "resourceType": "ImagingStudy",
                "id": self._id("ImagingStudy"),
                "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{origin.study_instance_uid}"}, *numbers],
                "status": "available",
                "subject": self._to("Patient"),
                "started": _date(self._who.study_date) if self._who else "",
                "modality": [
                    _modality(m) for m in sorted({i.modality for i in self._evidence.instances if i.modality})
                ],
                "numberOfSeries": len(series),
                "numberOfInstances": len(self._evidence.instances),
                "series": [self._series(uid, instances) for uid, instances in sorted(series.items())],
            }
        )

    def _series(self, uid: str, instances: list[Instance]) -> Json:
        """One series; of its images only those that a finding points at."""
        key = {image for row in self._evidence.present for image in row["images"]}
        return _without_empty(
            {
                "uid": self._evidence.original(uid),
                "modality": _modality(instances[0].modality or "OT"),
                "numberOfInstances": len(instances),
                "instance": [
                    {
                        "uid": self._evidence.original(instance.sop_instance_uid),
                        "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{instance.sop_class_uid}"},
                        "number": max(0, instance.instance_number),
                    }
                    for instance in instances
                    if instance.sop_instance_uid in key
                ],
            }
        )

    def _observation(self, row: Mapping[str, Any]) -> Json:
        return {
            "resourceType": "Observation",
            "id": self._id("Observation", row["label"]),
            "status": "preliminary",
            "category": [_concept("http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging")],
            "code": self._finding(row["label"]),
            "subject": self._to("Patient"),
            "issued": self._issued,
            "valueCodeableConcept": _concept(SYSTEMS["SCT"], "52101004", "Present")
            if row["present"]
            else _concept(SYSTEMS["SCT"], "272519000", "Absent"),
            "device": self._to("Device"),
            "derivedFrom": [self._to("ImagingStudy")],
            "component": [
                _percent(_concept(SYSTEMS["DCM"], "111012", "Certainty of Finding"), row["probability"]),
                *self._deviation(row["uncertainty"]),
                _percent({"text": "Threshold at which it counts as present"}, row["threshold"]),
            ],
        }

    def _deviation(self, share: float | None) -> list[Json]:
        """None where it was not measured."""
        code = _concept(SYSTEMS["SCT"], "386136009", "Standard Deviation")
        return [] if share is None else [_percent(code, share)]

    def _finding(self, label: str) -> Json:
        known = [concept for concept in self._evidence.concepts.get(label, ()) if concept.scheme in SYSTEMS]
        coding = [{"system": SYSTEMS[one.scheme], "code": one.value, "display": one.meaning} for one in known]
        return _without_empty({"coding": coding, "text": label})

    def _report(self) -> Json:
        content = self._content
        review = " A person must review this result." if content["review_required"] else ""
        words = f"Priority: {content['priority']}. {' '.join(content['reasons'])}{review} {content['disclaimer']}"
        return _without_empty(
            {
                "resourceType": "DiagnosticReport",
                "id": self._id("DiagnosticReport"),
                "status": "preliminary",
                "category": [_concept("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
                "code": _concept(SYSTEMS["LN"], "18748-4", "Diagnostic imaging study"),
                "subject": self._to("Patient"),
                "issued": self._issued,
                "result": [self._to("Observation", row["label"]) for row in content["findings"]],
                "imagingStudy": [self._to("ImagingStudy")],
                "conclusion": words,
            }
        )


def _concept(system: str, code: str, display: str) -> Json:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _modality(term: str) -> Json:
    return {"system": SYSTEMS["DCM"], "code": term}


def _percent(code: Json, share: float) -> Json:
    quantity = {"value": round(100 * share, 2), "unit": "%", "system": SYSTEMS["UCUM"], "code": "%"}
    return {"code": code, "valueQuantity": quantity}


def _without_empty(values: Json) -> Json:
    """FHIR forbids empty strings, arrays and objects; zero and false are values."""
    return {key: value for key, value in values.items() if value not in ("", [], {}, None)}


def _clean(text: str) -> str:
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _date(text: str) -> str:
    """A DICOM date as FHIR has it; "" for what is no date."""
    try:
        return datetime.strptime(text, "%Y%m%d").date().isoformat()
    except ValueError:
        return ""


def _instant(at: datetime) -> str:
    return (at if at.tzinfo else at.astimezone()).isoformat(timespec="seconds")
