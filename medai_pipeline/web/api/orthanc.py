"""The PACS behind it: whether it answers, its studies with their identities for who may see them, and fetching one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from medai_pipeline.errors import MedaiError, NotFound, PacsNotFound, Unprocessable
from medai_pipeline.pacs.orthanc_search import Found
from medai_pipeline.services import Services
from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.api.common import PROBLEMS, Has, Idempotent, study_named

router = APIRouter(prefix="/orthanc", tags=["orthanc"], responses=PROBLEMS, route_class=Idempotent)
# What a search answers names patients: it is never kept for a second asking, and each asking is recorded.
searching = APIRouter(prefix="/orthanc", tags=["orthanc"], responses=PROBLEMS)
Original = Annotated[Principal, Depends(needs(Permission.ORIGINALS_READ))]
OrthancStudy = Annotated[str, Path(max_length=128, description="study key, or the Orthanc id that a search tells")]

_ORTHANC_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}\Z")
_KEYWORDS = {
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "study_date": "StudyDate",
    "modality": "ModalitiesInStudy",
    "accession_number": "AccessionNumber",
    "study_description": "StudyDescription",
    "study_instance_uid": "StudyInstanceUID",
}
_TOLD = {
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "birth_date": "PatientBirthDate",
    "sex": "PatientSex",
    "study_instance_uid": "StudyInstanceUID",
    "study_date": "StudyDate",
    "study_description": "StudyDescription",
    "accession_number": "AccessionNumber",
}
Value = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f]*$")]


class Search(BaseModel):
    """Attributes to match; * and ? stand for any text, and dates may be ranges (20260101-20260131)."""

    model_config = ConfigDict(extra="forbid")
    patient_id: Value = ""
    patient_name: Value = ""
    study_date: Annotated[str, Field(max_length=17, pattern=r"^[0-9-]*$")] = ""
    modality: Annotated[str, Field(max_length=16, pattern=r"^[A-Za-z0-9\\]*$")] = ""
    accession_number: Value = ""
    study_description: Value = ""
    study_instance_uid: Value = ""
    limit: Annotated[int, Field(ge=1, le=500)] = 50


class Retrieve(BaseModel):
    """Where from: a node that the PACS knows by this name; empty for the PACS itself."""

    model_config = ConfigDict(extra="forbid")
    modality: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")] = ""


@router.get("/status")
def status(services: Has, principal: Annotated[Principal, Depends(needs(Permission.PACS_STATUS))]) -> Any:
    """Whether the PACS answers, and what it is."""
    try:
        system = services.pacs.system()
    except MedaiError as error:
        return {"connected": False, "reason": error.reason}
    told = {name.lower(): system.get(name) for name in ("Version", "DicomAet", "DicomPort", "Name")}
    return {"connected": True, **told, "changes": services.pacs.last_change()}


@router.get("/studies/search")
def search(services: Has, principal: Original, wanted: Annotated[Search, Query()]) -> Any:
    """Studies in the PACS, with who they are about. The asking, and each study that it found, is kept in the audit chain.

    Our logs keep no query; those of a proxy may: `POST /orthanc/studies/search` takes the same as a body.
    """
    return _search(services, principal, wanted)


@searching.post("/studies/search")
def search_by_body(services: Has, principal: Original, wanted: Search) -> Any:
    """As `GET`, with the attributes in the body, where no log keeps them."""
    return _search(services, principal, wanted)


@router.get("/studies/{id}")
def study(id: OrthancStudy, services: Has, principal: Original) -> Any:
    """One study as the PACS has it, with who it is about."""
    key, orthanc_ids = _find(services, principal, id, "a study in the PACS")
    uid = services.pacs.study(orthanc_ids[0]).study_instance_uid
    found = services.orthanc.search("study", {"StudyInstanceUID": uid})
    held = {one: services.pacs.study(one).instance_count for one in orthanc_ids}
    items = [_described(services, hit) | {"instances": held[hit.orthanc_id]} for hit in found if hit.orthanc_id in held]
    return {"study_key": key, "items": items}


@router.get(
    "/studies/{id}/download",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {}}, "description": "a zip of the files"}},
)
def download(id: OrthancStudy, services: Has, principal: Original) -> StreamingResponse:
    """The study's files as the PACS holds them, with their identities, as a zip; streamed."""
    key, orthanc_ids = _find(services, principal, id, "the original files")
    pieces = _opened(services, orthanc_ids[0])
    return StreamingResponse(
        pieces, media_type="application/zip", headers={"Content-Disposition": f'attachment; filename="{key}.zip"'}
    )


