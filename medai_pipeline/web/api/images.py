"""Images: upload into the PACS, look up, download de-identified, delete in the PACS."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from medai_pipeline.dicom.read import parse
from medai_pipeline.errors import Conflict, DicomError, NotFound, StudyForgotten, Unprocessable
from medai_pipeline.pacs.records import UploadResult
from medai_pipeline.services import Services
from medai_pipeline.storage.spool import Spool
from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.api import shapes
from medai_pipeline.web.api.common import (
    PROBLEMS,
    SOP_INSTANCE_UID,
    Has,
    Idempotent,
    ImageReader,
    Page,
    begin,
    digest_of,
    end,
    image_named,
    listed,
    patient_named,
)
from medai_pipeline.web.receiving import receive
from medai_pipeline.web.unpacking import File, files

router = APIRouter(prefix="/images", tags=["images"], responses=PROBLEMS, route_class=Idempotent)
# its body is larger than others, and is not read before it is known who sends it
uploading = APIRouter(prefix="/images", tags=["images"], responses=PROBLEMS)
NO_LIMIT_HERE = 2**62

ImageId = Annotated[str, Path(max_length=128, description="SOP Instance UID of the de-identified image")]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/dicom": {"schema": {"type": "string", "format": "binary"}},
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    "required": ["file"],
                }
            },
        },
    }
}
_DICOM: dict[int | str, dict[str, Any]] = {200: {"content": {"application/dicom": {}}, "description": "the file"}}


@uploading.post("/upload", status_code=201, max_body_size=NO_LIMIT_HERE, openapi_extra=_BODY)
async def upload(
    request: Request,
    services: Has,
    principal: Annotated[Principal, Depends(needs(Permission.UPLOAD))],
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)] = None,
) -> Response:
    """DICOM files, or zips of them, into the PACS; from there they take the way of every study.

    The answer names each image by the id under which it will be found. Files that are refused are counted by their place
    in the upload; 422 when none was taken.
    """
    limit = services.settings.max_upload_mb * 2**20
    with Spool(limit) as spool:
        received = await receive(request, spool)
        if key is None:
            return await run_in_threadpool(_take, services, principal, received.parts, limit)
        digest = digest_of(request, received.sha256.hexdigest())
        known = await run_in_threadpool(begin, services, principal.actor, key, digest)
        if known is not None:
            return known
        try:
            answer = await run_in_threadpool(_take, services, principal, received.parts, limit)
        except BaseException:
            await run_in_threadpool(services.idempotency.forget, principal.actor, key)
            raise
        await run_in_threadpool(end, services, principal.actor, key, answer)
        return answer


def _take(services: Services, principal: Principal, parts: Any, limit: int) -> JSONResponse:
    """Each file to the PACS, as it is unpacked; what was taken before an error stays taken, and is noted."""
    taken: list[dict[str, Any]] = []
    images: dict[str, str] = {}
    try:
        # `map` lets go of each file before it takes the next; a loop's variable would hold two
        for number, told in enumerate(map(partial(_store, services), files(parts, limit)), 1):
            taken.append({"number": number, **told})
            if "image_id" in taken[-1]:
                images[taken[-1]["image_id"]] = taken[-1]["study_key"]
    finally:
        _note(services, principal, images)
    if not images:
        reasons = sorted({item["reason"] for item in taken}) or ["it holds no file"]
        raise Unprocessable(f"nothing of the upload could be taken: {'; '.join(reasons)}")
    studies = sorted(set(images.values()))
    body = {"images": taken, "studies": studies, "complete": len(images) > 0 and all("image_id" in i for i in taken)}
    return JSONResponse(jsonable_encoder(body), 201)


def _note(services: Services, principal: Principal, images: Mapping[str, str]) -> None:
    """Study by study: that one is forgotten must not lose what is to be said of the others."""
    for key in sorted(set(images.values())):
        try:
            mine = {uid: study for uid, study in images.items() if study == key}
            services.requests.uploaded(mine, principal.actor, services.now())
        except StudyForgotten:
            services.audit.append(principal.actor, "images.uploaded", key, {"forgotten": True})


def _store(services: Services, file: File) -> dict[str, Any]:
    if file.refused:
        return {"status": "refused", "reason": file.refused}
    try:
        header = parse(file.data, pixels=False)
        names = [str(header.get(name, "")) for name in ("SOPInstanceUID", "StudyInstanceUID", "SOPClassUID")]
    except DicomError as error:
        return {"status": "refused", "reason": error.reason}
    if not all(names):
        return {
            "status": "refused",
            "reason": "without SOP Class, SOP Instance or Study Instance UID: it belongs nowhere",
        }
    (result,) = services.pacs.upload_many([file.data])
    return _told(services, result, names)


def _told(services: Services, result: UploadResult, names: list[str]) -> dict[str, Any]:
    if not result.stored:
        return {"status": "refused", "reason": result.reason}
    return {
        "status": "stored" if result.status == "Success" else "there already",
        "image_id": services.deidentifier.new_uid(names[0], SOP_INSTANCE_UID),
        "study_key": services.keys.study_key(names[1]),
    }


@router.get("/patient/{patient_id}")
def images_of_patient(
    patient_id: Annotated[str, Path(max_length=128)], services: Has, principal: ImageReader, paging: Page
) -> Any:
    """The images of a patient's studies. `patient_id`: what a study tells as `patient`, or the Patient ID for who may."""
    keys = patient_named(services, principal, patient_id)
    rows, total = services.catalogue.images_of(keys, paging.limit, paging.offset)
    return listed([shapes.image(row) for row in rows], total, paging)


