"""What the routers share: the services, who asks, pages of a listing, versions (ETag), and how a study or image is named."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from medai_pipeline.errors import Conflict, NotFound, PreconditionMissing, Unprocessable
from medai_pipeline.services import Services
from medai_pipeline.storage.catalogue import Place
from medai_pipeline.storage.keys import subkey
from medai_pipeline.web.access import Permission, Principal, needs, permission_of
from medai_pipeline.web.authentication import authenticate, require_own_page

PREFIX = "/api/v1"
SOP_INSTANCE_UID = 0x00080018
# what every operation may answer beside its own: so that the description says so, too
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "content": {"application/problem+json": {}}}
    for status, words in (
        (401, "nobody is logged in"),
        (403, "the role does not permit it"),
        (404, "nothing here has this id, or it may not be known to who asks"),
        (409, "the state of the thing, or another request, does not allow it now"),
        (413, "more bytes than are taken"),
        (422, "the request makes no sense"),
        (429, "too many tries"),
        (503, "the database or the PACS does not answer"),
    )
}

Reader = Annotated[Principal, Depends(needs(Permission.STUDIES_READ))]
ImageReader = Annotated[Principal, Depends(needs(Permission.IMAGES_READ))]
IfMatch = Annotated[str | None, Header(alias="If-Match", description="the ETag of the version that is changed")]


def services_of(request: Request) -> Services:
    return request.app.state.services


Has = Annotated[Services, Depends(services_of)]


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a listing is wanted."""

    limit: Annotated[int, Query(ge=1, le=500)] = 50
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0


Page = Annotated[Paging, Depends()]


def listed(items: Sequence[Any], total: int, paging: Paging) -> dict[str, Any]:
    """A page of a listing; `next` is the offset of the page after it, None at the end."""
    after = paging.offset + len(items)
    return {"items": items, "total": total, "offset": paging.offset, "next": after if after < total and items else None}


# versions ----------------------------------------------------------------------------------------------------


def with_etag(body: Any, version: object, status: int = 200, location: str = "") -> JSONResponse:
    from fastapi.encoders import jsonable_encoder

    headers = {"ETag": f'"{version}"', **({"Location": location} if location else {})}
    return JSONResponse(jsonable_encoder(body), status, headers=headers)


def seen_version(if_match: str | None, required: bool = True) -> str:
    """What If-Match says was seen; "" for any. Raises PreconditionMissing when it must say something."""
    if if_match is None and required:
        raise PreconditionMissing("send If-Match with the ETag of what you have read, so that nobody is overwritten")
    told = (if_match or "").strip()
    return "" if told == "*" else told.removeprefix("W/").strip('"')


# names -------------------------------------------------------------------------------------------------------


def study_named(services: Services, principal: Principal, name: str) -> str:
    """The study key of a path's `study_uid`: key, new Study Instance UID, or the original UID for who may see identities.

    Raises NotFound, in the same words for what is not there and for what may not be known.
    """
    found = services.catalogue.study_key(name)
    if found is None and principal.may(Permission.IDENTITIES_READ):
        found = services.catalogue.study_key(services.keys.study_key(name))
        if found is not None:
            services.audit.append(principal.actor, "identity.find", found, {"purpose": "a study by its original UID"})
    if found is None:
        raise NotFound(
            "no study has this name: give a study key, or the Study Instance UID of its de-identified images"
        )
    return found


def image_named(services: Services, principal: Principal, name: str) -> tuple[str, Place]:
    """The new SOP Instance UID of a path's `image_id`, and where it is. The original UID serves who may see identities."""
    place = services.catalogue.place(name)
    if place is None and principal.may(Permission.IDENTITIES_READ) and name.isascii():
        name = services.deidentifier.new_uid(name, SOP_INSTANCE_UID)
        place = services.catalogue.place(name)
        if place is not None:
            detail = {"purpose": "an image by its original UID"}
            services.audit.append(principal.actor, "identity.find", place.study_key, detail)
    if place is None:
        raise NotFound(
            "no image has this id: give the SOP Instance UID of a de-identified image, or of an upload's answer"
        )
    return name, place


def patient_named(services: Services, principal: Principal, name: str) -> list[str]:
    """Study keys of a path's `patient_id`: the patient's token, or the Patient ID for who may see identities."""
    found = services.catalogue.studies_of_patient(name) if "\0" not in name else []
    if not found and principal.may(Permission.IDENTITIES_READ):
        found = services.vault.of_patient(name, principal.actor, "the studies of a patient")
    if not found:
        raise NotFound("no patient has this name: give the `patient` that a study tells")
    return found


def uuid_of(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


# idempotent writes -------------------------------------------------------------------------------------------


class Idempotent(APIRoute):
    """A route whose writes may carry Idempotency-Key: the same request again is given the same answer, and does nothing.

    The same key with another request is refused (422), and so is one while the first is at work (409).
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        carry_out = super().get_route_handler()

        async def handle(request: Request) -> Response:
            key = request.headers.get("idempotency-key")
            if key is None or request.method in ("GET", "HEAD"):
                return await carry_out(request)
            caller = await run_in_threadpool(authenticate, request)
            await require_own_page(request, caller)
            if not caller.principal.may(permission_of(self.dependant)):
                return await carry_out(request)  # which refuses it
            actor = caller.principal.actor
            digest = digest_of(request, sha256(await request.body()).hexdigest())
            services = services_of(request)
            known = await run_in_threadpool(begin, services, actor, key, digest)
            if known is not None:
                return known
            try:
                answer = await carry_out(request)
            except BaseException:
                await run_in_threadpool(services.idempotency.forget, actor, key)
                raise
            await run_in_threadpool(end, services, actor, key, answer)
            return answer

        return handle


def digest_of(request: Request, body_sha256: str) -> str:
    parts = (request.method, request.url.path, request.url.query, request.headers.get("if-match", ""), body_sha256)
    return sha256("\n".join(parts).encode()).hexdigest()


def begin(services: Services, actor: str, key: str, digest: str) -> Response | None:
    """The answer that the key was given, None for a new key. Raises Unprocessable or Conflict."""
    if not 1 <= len(key) <= 200 or not key.isascii() or not key.isprintable():
        raise Unprocessable("Idempotency-Key must be 1 to 200 printable ASCII characters")
    # a path may hold an original UID: its bare digest would tell who guesses that it was asked for
    digest = hmac.new(subkey(services.keys.study_keys, "requests"), digest.encode(), sha256).hexdigest()
    kept = services.idempotency.begin(actor, key, digest, services.now())
    if kept is None:
        return None
    if kept.request_sha256 != digest:
        raise Unprocessable("this Idempotency-Key was used for another request: take a new one")
    if kept.status is None:
        raise Conflict("the first request with this Idempotency-Key is still at work: ask again in a moment")
    return Response(kept.body, kept.status, headers={**kept.headers, "Idempotency-Replayed": "true"})


def end(services: Services, actor: str, key: str, answer: Response) -> None:
    """Keeps what was answered; of a failure on our side nothing, so that the caller may try again."""
    if answer.status_code >= 500:
        services.idempotency.forget(actor, key)
        return
    kept: Mapping[str, str] = {
        name: value for name, value in answer.headers.items() if name in ("content-type", "etag", "location")
    }
    services.idempotency.end(actor, key, answer.status_code, kept, bytes(answer.body).decode())
