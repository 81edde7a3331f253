"""Asking models about an image, what they said, how sure they are, and what a person decides about it."""

from __future__ import annotations

import threading
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from medai_pipeline import answering
from medai_pipeline.errors import Conflict, NotFound, Unprocessable
from medai_pipeline.explain.methods import ALL_METHODS
from medai_pipeline.models.whereabouts import has_all
from medai_pipeline.services import Services
from medai_pipeline.storage.catalogue import Place
from medai_pipeline.storage.requests import Request as Asked
from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.api import shapes
from medai_pipeline.web.api.common import (
    PREFIX,
    PROBLEMS,
    Has,
    Idempotent,
    IfMatch,
    ImageReader,
    Reader,
    image_named,
    seen_version,
    uuid_of,
    with_etag,
)
from medai_pipeline.web.api.images import ImageId

router = APIRouter(prefix="/inference", tags=["inference"], responses=PROBLEMS, route_class=Idempotent)
Asker = Annotated[Principal, Depends(needs(Permission.ANALYZE))]
InferenceId = Annotated[
    str, Path(max_length=64, description="of an analysis, a report, or a stored result, as the API told it")
]
LONGEST_WAIT_S = 60
WAITING_AT_ONCE = 16  # of the threads that serve requests; who finds none free is told where to look, at once
POLL_S = 0.25
_free = threading.BoundedSemaphore(WAITING_AT_ONCE)
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"description": "not finished: Location says where to look"}}
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}, "description": "the picture"}}

Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, description="seconds to wait for the answer")]
ModelName = Annotated[str, Query(max_length=200, description="NAME or NAME@VERSION; empty: the one that counts")]


class Decision(BaseModel):
    """What a person decides. `content`: with `edited`, what they changed of the report."""

    model_config = ConfigDict(extra="forbid")
    decision: Literal["accepted", "edited", "rejected"]
    note: Annotated[str, Field(max_length=5000, pattern=r"^[^\x00]*$")] = ""
    content: dict[str, Any] | None = None


@router.get("/models/available")
def available(services: Has, principal: Annotated[Principal, Depends(needs(Permission.MODELS_READ))]) -> Any:
    """The models that may be named, the active ones first, and the methods of heatmaps."""
    models, active = services.models, {entry.label for entry in services.models.active}
    known = {entry.label: entry for entry in (*models.active, *models.shadow, *models.known)}
    return {
        "models": [
            {
                "name": entry.name,
                "version": entry.version,
                "active": label in active,
                "modality": entry.modality,
                "body_parts": entry.body_parts,
                "classes": entry.classes,
                "weights_here": has_all(models, label, services.settings.models_path),
                "demo": entry.demo,
            }
            for label, entry in known.items()
        ],
        "gradcam_methods": ALL_METHODS,
        "default_gradcam_method": services.settings.gradcam_method,
    }


@router.get("/image/{image_id}/results")
def results_of_image(image_id: ImageId, services: Has, principal: Reader) -> Any:
    """All that was said of an image: by the pipeline about its study, and what callers asked. The newest first."""
    uid, place = image_named(services, principal, image_id)
    rows = services.catalogue.results(place.study_key)
    pipeline = [shapes.result(row, services.catalogue.report_of_result(row)) for row in rows]
    return {"items": [*map(_told, services.requests.of_image(uid)), *pipeline]}


@router.post("/{image_id}/analyze", responses=_ACCEPTED)
def analyze(
    image_id: ImageId,
    services: Has,
    principal: Asker,
    model_name: ModelName = "",
    generate_gradcam: bool = True,
    gradcam_method: Annotated[str, Query(max_length=32, description="empty: the site's own")] = "",
    wait: Wait = 30,
) -> Response:
    """What a model says of an image, with heatmaps. With the model and method that count, the report answers, and an image
    that was just uploaded is waited for; with others it is computed, beside the report. 200 with the answer within `wait`
    seconds, else 202 with where to look."""
    uid, place = image_named(services, principal, image_id)
    if gradcam_method and gradcam_method not in ALL_METHODS:
        raise Unprocessable(f"no such gradcam_method: use one of {', '.join(ALL_METHODS)}")
    _require_model(services, model_name, uid)
    asked = {
        "model_name": model_name,
        "generate_gradcam": generate_gradcam,
        "gradcam_method": gradcam_method,
    }
    return _answered(services, _ask(services, principal, answering.ANALYSIS, (uid, place), asked), wait)


@router.post("/{image_id}/uncertainty", responses=_ACCEPTED)
def uncertainty(
    image_id: ImageId,
    services: Has,
    principal: Asker,
    samples: Annotated[
        int | None,
        Query(
            ge=answering.LEAST_SAMPLES,
            le=answering.MOST_SAMPLES,
            description="Monte Carlo samples to draw now; without it the numbers kept with the prediction are told",
        ),
    ] = None,
    model_name: ModelName = "",
    wait: Wait = 30,
) -> Response:
    """How sure a model is of an image. `source` says whether the numbers were kept (`report`) or drawn now (`computed`)."""
    uid, place = image_named(services, principal, image_id)
    _require_model(services, model_name, uid)
    asked = {"model_name": model_name, "samples": samples}
    return _answered(services, _ask(services, principal, answering.UNCERTAINTY, (uid, place), asked), wait)


