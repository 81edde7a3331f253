"""The audit chain for another system: records by who, what, whom and when, as FHIR AuditEvent. The asking is recorded."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from medai_pipeline.results.audit_event import audit_event
from medai_pipeline.storage.audit_trail import AuditFilter
from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.api.common import PROBLEMS, Has

router = APIRouter(responses=PROBLEMS, tags=["audit"])

Text = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]
AuditReader = Annotated[Principal, Depends(needs(Permission.AUDIT_READ))]


@router.get("/audit")
def audit(
    services: Has,
    principal: AuditReader,
    since: datetime | None = None,
    until: datetime | None = None,
    actor: Text = "",
    action: Text = "",
    subject: Text = "",
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    form: Annotated[Literal["json", "fhir"], Query(alias="format")] = "json",
) -> Any:
    """Records after number `after`, the oldest first; `next` is what to ask for as `after` then, null at the end.

    `actor` and `action` may end in `*`. As `fhir`, a Bundle of AuditEvent (R4B).
    """
    asked = {"format": form, "after": after, "limit": limit}
    services.audit.append(principal.actor, "audit.read", "audit", asked)
    wanted = AuditFilter(_aware(since), _aware(until), actor, action, subject, after, limit)
    rows = list(services.audit_trail.records(wanted))
    if form == "fhir":
        entries = [{"fullUrl": f"urn:medai:audit:{row.seq}", "resource": audit_event(row)} for row in rows]
        return {"resourceType": "Bundle", "type": "collection", "entry": entries}
    items = [{**row._mapping, "at": row.at.isoformat()} for row in rows]
    return {"items": items, "next": rows[-1].seq if len(rows) == limit else None}


@router.get("/audit/verification")
def verification(services: Has, principal: AuditReader) -> Any:
    """Whether every record is as it was written; the first that is not."""
    check = services.audit.verify()
    services.audit.append(principal.actor, "audit.verify", "audit", {"ok": check.ok, "records": check.records})
    return {
        "ok": check.ok,
        "records": check.records,
        "first_bad": check.first_bad_seq,
        "reason": check.reason,
        "head": check.head,
    }


def _aware(at: datetime | None) -> datetime | None:
    from datetime import UTC

    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at
