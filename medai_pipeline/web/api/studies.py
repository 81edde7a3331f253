"""Studies: the listing, one study, its images, report, identity, urgency; and another attempt for one that failed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from medai_pipeline.errors import Conflict, NotFound
from medai_pipeline.records import Priority, StudyState
from medai_pipeline.services import Services
from medai_pipeline.storage.catalogue import StudyFilter
from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.api import shapes
from medai_pipeline.web.api.common import (
    PROBLEMS,
    Has,
    Idempotent,
    IfMatch,
    ImageReader,
    Page,
    Reader,
    listed,
    patient_named,
    seen_version,
    study_named,
    with_etag,
)

router = APIRouter(prefix="/studies", tags=["studies"], responses=PROBLEMS, route_class=Idempotent)

StudyUid = Annotated[
    str, Path(max_length=128, description="study key, or Study Instance UID of the de-identified images")
]


class Wanted(BaseModel):
    """What the listing is narrowed to."""

    model_config = ConfigDict(extra="forbid")
    state: StudyState | None = None
    modality: Annotated[str, Field(max_length=16, pattern=r"^[A-Za-z0-9_]*$")] = ""
    priority: Priority | None = None
    finding: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$", description="a label that is present")] = ""
    review_required: bool | None = None
    reviewed: bool | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    offset: Annotated[int, Field(ge=0, le=10_000_000)] = 0

    def filter(self) -> StudyFilter:
        priority = self.priority.value if self.priority else ""
        return StudyFilter(
            self.state,
            self.modality,
            priority,
            self.finding,
            self.review_required,
            self.reviewed,
            self.since,
            self.until,
        )


class PriorityChange(BaseModel):
    """`priority` null takes back what a person said: the report's own counts again."""

    model_config = ConfigDict(extra="forbid")
    priority: Priority | None
    reason: Annotated[str, Field(min_length=3, max_length=500, pattern=r"^[^\x00]*$")]


@router.get("")
def studies(services: Has, principal: Reader, wanted: Annotated[Wanted, Query()]) -> Any:
    """Studies as they are now, the most urgent first, then the longest waiting. A person's priority counts before the
    report's. Nobody is named: `GET /studies/{study_uid}/identity` tells who may know."""
    rows, total = services.catalogue.studies(wanted.filter(), wanted.limit, wanted.offset)
    return listed([shapes.study(row) for row in rows], total, wanted)  # type: ignore[arg-type]


@router.get("/patient/{patient_id}/studies")
def studies_of_patient(
    patient_id: Annotated[str, Path(max_length=128)], services: Has, principal: Reader, paging: Page
) -> Any:
    """A patient's studies. `patient_id`: what a study tells as `patient`, or the Patient ID for who may know it."""
    keys = patient_named(services, principal, patient_id)
    rows = [row for row in map(services.catalogue.study, keys) if row]
    rows.sort(key=lambda row: row["arrived_at"], reverse=True)
    page = rows[paging.offset : paging.offset + paging.limit]
    return listed([shapes.study(row) for row in page], len(rows), paging)


@router.get("/{study_uid}")
def one_study(study_uid: StudyUid, services: Has, principal: Reader) -> Any:
    """One study with its reports and what people said of it. The ETag is that of its priority."""
    key = study_named(services, principal, study_uid)
    row = _row(services, key)
    reports = services.catalogue.reports(key)
    overrides = services.opinions.overrides(key)
    body = {
        **shapes.study(row),
        "reports": [{**shapes.report(r, r["reviews"]), "counts": r["counts"]} for r in reports],
        "priority_history": overrides,
    }
    return with_etag(body, shapes.version_of(overrides[0] if overrides else None))


@router.get("/{study_uid}/images")
def images(study_uid: StudyUid, services: Has, principal: ImageReader, paging: Page) -> Any:
    """The de-identified images of the study's newest revision, by series and Instance Number."""
    rows = services.catalogue.images(study_named(services, principal, study_uid))
    page = rows[paging.offset : paging.offset + paging.limit]
    return listed([shapes.image(row) for row in page], len(rows), paging)


@router.get("/{study_uid}/report")
def report(study_uid: StudyUid, services: Has, principal: Reader) -> Any:
    """The report that counts (report.json, with its own schema). The ETag is that of its reviews."""
    key = study_named(services, principal, study_uid)
    row = services.catalogue.counting_report(key)
    if row is None:
        raise NotFound(f"the study is {_row(services, key)['state']}: it has no report yet")
    said = services.opinions.reviews(row["id"])
    body = {**shapes.report(row, len(said)), "content": row["content"], "reviewed": said}
    return with_etag(body, shapes.version_of(said[0] if said else None))


@router.get("/{study_uid}/identity")
def identity(
    study_uid: StudyUid, services: Has, principal: Annotated[Principal, Depends(needs(Permission.IDENTITIES_READ))]
) -> Any:
    """Who the study is about. Each asking is kept in the audit chain."""
    key = study_named(services, principal, study_uid)
    return {"study_key": key, **shapes.identity(services, principal, key, "asked for by the API")}


@router.put("/{study_uid}/priority")
def prioritize(
    study_uid: StudyUid,
    change: PriorityChange,
    services: Has,
    principal: Annotated[Principal, Depends(needs(Permission.PRIORITIZE))],
    if_match: IfMatch = None,
) -> Any:
    """A person's word on urgency, with a reason. It counts in the worklist and is shown as such; the report stays as it
    is. With If-Match it is refused (412) when somebody else has spoken meanwhile."""
    key = study_named(services, principal, study_uid)
    wanted = change.priority.value if change.priority else None
    seen = seen_version(if_match, required=False)
    made = services.opinions.prioritize(key, wanted, change.reason, principal.actor, seen, services.now())
    return with_etag({**shapes.study(_row(services, key)), "said": made}, made.id)


@router.post("/{study_uid}/retry", status_code=202)
def retry(study_uid: StudyUid, services: Has, principal: Annotated[Principal, Depends(needs(Permission.RETRY))]) -> Any:
    """Another attempt for a study that failed, at once."""
    key = study_named(services, principal, study_uid)
    if not services.lifecycle.retry(key, services.now()):
        raise Conflict(f"the study is {_row(services, key)['state']}, not failed: there is nothing to try again")
    services.audit.append(principal.actor, "study.retried", key)
    return shapes.study(_row(services, key))


def _row(services: Services, key: str) -> Any:
    row = services.catalogue.study(key)
    if row is None:
        raise NotFound("no study has this name (any more)")
    return row