@router.get("/{id}", responses=_ACCEPTED)
def inference(id: InferenceId, services: Has, principal: Reader, wait: Wait = 0) -> Any:
    """An analysis, a report as an answer, or a stored result of a model version. 202 while an analysis is at work."""
    found = _named(services, id)
    if isinstance(found, Asked):
        return _answered(services, found, wait)
    return found


@router.get("/{id}/heatmaps/{name}", responses=_PNG, response_class=Response)
def heatmap(
    id: InferenceId,
    name: Annotated[str, Path(pattern=r"^[0-9a-z-]{1,100}\.png$")],
    services: Has,
    principal: ImageReader,
) -> Response:
    """The picture of a heatmap over its image."""
    key = uuid_of(id)
    asked = services.requests.find(key) if key else None
    report = None if asked else services.catalogue.report(key) if key else None
    prefix = asked.object_prefix if asked else report["object_prefix"] if report else ""
    place = f"{prefix}/overlays/{name}"
    if not prefix or not services.objects.exists(place):
        raise NotFound("there is no such picture: an answer names those that there are")
    return Response(
        services.objects.get(place), media_type="image/png", headers={"Cache-Control": "private, max-age=3600"}
    )


@router.post("/{id}/review", status_code=201, responses={412: {"description": "decided about meanwhile"}})
def review(
    id: InferenceId,
    given: Decision,
    services: Has,
    principal: Annotated[Principal, Depends(needs(Permission.REVIEW))],
    if_match: IfMatch = None,
) -> Response:
    """What a person decides about the report behind an answer. If-Match, with the ETag of the report's reviews
    (`GET /studies/{study_uid}/report`; "0" when there is none), keeps two readers from overwriting each other; it must be
    sent when somebody has decided before."""
    report_id = _report_behind(services, id)
    if given.decision == "edited" and not given.content:
        raise Unprocessable("an edited report comes with `content`: what was changed")
    said = services.opinions.reviews(report_id)
    seen = seen_version(if_match, required=bool(said)) or shapes.version_of(said[0] if said else None)
    made = services.opinions.review(
        report_id, principal.actor, given.decision, given.note, given.content, seen, services.now()
    )
    return with_etag(made, made.id, 201)


def _require_model(services: Services, name: str, uid: str) -> None:
    """Raises ModelNotFound, or Unprocessable for a model of another modality, before anything is asked for."""
    if not name:
        return
    entry, row = services.models.entry(name), services.catalogue.image(uid)
    if row is not None and row["modality"].upper() not in entry.modality:
        raise Unprocessable(f"{entry.label} is made for {', '.join(entry.modality)}, the image is {row['modality']}")


def _ask(services: Services, principal: Principal, kind: str, image: tuple[str, Place], asked: dict[str, Any]) -> Asked:
    """The request, answered at once where a report says it."""
    uid, place = image
    request = services.requests.add(kind, place.study_key, uid, asked, principal.actor, services.now())
    answering.from_report(services, request)
    return request


def _answered(services: Services, request: Asked, wait_s: float) -> Response:
    """200 with the answer as soon as it is there, 202 when the time is up."""
    found = _wait(services, request, wait_s)
    where = f"{PREFIX}/inference/{found.id}"
    status = 200 if found.over else 202
    headers = {"Location": where, **({} if found.over else {"Retry-After": "2"})}
    from fastapi.encoders import jsonable_encoder
    from fastapi.responses import JSONResponse

    return JSONResponse(jsonable_encoder(_told(found)), status, headers=headers)


def _wait(services: Services, request: Asked, wait_s: float) -> Asked:
    deadline, pause = time.monotonic() + wait_s, threading.Event()
    found = services.requests.find(request.id) or request
    if found.over or wait_s <= 0 or not _free.acquire(blocking=False):
        return found
    try:
        while not found.over and time.monotonic() < deadline:
            pause.wait(POLL_S)
            found = services.requests.find(request.id) or found
    finally:
        _free.release()
    return found


def _told(request: Asked) -> dict[str, Any]:
    """The request, with where the pictures of its heatmaps are."""
    told = shapes.asked(request)
    if request.result and request.result.get("heatmaps"):
        maps = [shapes.heatmap(m, str(request.id)) for m in request.result["heatmaps"]]
        told["result"] = {**request.result, "heatmaps": maps}
    return told


def _named(services: Services, id: str) -> Any:
    """The analysis, or the stored result, or the report's primary result."""
    key = uuid_of(id)
    if key and (asked := services.requests.find(key)):
        return asked
    if key and (report := services.catalogue.report(key)) and (row := services.catalogue.result_in(report)):
        return shapes.result(row, report)
    if id.isascii() and id.isdigit() and len(id) < 19 and (row := services.catalogue.result(int(id))):
        return shapes.result(row, services.catalogue.report_of_result(row))
    raise NotFound("no analysis, report or result has this id")


def _report_behind(services: Services, id: str) -> Any:
    """The report that a decision about this answer is about. Raises Conflict for an answer beside the report."""
    key = uuid_of(id)
    if key and services.catalogue.report(key):
        return key
    found = _named(services, id)
    if isinstance(found, Asked):
        if found.report_id is None:
            raise Conflict("this answer was computed beside the report: decide about the study's report instead")
        return found.report_id
    if found["report_id"] is None:
        raise Conflict("this result is in no report: decide about the study's report instead")
    return uuid_of(found["report_id"])
