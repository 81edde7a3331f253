"""Rows as the API tells them: study keys, new UIDs and numbers. Nothing here names a person, but for `identity`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medai_pipeline import DISCLAIMER
from medai_pipeline.services import Services
from medai_pipeline.storage.opinions import NONE
from medai_pipeline.storage.requests import Request as Asked
from medai_pipeline.web.access import Principal

Json = dict[str, Any]
Row = Mapping[str, Any]
PREFIX = "/api/v1"

_IMAGE = (
    "study_key", "revision", "series_instance_uid", "study_instance_uid", "sop_class_uid", "transfer_syntax_uid",
    "modality", "body_part", "view_position", "laterality", "photometric", "rows", "columns", "frames", "bits_stored",
    "instance_number", "row_spacing_mm", "column_spacing_mm", "slice_thickness_mm", "usable", "reason", "size_bytes",
)  # fmt: skip
_STUDY = (
    "study_key", "revision", "state", "stage", "reason", "attempts", "instance_count", "modality", "body_part",
    "arrived_at", "updated_at", "reported_revision", "report_id", "reported_at", "priority", "review_required",
    "review", "reviewed_at", "run_id",
)  # fmt: skip


def study(row: Row) -> Json:
    """One study of a listing. `patient` stands for its patient, and is the same in all their studies ("" when unknown)."""
    findings = [f for f in row["findings"] or () if f.get("present")]
    return {
        **{name: row[name] for name in _STUDY},
        "patient": row["patient_token"],
        "priority_override": override_of(row),
        "report_priority": row["report_priority"],
        "reasons": row["reasons"] or [],
        "findings": [{name: f.get(name) for name in ("label", "code", "probability", "uncertainty")} for f in findings],
        "models": [f"{model['name']}@{model['version']}" for model in row["models"] or ()],
        "demo_model": bool(row["demo_model"]),
    }


def override_of(row: Row) -> Json | None:
    """A person's word on urgency, where there is one in force."""
    if not row["override_id"] or row["override_priority"] is None:
        return None
    return {
        "priority": row["override_priority"],
        "reason": row["override_reason"],
        "by": row["override_actor"],
        "at": row["override_at"],
    }


def image(row: Row) -> Json:
    uid = row["sop_instance_uid"]
    return {
        "id": uid,
        **{name: row[name] for name in _IMAGE},
        "links": {"download": f"{PREFIX}/images/{uid}/download", "results": f"{PREFIX}/inference/image/{uid}/results"},
    }


def report(row: Row, reviews: int) -> Json:
    return {
        "id": str(row["id"]),
        "study_key": row["study_key"],
        "revision": row["revision"],
        "priority": row["priority"],
        "created_at": row["created_at"],
        "run_id": row["run_id"],
        "reviews": reviews,
    }


def result(row: Row, report_row: Row | None) -> Json:
    """What a model version said of a study, and what the report made of it."""
    content = report_row["content"] if report_row else {}
    maps = content.get("quality", {}).get("heatmaps", [])
    said = row["result"]
    return {
        "id": str(row["id"]),
        "kind": "pipeline",
        "state": "done",
        "scope": "study",
        "study_key": row["study_key"],
        "revision": row["revision"],
        "model": {"name": row["model_name"], "version": row["model_version"], "weights_sha256": row["weights_sha256"]},
        "role": row["role"],
        "findings": said["findings"],
        "novelty": said.get("novelty"),
        "demo_model": bool(said.get("demo")),
        "heatmaps": [heatmap(m, str(report_row["id"])) for m in maps] if report_row else [],
        "report_id": str(report_row["id"]) if report_row else None,
        "run_id": row["run_id"],
        "created_at": row["created_at"],
        "disclaimer": DISCLAIMER,
    }


def heatmap(told: Row, result_id: str) -> Json:
    """One heatmap as a report tells it, with where its picture is; None where none was drawn."""
    name = told.get("overlay")
    picture = f"{PREFIX}/inference/{result_id}/heatmaps/{str(name).rpartition('/')[2]}" if name else None
    return {**told, "picture": picture}


def asked(request: Asked) -> Json:
    """A request on its way to an answer, or with it."""
    return {
        "id": str(request.id),
        "kind": request.kind,
        "state": request.state,
        "image_id": request.sop_instance_uid,
        "study_key": request.study_key,
        "revision": request.revision,
        "asked": request.asked,
        "requested_by": request.requested_by,
        "reason": request.reason,
        "result": request.result,
        "report_id": str(request.report_id) if request.report_id else None,
        "run_id": request.run_id,
        "created_at": request.created_at,
        "finished_at": request.finished_at,
        "links": {"self": f"{PREFIX}/inference/{request.id}"},
        "disclaimer": DISCLAIMER,
    }


def identity(services: Services, principal: Principal, study_key: str, purpose: str) -> Json:
    """Who the study is about: the vault writes the audit record before it tells."""
    who = services.vault.read(study_key, principal.actor, purpose)
    names = (
        "patient_id", "patient_name", "birth_date", "sex", "accession_number", "study_id", "study_date", "study_time",
        "referring_physician", "study_instance_uid",
    )  # fmt: skip
    return {name: getattr(who, name) for name in names}


def version_of(last: Any) -> str:
    """The ETag of what people say one after the other: the last word's id."""
    return str(last.id) if last else NONE
