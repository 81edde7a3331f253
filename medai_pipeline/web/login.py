"""Logging in and out with name and password. A site's own provider is in `oidc`."""

from __future__ import annotations

import hmac
import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from medai_pipeline.errors import LoginRefused, NotAllowed, TooMany
from medai_pipeline.services import Services
from medai_pipeline.settings import Settings
from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.authentication import COOKIE, CSRF_FIELD, MOST_BY_ADDRESS
from medai_pipeline.web.templating import page
from medai_pipeline.web.whence import address

LOGIN_COOKIE = "medai_login"  # double submit: the form repeats it, and no other site can
# wrong passwords within `sessions.WINDOW`. One address closes the door for itself; many together close it for a name
MOST_BY_NAME_AND_ADDRESS = 10
MOST_BY_NAME = 50
MOST_FROM_BUSY_ADDRESS = 3  # for a name, from an address that failed for many names: others who share it still get in

router = APIRouter(include_in_schema=False)


@router.get("/login")
def login_page(request: Request, next: str = "/") -> Response:
    token = request.cookies.get(LOGIN_COOKIE) or secrets.token_urlsafe(24)
    return _form(request, token, local_path(next))


@router.post("/login")
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=100)],
    password: Annotated[str, Form(max_length=1024)],
    csrf: Annotated[str, Form(alias=CSRF_FIELD, max_length=200)],
    next: Annotated[str, Form(max_length=500)] = "/",
) -> Response:
    expected = request.cookies.get(LOGIN_COOKIE, "")
    if not expected or not hmac.compare_digest(expected.encode(), csrf.encode()):
        raise NotAllowed("this login does not come from our own page: load /login again; cookies must be allowed")
    try:
        services: Services = request.app.state.services
        who = verified(services, request, name.strip(), password)
    except (LoginRefused, TooMany) as error:
        status = 429 if isinstance(error, TooMany) else 401
        return _form(request, expected, local_path(next), error.reason, status)
    return logged_in(request, who, None, local_path(next))


@router.post("/logout")
def log_out(request: Request, principal: Annotated[Principal, Depends(needs(Permission.ACCOUNT))]) -> Response:
    services: Services = request.app.state.services
    services.sessions.close(request.cookies.get(COOKIE, ""))
    services.audit.append(principal.actor, "logout", principal.name)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, path="/")
    return response


def verified(services: Services, request: Request, name: str, password: str) -> str:
    """The name of the local user. Raises LoginRefused, or TooMany before the password is even looked at."""
    now, sessions = services.now(), services.sessions
    by_name, by_address = f"name {name}", f"address {address(request)}"
    by_both = f"{by_name} {by_address}"
    is_busy = sessions.wait_s(by_address, MOST_BY_ADDRESS, now) > 0
    most = MOST_FROM_BUSY_ADDRESS if is_busy else MOST_BY_NAME_AND_ADDRESS
    wait_s = max(sessions.wait_s(by_both, most, now), sessions.wait_s(by_name, MOST_BY_NAME, now))
    if wait_s:
        raise TooMany(f"too many failed logins: try again in {-(-wait_s // 60)} minutes", wait_s)
    user = services.users.verify(name, password)
    if user is None:
        sessions.failed([by_name, by_address, by_both], now)
        _note_failure(services, name, is_busy)
        raise LoginRefused("name or password are wrong, or the account is disabled")
    sessions.succeeded(by_name)
    sessions.succeeded(by_both)
    return user.name


def _note_failure(services: Services, name: str, is_busy: bool) -> None:
    """A name that nobody has may be a password in the wrong field: it is not written down, nor is it endlessly counted."""
    known = services.users.find(name) is not None if "\0" not in name else False
    if known or not is_busy:
        services.audit.append("user:unknown", "login.failed", name if known else "unknown")


def logged_in(request: Request, name: str, roles: list[str] | None, where: str) -> Response:
    """A new session, and the way on. `roles` of a provider; None for a local user's own."""
    services: Services = request.app.state.services
    secret = services.sessions.open(name, roles, services.now())
    services.audit.append(f"user:{name}", "login", name, {"by": "password" if roles is None else "openid"})
    response = RedirectResponse(where, 303)
    settings = services.settings
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(settings.session_hours * 3600),
        path="/",
        secure=secure(settings),
        httponly=True,
        samesite="lax",
    )
    response.delete_cookie(LOGIN_COOKIE, path="/login")
    return response


def secure(settings: Settings) -> bool:
    """Whether browsers reach us by TLS alone: then the cookie travels by it alone."""
    return bool(settings.tls_cert) or (settings.public_url or "").startswith("https://")


def local_path(where: str) -> str:
    """A path of our own, "/" for anything else: nobody is sent elsewhere after a login."""
    plain = where.isascii() and where.isprintable() and "\\" not in where
    return where if plain and where.startswith("/") and not where.startswith("//") else "/"


def refused(request: Request, error: LoginRefused) -> Response:
    """The login page with what went wrong elsewhere."""
    token = request.cookies.get(LOGIN_COOKIE) or secrets.token_urlsafe(24)
    return _form(request, token, "/", error.reason, 401)


def _form(request: Request, token: str, next: str, problem: str = "", status: int = 200) -> Response:
    settings: Settings = request.app.state.services.settings
    response = page(
        request,
        "login.html",
        status_code=status,
        login_token=token,
        next=next,
        problem=problem,
        oidc=bool(settings.oidc_issuer),
    )
    response.set_cookie(
        LOGIN_COOKIE, token, max_age=3600, path="/login", secure=secure(settings), httponly=True, samesite="strict"
    )
    return response
