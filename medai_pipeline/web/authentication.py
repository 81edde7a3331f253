"""Who sends a request: a browser by its session cookie, a program by its bearer token. What they may is in `access`."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from fastapi import Request

from medai_pipeline.errors import NotAllowed, NotLoggedIn, TooMany
from medai_pipeline.services import Services
from medai_pipeline.web.roles import Principal, roles_of
from medai_pipeline.web.whence import address

COOKIE = "medai_session"
UNATTENDED = "x-unattended"  # sent by a page that asks by itself: it does not count as somebody's presence
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf_token"
MOST_BY_ADDRESS = 100  # failures within `sessions.WINDOW`: one address may be many people
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Caller:
    """`csrf_token` is what a page of ours sends back with each write; "" for a program, whose token no page can know."""

    principal: Principal
    csrf_token: str


def authenticate(request: Request) -> Caller:
    """Raises NotLoggedIn; TooMany for an address that tried many wrong tokens."""
    services: Services = request.app.state.services
    given = request.headers.get("authorization")
    if given is not None:
        return _by_token(request, services, given)
    secret = request.cookies.get(COOKIE)
    attended = UNATTENDED not in request.headers
    session = services.sessions.find(secret, services.now(), attended) if secret else None
    if secret is None or session is None:
        raise NotLoggedIn("nobody is logged in, or the login has ended: log in at /login, or send a bearer token")
    token = csrf_token(secret)
    request.state.csrf_token = token
    return Caller(Principal(session.name, roles_of(session.roles)), token)


def _by_token(request: Request, services: Services, given: str) -> Caller:
    """A header that is wrong is never made up for by a cookie. A right one always serves, whoever else shares the address."""
    now = services.now()
    scheme, _, secret = given.partition(" ")
    user = services.users.by_token(secret.strip(), now) if scheme.lower() == "bearer" else None
    if user is None:
        _wrong_token(request, services)
        raise NotLoggedIn("this token is not known, has ended, or was revoked: make one with `medai users token NAME`")
    return Caller(Principal(user.name, roles_of(user.roles)), "")


def _wrong_token(request: Request, services: Services) -> None:
    """Noted in the audit chain, until there are so many from one address that they would fill it."""
    now, subject = services.now(), f"token from {address(request)}"
    wait_s = services.sessions.wait_s(subject, MOST_BY_ADDRESS, now)
    if wait_s:
        raise TooMany("too many wrong tokens came from this address: wait, then try again", wait_s)
    services.sessions.failed([subject], now)
    services.audit.append("user:unknown", "token.refused", "api", {})


def csrf_token(session_secret: str) -> str:
    """Known to who knows the session alone, and tells nothing of it."""
    return hmac.new(session_secret.encode(), b"medai csrf v1", hashlib.sha256).hexdigest()


async def require_own_page(request: Request, caller: Caller) -> None:
    """A write with a cookie must come from our own page: it sends the token as header, or as field of a form."""
    if request.method in _SAFE or not caller.csrf_token:
        return
    given = request.headers.get(CSRF_HEADER, "")
    if not given and request.headers.get("content-type", "").partition(";")[0].strip() == _FORM:
        given = str((await request.form()).get(CSRF_FIELD, ""))
    if not hmac.compare_digest(given.encode(), caller.csrf_token.encode()):
        raise NotAllowed("this request does not come from our own page: load the page again, then repeat it")
