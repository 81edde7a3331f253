"""Errors as answers: problem+json (RFC 9457) for the API, a small page for a browser. No answer repeats what was sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from medai_pipeline import errors
from medai_pipeline.errors import MedaiError
from medai_pipeline.web.templating import page

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"

# the first row that fits: (error, status, and whether its words may be shown)
STATUS: tuple[tuple[type[MedaiError], int], ...] = (
    (errors.NotLoggedIn, 401),
    (errors.LoginRefused, 401),
    (errors.NotAllowed, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.StudyForgotten, 409),
    (errors.ChangedMeanwhile, 412),
    (errors.TooLarge, 413),
    (errors.Unprocessable, 422),
    (errors.PreconditionMissing, 428),
    (errors.TooMany, 429),
    (errors.TooSlow, 408),
    (errors.PacsNotFound, 404),
    (errors.PacsUnreachable, 503),
    (errors.PacsError, 502),
    (errors.DatabaseUnreachable, 503),
    (errors.StorageFull, 507),
    (errors.ObjectMissing, 404),
    (errors.ModelNotFound, 422),
    (errors.DicomError, 422),
)


def status_of(error: MedaiError) -> int:
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def install(app: FastAPI) -> None:
    """Every error of the application becomes an answer here."""
    app.add_exception_handler(MedaiError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def answer(
    request: Request,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """The problem as the caller reads it: JSON under /api/v1 and for programs, else a page."""
    title = HTTPStatus(status).phrase
    request_id = getattr(request.state, "request_id", "")
    if _is_program(request):
        body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": request_id}
        return JSONResponse({**body, **more}, status, headers=dict(headers or {}), media_type=PROBLEM)
    return page(
        request, "error.html", status_code=status, headers=headers, title=title, detail=detail, request_id=request_id
    )


def _is_program(request: Request) -> bool:
    return request.url.path.startswith("/api/v1/") or "text/html" not in request.headers.get("accept", "text/html")


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, MedaiError)
    status = status_of(error)
    if isinstance(error, errors.NotLoggedIn):
        return _please_log_in(request, error)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, errors.TooMany) else None
    if status >= 500:
        log.error("request %s: %s: %s", request.state.request_id, type(error).__name__, error.reason)
    return answer(request, status, error.reason, headers)


def _please_log_in(request: Request, error: MedaiError) -> Response:
    """A program gets 401, a browser the login page."""
    if _is_program(request):
        return answer(request, 401, error.reason, {"WWW-Authenticate": "Bearer"})
    here = request.url.path if request.method == "GET" else "/"
    return RedirectResponse(f"/login?next={quote(here)}", 303)


async def _invalid(request: Request, error: Exception) -> Response:
    """Where it is wrong and why, without the value: it may name a person."""
    assert isinstance(error, RequestValidationError)
    found = [{"where": ".".join(str(part) for part in e["loc"][:3]), "why": e["msg"]} for e in error.errors()]
    return answer(request, 422, "the request is not as the API describes it", errors=found)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail if isinstance(error.detail, str) else HTTPStatus(error.status_code).phrase
    return answer(request, error.status_code, detail, error.headers)


async def unexpected(scope: Scope, receive: Receive, send: Send, error: Exception) -> None:
    """An error nobody foresaw: its kind and place go to the log, never its words. Raised on when an answer has begun."""
    request = Request(scope, receive)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{frame.tb_frame.f_code.co_name}, line {frame.tb_lineno}" if frame else "?"
    log.error("request %s: unexpected %s in %s", request.state.request_id, type(error).__name__, place)
    response = answer(request, 500, "something went wrong here; the log names it by the request id")
    await response(scope, receive, send)
