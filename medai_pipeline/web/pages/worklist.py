"""The worklist page, its rows for a page that keeps itself up to date, and who is asked for by name or Patient ID."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, Field

from medai_pipeline.records import Priority
from medai_pipeline.services import Services
from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.pages.worklist_rows import NAMES, SHOWN, Snapshot, Snapshots, Wanted, spoken, tag
from medai_pipeline.web.templating import page

STEP = 60  # rows of the first look, and of each "show more"
MOST = 5000
PURPOSE = "worklist: whose studies are here?"
FRESH_S = 1.5  # how old a list may be that somebody sees

router = APIRouter(include_in_schema=False)
Reader = Annotated[Principal, Depends(needs(Permission.STUDIES_READ))]


def wanted(
    show: str = "open",
    priority: Annotated[str, Query(max_length=20)] = "",
    modality: Annotated[str, Query(max_length=20)] = "",
    finding: Annotated[str, Query(max_length=100)] = "",
    q: Annotated[str, Query(max_length=40)] = "",
) -> Wanted:
    """The filters of the address. What makes no sense shows everything rather than nothing."""
    return Wanted(show if show in SHOWN else "open", priority, modality, finding, q)


@router.get("/")
def worklist(request: Request, choice: Annotated[Wanted, Depends(wanted)], principal: Reader) -> Response:
    snapshot = snapshots(request).get(FRESH_S)
    return page(request, "worklist.html", **_shown(request, snapshot, choice, STEP, principal))


@router.get("/worklist/rows")
def rows(
    request: Request,
    choice: Annotated[Wanted, Depends(wanted)],
    principal: Reader,
    rows: Annotated[int, Query(ge=1, le=MOST)] = STEP,
) -> Response:
    """The rows alone; 304 when they are as the page has them."""
    shown = _shown(request, snapshots(request).get(FRESH_S), choice, rows, principal)
    if request.headers.get("if-none-match") == shown["tag"]:
        return Response(status_code=304, headers={"ETag": shown["tag"]})
    return page(request, "worklist_rows.html", headers={"ETag": shown["tag"]}, **shown)


@router.get("/next")
def next_study(request: Request, principal: Reader, after: str = "") -> Response:
    """The study to read next."""
    key = snapshots(request).get(0).next_after(after)
    return RedirectResponse(f"/studies/{key}" if key else "/", 303)


class Person(BaseModel):
    """A Patient ID, or (part of) a name. In the body: addresses are written into logs."""

    person: str = Field(min_length=2, max_length=128)


@router.post("/worklist/person")
def person(
    request: Request, asked: Person, principal: Annotated[Principal, Depends(needs(Permission.IDENTITIES_READ))]
) -> dict[str, Any]:
    """The studies of a person: by Patient ID, else by name, those of the list first. Both are recorded by the vault.

    `damaged`: identities that could not be read; `others`: how many were not looked into.
    """
    services: Services = request.app.state.services
    rows = {row.study_key: row for row in snapshots(request).get(FRESH_S).rows}
    found, damaged, others = services.vault.of_patient(asked.person, principal.actor, PURPOSE), 0, 0
    if not found:
        named = services.vault.of_name(asked.person, rows, principal.actor, PURPOSE)
        found, damaged, others = named.found, len(named.damaged), named.others
    studies = [{"study_key": key, "words": _words(rows.get(key))} for key in found]
    return {"studies": studies, "damaged": damaged, "others": others}


def snapshots(request: Request) -> Snapshots:
    """One of the application, made at the first question."""
    state = request.app.state
    if not hasattr(state, "worklist_snapshots"):
        state.worklist_snapshots = Snapshots(state.services)
    return state.worklist_snapshots


def _shown(request: Request, snapshot: Snapshot, choice: Wanted, most: int, principal: Principal) -> dict[str, Any]:
    services: Services = request.app.state.services
    chosen, counts, now = snapshot.chosen(choice), snapshot.counts(), services.now()
    return {
        "rows": chosen[:most],
        "chosen": len(chosen),
        "counts": counts,
        "names": NAMES,
        "wanted": choice,
        "step": STEP,
        "tag": tag(chosen[:most], {**counts, "chosen": len(chosen)}),
        "waited": lambda row: spoken(now - row.since),
        "priorities": [priority.value for priority in Priority],
        "modalities": snapshot.values("modality"),
        "findings": snapshot.values("findings"),
        "limit_hours": services.settings.reading_limit_hours,
        "may_retry": principal.may(Permission.RETRY),
        "may_identify": principal.may(Permission.IDENTITIES_READ),
    }


def _words(row: Any) -> str:
    """What is said of a study that was found: its priority or state."""
    return " ".join(filter(None, (row.modality, row.priority, row.state))) if row else "not in the list"
