"""Audit records as FHIR R4B AuditEvent, with the event codes of DICOM PS3.15 A.5.3 (PS3.16 CID 400 and 401).

No identity is in a record, so none is here: a study is named by its study key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

DCM = "http://dicom.nema.org/resources/ontology/DCM"
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
STUDY_KEYS = "urn:medai:study-key"

CODES: Mapping[str, str] = {
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110103": "DICOM Instances Accessed",
    "110104": "DICOM Instances Transferred",
    "110105": "DICOM Study Deleted",
    "110106": "Export",
    "110107": "Import",
    "110110": "Patient Record",
    "110112": "Query",
    "110113": "Security Alert",
    "110114": "User Authentication",
    "110122": "Login",
    "110123": "Logout",
    "110129": "Security Configuration",
    "110131": "Software Configuration",
    "110132": "Use of Restricted Function",
    "110135": "Object Security Attributes Changed",
    "110136": "Security Roles Changed",
    "110137": "User Security Attributes Changed",
}


class Kind(NamedTuple):
    """What an action is: Event ID, Event Type Code ("" for none), and the FHIR action: C, R, U, D or E."""

    event: str
    subtype: str
    action: str


# by the longest beginning of the action; what is not here is an application's activity
KINDS: Mapping[str, Kind] = {
    "": Kind("110100", "", "E"),
    "identity.": Kind("110110", "", "R"),
    "identity.find": Kind("110112", "", "E"),
    "identity.search": Kind("110112", "", "E"),
    "pacs": Kind("110112", "", "E"),
    "pacs get": Kind("110106", "", "R"),
    "pacs move": Kind("110104", "", "E"),
    "pacs quarantine": Kind("110100", "", "U"),
    "pacs quarantine out": Kind("110106", "", "R"),
    "pacs quarantine forget": Kind("110105", "", "D"),
    "incoming.forget": Kind("110105", "", "D"),
    "instances.": Kind("110103", "", "R"),
    "image.": Kind("110103", "", "R"),
    "original.": Kind("110103", "", "R"),
    "image.downloaded": Kind("110106", "", "R"),
    "image.deleted": Kind("110105", "", "D"),
    "images.": Kind("110107", "", "C"),
    "study.": Kind("110100", "", "U"),
    "study.forget": Kind("110105", "", "D"),
    "study.delete": Kind("110105", "", "D"),
    "retention.": Kind("110105", "", "D"),
    "objects.": Kind("110105", "", "D"),
    "report.": Kind("110110", "", "R"),
    "report.export": Kind("110106", "", "R"),
    "report.reviewed": Kind("110110", "", "C"),
    "analysis.": Kind("110100", "", "E"),
    "uncertainty.": Kind("110100", "", "E"),
    "annotation.": Kind("110110", "", "U"),
    "delivery.": Kind("110104", "", "E"),
    "model.": Kind("110100", "110131", "U"),
    "keys.": Kind("110113", "110129", "U"),
    "audit.": Kind("110101", "", "R"),
    "login": Kind("110114", "110122", "E"),
    "logout": Kind("110114", "110123", "E"),
    "session.": Kind("110114", "110123", "E"),
    "user.": Kind("110113", "110137", "U"),
    "token.": Kind("110113", "110137", "U"),
    "access.": Kind("110113", "110132", "E"),
}


class Record(Protocol):
    """A row of `audit_log`."""

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]
    hash: str


def kind_of(action: str) -> Kind:
    return KINDS[max((start for start in KINDS if action.startswith(start)), key=len)]


def audit_event(record: Record) -> dict[str, Any]:
    """One record as an AuditEvent resource. `entity.detail` keeps what the record says, and its hash in the chain."""
    kind = kind_of(record.action)
    details = {**{name: _text(value) for name, value in record.detail.items()}, "chain-hash": record.hash}
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": f"medai-{record.seq}",
        "type": _coding(kind.event),
        "subtype": [
            *([_coding(kind.subtype)] if kind.subtype else []),
            {"system": "urn:medai:action", "code": record.action},
        ],
        "action": kind.action,
        "recorded": record.at.astimezone(UTC).isoformat(),
        "outcome": "8" if record.action.endswith((".failed", ".refused", ".denied")) else "0",
        "agent": [_agent(record.actor)],
        "source": {
            "observer": {"display": "medai_pipeline"},
            "type": [{"system": f"{_TERMINOLOGY}/security-source-type", "code": "4", "display": "Application Server"}],
        },
        "entity": [_entity(record.subject, details)],
    }
    if purpose := record.detail.get("purpose"):
        event["purposeOfEvent"] = [{"text": _text(purpose)}]
    return event


def bundle(records: Iterable[Record]) -> Iterator[str]:
    """A FHIR Bundle of type collection as pieces of JSON: as long as it may be, it is never whole in memory."""
    import json

    yield '{"resourceType": "Bundle", "type": "collection", "entry": ['
    comma = ""
    for record in records:
        yield f"{comma}{json.dumps({'fullUrl': f'urn:medai:audit:{record.seq}', 'resource': audit_event(record)})}"
        comma = ",\n"
    yield "]}\n"


def _agent(actor: str) -> dict[str, Any]:
    """`user:NAME` is a person; `pipeline:STAGE` and `system` are this application."""
    role = "110150" if not actor.startswith("user:") else ""
    agent: dict[str, Any] = {
        "who": {"identifier": {"system": "urn:medai:actor", "value": actor}},
        "requestor": not role,
    }
    if role:
        agent["type"] = {"coding": [{"system": DCM, "code": role, "display": "Application"}]}
    return agent


def _entity(subject: str, details: Mapping[str, str]) -> dict[str, Any]:
    kind, _, name = subject.rpartition(":")
    system = f"urn:medai:{kind}" if kind else STUDY_KEYS
    return {
        "what": {"identifier": {"system": system, "value": name or "none"}},
        "type": {"system": f"{_TERMINOLOGY}/audit-entity-type", "code": "2", "display": "System Object"},
        "detail": [{"type": name, "valueString": value or "none"} for name, value in details.items()],
    }


def _coding(code: str) -> dict[str, str]:
    return {"system": DCM, "code": code, "display": CODES[code]}


def _text(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