@router.post("/studies/{id}/retrieve", status_code=202)
def retrieve(
    id: Annotated[str, Path(max_length=128)],
    services: Has,
    principal: Annotated[Principal, Depends(needs(Permission.PACS_RETRIEVE))],
    wanted: Retrieve | None = None,
) -> Any:
    """Takes a study up into the pipeline: one that the PACS holds and the pipeline left alone as history, or, with
    `modality`, one that another node holds (its Study Instance UID as `id`): the PACS fetches it by C-MOVE."""
    from medai_pipeline.arrivals import take_up

    modality = wanted.modality if wanted else ""
    if modality:
        if modality not in services.orthanc.modalities():
            raise Unprocessable("the PACS knows no node of this name: configure it there")
        if not principal.may(Permission.ORIGINALS_READ) or not re.fullmatch(r"[0-9.]{1,64}", id):
            raise Unprocessable("fetching from a node takes the Study Instance UID, and a role that may know it")
        try:
            services.orthanc.retrieve(modality, "study", {"StudyInstanceUID": id})
        except PacsNotFound as error:
            raise NotFound("that node has no study of this UID") from error
        key, uid = services.keys.study_key(id), id
    else:
        key, orthanc_ids = _find(services, principal, id, "take up a study of the PACS")
        uid = services.pacs.study(orthanc_ids[0]).study_instance_uid
    new = take_up(services.watch, uid, services.now())  # however old it is: a person asks for it
    services.audit.append(principal.actor, "study.retrieved", key, {"from": modality or "pacs"})
    row = services.catalogue.study(key)
    return {"study_key": key, "state": row["state"] if row else "receiving", "new": new}


def _search(services: Services, principal: Principal, wanted: Search) -> Any:
    query = {keyword: getattr(wanted, name) for name, keyword in _KEYWORDS.items() if getattr(wanted, name)}
    items = [_described(services, hit) for hit in services.orthanc.search("study", query, wanted.limit)]
    detail = {"asked_for": sorted(query), "found": [item["study_key"] for item in items]}
    services.audit.append(principal.actor, "pacs.searched", "pacs", detail)
    return {"items": items, "total": len(items)}


def _described(services: Services, hit: Found) -> dict[str, Any]:
    uid = hit.tags.get("StudyInstanceUID", "")
    told = {name: hit.tags.get(keyword, "") for name, keyword in _TOLD.items()}
    return {"id": hit.orthanc_id, "study_key": services.keys.study_key(uid), **told, "series": hit.children}


def _find(services: Services, principal: Principal, name: str, purpose: str) -> tuple[str, list[str]]:
    """(study key, Orthanc ids) of a study key or Orthanc id; the reading is recorded. Raises NotFound."""
    if _ORTHANC_ID.match(name):
        uid = services.pacs.study(name).study_instance_uid
        key, found = services.keys.study_key(uid), [name]
    else:
        key = study_named(services, principal, name)
        uid = services.vault.read(key, principal.actor, purpose).study_instance_uid
        found = [study.orthanc_id for study in services.pacs.find_studies(uid)]
    if not found:
        raise NotFound("the PACS does not hold this study (any more)")
    services.audit.append(principal.actor, "original.read", key, {"purpose": purpose})
    return key, found


def _opened(services: Services, orthanc_id: str) -> Iterator[bytes]:
    """The archive, its first piece fetched: an error is still an answer, not a stream that ends."""
    pieces = _pieces(services, orthanc_id)
    first = next(pieces, b"")

    def all_of_it() -> Iterator[bytes]:
        yield first
        yield from pieces

    return all_of_it()


def _pieces(services: Services, orthanc_id: str) -> Iterator[bytes]:
    with services.orthanc.archive_pieces(orthanc_id) as pieces:
        yield from pieces
