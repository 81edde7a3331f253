"""Logging in at the site's OpenID Connect provider: there and back. What is believed of what comes back: `provider`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from medai_pipeline.errors import LoginRefused, NotFound
from medai_pipeline.services import Services
from medai_pipeline.web.login import local_path, logged_in, refused, secure
from medai_pipeline.web.provider import LONGEST_S, Provider

COOKIE = "medai_oidc"
PATH = "/login/oidc"

router = APIRouter(include_in_schema=False)


@router.get("/login/oidc")
def leave(request: Request, next: str = "/") -> Response:
    services: Services = request.app.state.services
    try:
        where, sealed = _provider(request).begin(local_path(next), services.now())
    except LoginRefused as error:
        return refused(request, error)
    response = RedirectResponse(where, 303)
    # Lax: it must come along when the provider sends the browser back
    response.set_cookie(
        COOKIE, sealed, max_age=LONGEST_S, path=PATH, secure=secure(services.settings), httponly=True, samesite="lax"
    )
    return response


@router.get("/login/oidc/callback")
def come_back(
    request: Request,
    state: Annotated[str, Query(max_length=200)] = "",
    code: Annotated[str, Query(max_length=4000)] = "",
) -> Response:
    services: Services = request.app.state.services
    provider = _provider(request)
    try:
        journey = provider.journey(request.cookies.get(COOKIE, ""), state, services.now())
        if not code:
            raise LoginRefused("the provider did not log you in")
        person = provider.person(journey, code)
        if services.users.is_disabled(person.name):
            raise LoginRefused("this account is disabled here: ask an admin")
    except LoginRefused as error:
        services.audit.append("user:unknown", "login.failed", "openid", {"reason": error.reason})
        response = refused(request, error)
    else:
        response = logged_in(request, person.name, [role.value for role in person.roles], journey.next)
    response.delete_cookie(COOKIE, path=PATH)
    return response


def _provider(request: Request) -> Provider:
    provider: Provider | None = request.app.state.provider
    if provider is None:
        raise NotFound("no OpenID Connect provider is set here: log in with name and password at /login")
    return provider