@router.get("/{image_id}")
def one_image(image_id: ImageId, services: Has, principal: ImageReader) -> Any:
    """One de-identified image. One that was uploaded and is on its way has only an id, its study, and state `receiving`."""
    uid, place = image_named(services, principal, image_id)
    row = services.catalogue.image(uid)
    if row is None:
        return {"id": uid, "study_key": place.study_key, "state": "receiving"}
    return {**shapes.image(row), "state": "here"}


@router.get("/{image_id}/download", responses=_DICOM, response_class=Response)
def download(image_id: ImageId, services: Has, principal: ImageReader) -> Response:
    """The de-identified file. What the PACS holds is under `/orthanc/studies/{id}/download`."""
    uid, _ = image_named(services, principal, image_id)
    row = services.catalogue.image(uid)
    if row is None or not row["object_key"]:
        raise Conflict("the image is not de-identified yet: ask again when its study is reported")
    data = services.objects.get(row["object_key"])
    services.audit.append(principal.actor, "image.downloaded", row["study_key"], {"image": uid})
    return Response(
        data, media_type="application/dicom", headers={"Content-Disposition": f'attachment; filename="{uid}.dcm"'}
    )


@router.delete("/{image_id}", status_code=204, response_class=Response)
def delete(
    image_id: ImageId, services: Has, principal: Annotated[Principal, Depends(needs(Permission.DELETE))]
) -> Response:
    """Deletes the image in the PACS. The pipeline notices, and reports the study again without it; the old report stays.

    What it was read from is deleted by the rules of retention, not here.
    """
    uid, place = image_named(services, principal, image_id)
    identity = services.vault.read(place.study_key, principal.actor, "delete an image in the PACS")
    original = next((old for old, new in identity.uids.items() if new == uid), None)
    if original is None:
        raise Conflict("the image is not de-identified yet: delete it when its study is reported")
    found = services.orthanc.named("instance", original)
    if not found:
        raise NotFound("the PACS does not hold this image (any more)")
    for orthanc_id in found:
        services.orthanc.delete(orthanc_id, level="instances")
    services.audit.append(principal.actor, "image.deleted", place.study_key, {"image": uid})
    return Response(status_code=204)
