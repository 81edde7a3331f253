"""One kept-alive HTTP connection pool to an Orthanc: authentication, timeouts, retries, and errors with a way out.

What the paths mean stands in `orthanc`.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from medai_pipeline.errors import PacsBusy, PacsError, PacsNotFound, PacsUnauthorized, PacsUnreachable

# httpx logs every URL at INFO; Orthanc ids in them are digests of patient and study identifiers.
logging.getLogger("httpx").setLevel(logging.WARNING)

RETRY_STATUS = frozenset({502, 503, 504})
RETRY_WAIT_S = (0.1, 0.4, 1.0)
PIECE_BYTES = 1 << 18
TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class Wire:
    """Requests that are safe to repeat (GET, and POST of an instance: the second time it is AlreadyStored).

    `Accept-Encoding: identity` because Orthanc otherwise deflates DICOM on its single request thread: 300 CT slices
    took 13.7 s instead of 0.2 s. Thread-safe.
    """

    def __init__(self, url: str, username: str = "", password: str | None = None, connections: int = 32) -> None:
        try:
            base = httpx.URL(url.rstrip("/") + "/")
        except httpx.InvalidURL as error:
            raise PacsUnreachable(f"ORTHANC_URL is not a URL ({error}): expected http://host:port") from error
        if base.scheme not in {"http", "https"} or not base.host:
            raise PacsUnreachable("ORTHANC_URL is not a URL: expected http://host:port")
        self.address = f"{base.host}:{base.port or {'http': 80, 'https': 443}[base.scheme]}"
        self._closed = threading.Event()
        self._client = httpx.Client(
            base_url=base.copy_with(username="", password=""),
            auth=httpx.BasicAuth(username or base.username, password or base.password)
            if username or base.username
            else None,
            headers={"Accept-Encoding": "identity"},
            timeout=TIMEOUT,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=not _is_loopback(base.host),  # a proxy cannot reach this machine's loopback
        )

    def close(self) -> None:
        """Ends waits between retries, and the connections."""
        self._closed.set()
        self._client.close()

    def get(self, path: str, **params: Any) -> httpx.Response:
        """Raises PacsUnreachable, PacsUnauthorized, PacsNotFound, PacsError."""
        return self.request("GET", path, params=params or None)

    def json(self, path: str, **params: Any) -> Any:
        return self.read_json(self.get(path, **params))

    def read_json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise PacsError(f"{self.address} does not answer like an Orthanc: check ORTHANC_URL") from error

    def request(self, method: str, path: str, repeatable: bool = True, **arguments: Any) -> httpx.Response:
        """With `repeatable` false only what cannot have reached the server is tried again."""
        problem = ""
        for wait_s in (*RETRY_WAIT_S, None):
            try:
                response = self._client.request(method, path, **arguments)
            except httpx.TransportError as error:
                problem = _words(error)
                sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            else:
                if response.status_code not in RETRY_STATUS:
                    return self._checked(response)
                problem, sent = f"HTTP {response.status_code}", True
            if wait_s is None or (sent and not repeatable) or self._closed.wait(wait_s):
                break
        raise self._unreachable(problem)

    @contextmanager
    def stream(self, method: str, path: str) -> Iterator[httpx.Response]:
        """A response whose body is not read yet: `pieces` reads it. Not tried again."""
        try:
            with self._client.stream(method, path) as response:
                if not response.is_success:
                    response.read()
                    if response.status_code in RETRY_STATUS:
                        raise self._unreachable(f"HTTP {response.status_code}")
                    self._checked(response)
                yield response
        except httpx.TransportError as error:
            raise self._unreachable(_words(error)) from error

    def pieces(self, response: httpx.Response) -> Iterator[bytes]:
        """The body of a `stream`. Raises PacsUnreachable when the connection breaks."""
        try:
            yield from response.iter_raw(PIECE_BYTES)
        except httpx.TransportError as error:
            raise self._unreachable(_words(error)) from error

    def closed(self, wait_s: float = 0) -> bool:
        """Whether `close` was called; waits for it at most so long."""
        return self._closed.wait(wait_s)

    def _unreachable(self, problem: str) -> PacsUnreachable:
        return PacsUnreachable(
            f"the PACS at {self.address} does not answer ({problem}): start it, or correct ORTHANC_URL"
        )

    def _checked(self, response: httpx.Response) -> httpx.Response:
        status = response.status_code
        if response.is_success:
            return response
        if status in {401, 403}:
            raise PacsUnauthorized(
                f"the PACS at {self.address} refuses the login (HTTP {status}): "
                "correct ORTHANC_USERNAME and ORTHANC_PASSWORD"
            )
        if status == 404:
            raise PacsNotFound(f"the PACS at {self.address} does not have this object (any more)")
        kind = PacsBusy if status >= 500 else PacsError
        raise kind(f"the PACS at {self.address} answered HTTP {status}{_orthanc_message(response)}")


def _orthanc_message(response: httpx.Response) -> str:
    """Orthanc's own error name ("Bad file format"): a fixed vocabulary, unlike its `Details`."""
    try:
        body = response.json()
    except ValueError:
        return ""
    message = body.get("Message") if isinstance(body, dict) else None
    return f": {message}" if isinstance(message, str) else ""


def _words(error: httpx.TransportError) -> str:
    """The kind of failure in plain words; never the error's text, which may quote what was sent."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection within 5 s"
    if isinstance(error, httpx.TimeoutException):
        return "no answer within 60 s"
    if isinstance(error, httpx.ConnectError):
        return "connection refused" if "refused" in str(error).lower() else "cannot connect"
    return "connection lost"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
