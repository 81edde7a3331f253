"""The study page, and what it asks for beside images: who it is, the report as it was published, the same study in OHIF."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse, Response

from medai_pipeline.errors import Conflict, NotFound
from medai_pipeline.records import Priority
from medai_pipeline.services import Services
from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.pages.frames import StudyKey
from medai_pipeline.web.pages.study_view import StudyView, for_viewer, study_view, told
from medai_pipeline.web.pages.worklist_rows import spoken
from medai_pipeline.web.templating import page

router = APIRouter(include_in_schema=False)
Reader = Annotated[Principal, Depends(needs(Permission.STUDIES_READ))]
ReportId = Annotated[str, Path(pattern=r"^[0-9a-f-]{36}$")]

# A report is a page of its own with styles inside, and nothing else: no script, no network.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; sandbox"
)


@router.get("/studies/{study_key}")
def study(request: Request, study_key: StudyKey, principal: Reader) -> Response:
    services: Services = request.app.state.services
    view = study_view(services, study_key)
    return page(request, "study.html", **_context(services, view, principal))


@router.get("/studies/{study_key}/viewer")
def viewer(
    request: Request, study_key: StudyKey, principal: Annotated[Principal, Depends(needs(Permission.IMAGES_READ))]
) -> dict[str, Any]:
    """What a viewer of the study's images needs: to show it beside another one."""
    services: Services = request.app.state.services
    return for_viewer(study_view(services, study_key), principal.may(Permission.ANNOTATE))


@router.get("/studies/{study_key}/news")
def news(request: Request, study_key: StudyKey, _: Reader) -> dict[str, Any]:
    """What a page that is open compares with what it shows."""
    services: Services = request.app.state.services
    state = services.lifecycle.study(study_key)
    if state is None:
        raise NotFound("no study with this key is known here (any more)")
    return told(state, services.history.counting(study_key))


@router.post("/studies/{study_key}/identity")
def identity(
    request: Request, study_key: StudyKey, principal: Annotated[Principal, Depends(needs(Permission.IDENTITIES_READ))]
) -> dict[str, Any]:
    """Who it is: a deed, not a view, so a POST; the vault writes the record before it answers."""
    services: Services = request.app.state.services
    found = services.vault.read(study_key, principal.actor, "who is this? on the study page")
    shown = (
        ("Name", found.patient_name.replace("^", " ").strip()),
        ("Patient ID", found.patient_id),
        ("Born", found.birth_date),
        ("Sex", found.sex),
        ("Accession", found.accession_number),
        ("Study date", found.study_date),
    )
    return {"identity": [{"what": what, "value": value} for what, value in shown if value]}


@router.post("/studies/{study_key}/ohif")
def ohif(
    request: Request, study_key: StudyKey, principal: Annotated[Principal, Depends(needs(Permission.ORIGINALS_READ))]
) -> dict[str, str]:
    """Where OHIF shows the original images: the address names the original study, so asking for it is recorded."""
    services: Services = request.app.state.services
    if not services.settings.ohif_url:
        raise Conflict("no OHIF is configured: set MEDAI_OHIF_URL to its address")
    found = services.vault.read(study_key, principal.actor, "open in OHIF")
    return {
        "address": f"{services.settings.ohif_url.rstrip('/')}/viewer?StudyInstanceUIDs={quote(found.study_instance_uid)}"
    }


@router.get("/studies/{study_key}/reports/{report_id}")
def report(request: Request, study_key: StudyKey, report_id: ReportId, _: Reader) -> Response:
    """The report as it was published."""
    services: Services = request.app.state.services
    found = next((one for one in services.history.reports(study_key) if str(one.id) == report_id), None)
    if found is None:
        raise NotFound("this study has no such report: load the study page again")
    html = services.objects.get(f"{found.object_prefix}/report.html")
    return HTMLResponse(html, headers={"Content-Security-Policy": REPORT_POLICY})


@router.get("/studies/{study_key}/lineage")
def lineage(request: Request, study_key: StudyKey, _: Reader) -> Response:
    """What made the results of the study: bytes, profile, weights, rules, reviews, deliveries."""
    services: Services = request.app.state.services
    rows = services.lineage.of(study_key)
    if not rows:
        raise NotFound("nothing of this study is reported yet: its lineage begins with its first report")
    chains = [_chain(list(group)) for _, group in groupby(rows, key=lambda row: row["report_id"])]
    return page(request, "lineage.html", study_key=study_key, chains=chains, dagster=_dagster(services))


def _chain(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One report's rows of the view `medai.lineage`: what holds for all, its images and its answers, each once."""
    return {
        **rows[0],
        "images": list({row["sop_instance_uid"]: row for row in rows}.values()),
        "answers": list({row["inference_id"]: row for row in rows if row["inference_id"] is not None}.values()),
    }


def _dagster(services: Services) -> str:
    settings = services.settings
    return (settings.dagster_url or f"http://127.0.0.1:{settings.web_port}").rstrip("/")


def _context(services: Services, view: StudyView, principal: Principal) -> dict[str, Any]:
    settings, content = services.settings, view.content
    now = services.now()
    return {
        "view": view,
        "report": content,
        "script": for_viewer(view, principal.may(Permission.ANNOTATE)),
        "waited": spoken(now - view.state.first_seen_at),
        "ago": lambda at: spoken(now - at),
        "failed_checks": [c for c in content["quality"]["checks"] if not c["passed"]] if content else [],
        "priorities": [priority.value for priority in Priority],
        "dagster": _dagster(services),
        "excluded": _grouped(content["images"]["excluded"]) if content else [],
        "has_ohif": bool(settings.ohif_url),
        "may": {permission.name.lower(): principal.may(permission) for permission in Permission},
    }


def _grouped(excluded: list[dict[str, str]]) -> list[tuple[int, str]]:
    """(count, reason), the most frequent first."""
    return [(count, reason) for reason, count in Counter(one["reason"] for one in excluded).most_common()]
