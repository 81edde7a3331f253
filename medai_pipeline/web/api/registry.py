"""Models, where a result comes from, what went back to the PACS, and who I am."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query

from medai_pipeline.errors import NotFound
from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.api.common import PROBLEMS, Has, Page, Reader, listed, study_named

router = APIRouter(responses=PROBLEMS)

_MODEL = ("name", "version", "architecture", "weights_sha256", "state", "registered_at", "promoted_at")
ModelReader = Annotated[Principal, Depends(needs(Permission.MODELS_READ))]


@router.get("/models", tags=["models"])
def models(services: Has, principal: ModelReader) -> Any:
    """All versions in the registry: active ones first."""
    return {"items": [{name: getattr(row, name) for name in _MODEL} for row in services.registry.versions()]}


@router.get("/models/{name}/{version}", tags=["models"])
def model(
    name: Annotated[str, Path(max_length=100)],
    version: Annotated[str, Path(max_length=100)],
    services: Has,
    principal: ModelReader,
) -> Any:
    """One version with its card, and what was measured at registration and on this machine."""
    row = next((row for row in services.registry.versions() if (row.name, row.version) == (name, version)), None)
    if row is None:
        raise NotFound("no model of this name and version is registered")
    more = ("registered_by", "promoted_by", "replaced", "backfill_since", "card", "measured", "prepared")
    return {name: getattr(row, name) for name in (*_MODEL, *more)}


@router.get("/lineage/{id}", tags=["lineage"])
def lineage(id: Annotated[str, Path(max_length=128, pattern=r"^[^\x00]*$")], services: Has, principal: Reader) -> Any:
    """From a result back to what made it. `id`: study key, report, inference or run, new UID, or the beginning of a SHA-256."""
    rows = services.lineage.of(id)
    if not rows:
        raise NotFound("nothing here comes from that: give a study key, report, inference, run, new UID or digest")
    return {"items": rows}


@router.get("/deliveries", tags=["deliveries"])
def deliveries(
    services: Has,
    principal: Annotated[Principal, Depends(needs(Permission.DELIVERIES_READ))],
    paging: Page,
    study: Annotated[str, Query(max_length=128)] = "",
    state: Literal["", "pending", "sent", "committed", "failed", "dropped"] = "",
) -> Any:
    """Results on their way to the PACS, the newest first."""
    key = study_named(services, principal, study) if study else ""
    rows, total = services.catalogue.deliveries(key, state, paging.limit, paging.offset)
    names = ("id", "study_key", "revision", "report_id", "destination", "state", "reason", "attempts", "created_at",
             "updated_at")  # fmt: skip
    return listed([{name: row[name] for name in names} for row in rows], total, paging)


@router.get("/me", tags=["account"])
def me(principal: Annotated[Principal, Depends(needs(Permission.ACCOUNT))]) -> Any:
    """Who I am here, and what I may."""
    return {"name": principal.name, "roles": sorted(principal.roles), "permissions": sorted(principal.permissions)}
