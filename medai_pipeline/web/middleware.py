"""What every answer carries and every request leaves in the log: security headers, a request id, one line without values."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("medai.web.access")

# no inline script and no inline style: what is shown came from files beside this one
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_GIVEN_ID = re.compile(r"[A-Za-z0-9-]{8,64}\Z")


Failed = Callable[[Scope, Receive, Send, Exception], Awaitable[None]]


class Envelope:
    """Adds the headers and the request id, answers what nobody foresaw by `failed`, and writes the access line: the route's template, never the path or query."""

    def __init__(self, app: ASGIApp, tls: bool, failed: Failed) -> None:
        self.app = app
        self.failed = failed
        more = {"Strict-Transport-Security": "max-age=31536000"} if tls else {}
        self.headers = [(name.lower().encode(), value.encode()) for name, value in {**HEADERS, **more}.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status = 500

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._complete(scope, message["headers"], request_id)
            await send(message)

        try:
            await self.app(scope, receive, with_headers)
        except Exception as error:  # noqa: BLE001 - the server would print its words, which may name a person
            await self.failed(scope, receive, with_headers, error)
        finally:
            spent_ms = (time.perf_counter() - began) * 1000
            log.info("%s %s %d %.0f ms %s", scope["method"], route_template(scope), status, spent_ms, request_id)

    def _complete(self, scope: Scope, given: Any, request_id: str) -> list[tuple[bytes, bytes]]:
        there = {name.lower() for name, _ in given}
        added = [(name, value) for name, value in self.headers if name not in there]
        if b"cache-control" not in there and not scope["path"].startswith("/static/"):
            added.append((b"cache-control", b"no-store"))
        return [*given, *added, (b"x-request-id", request_id.encode())]


def route_template(scope: Scope) -> str:
    """The path as the route was declared, "/api/v1/studies/{study_uid}"; "-" for what no route serves."""
    templates = getattr(scope["app"].state, "templates", {})
    return templates.get(scope.get("endpoint"), "-")


def _request_id(scope: Scope) -> str:
    """The caller's, where it looks like one; else a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
    return given if _GIVEN_ID.match(given) else secrets.token_hex(8)
