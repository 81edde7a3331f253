"""A PACS that is away, refuses the login or is none at all: one line that names the setting, and no secret."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from medai_pipeline.errors import PacsError, PacsUnauthorized, PacsUnreachable
from medai_pipeline.local.ports import free_port
from medai_pipeline.pacs import wire
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline_tests.orthanc import RunningOrthanc


@contextmanager
def server(statuses: list[int]) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that answers with the given statuses, then 200; and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Accept-Encoding')}")
            body = b'{"Version": "1.12.9"}'
            self.send_response(statuses.pop(0) if statuses else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}", asked
    finally:
        httpd.shutdown()
        httpd.server_close()


def test_an_unreachable_pacs_is_one_retryable_line_with_the_address_and_the_setting() -> None:
    port = free_port()
    with Orthanc(f"http://medai:secret@127.0.0.1:{port}") as client, pytest.raises(PacsUnreachable) as caught:
        client.system()
    text = str(caught.value)
    assert f"127.0.0.1:{port}" in text and "ORTHANC_URL" in text and "refused" in text
    assert "\n" not in text and "secret" not in text and caught.value.retryable


def test_a_wrong_password_is_one_line_that_names_the_settings(orthanc: RunningOrthanc) -> None:
    with Orthanc(orthanc.url, "medai", "wrong-secret") as client, pytest.raises(PacsUnauthorized) as caught:
        client.system()
    text = str(caught.value)
    assert "ORTHANC_USERNAME" in text and "ORTHANC_PASSWORD" in text and orthanc.url.removeprefix("http://") in text
    assert "\n" not in text and "wrong-secret" not in text and not caught.value.retryable


@pytest.mark.parametrize("url", ["", "pacs", "ftp://pacs", "http://"])
def test_an_url_that_is_none_is_named_as_the_setting(url: str) -> None:
    with pytest.raises(PacsUnreachable, match="ORTHANC_URL"):
        Orthanc(url)


def test_a_short_outage_is_bridged_and_nothing_is_compressed() -> None:
    with server([503, 502]) as (url, asked), Orthanc(url) as client:
        assert client.system()["Version"] == "1.12.9"
    assert asked == ["/system identity"] * 3


def test_a_long_outage_ends_after_bounded_retries() -> None:
    always_busy = pytest.raises(PacsUnreachable, match="HTTP 503")
    with server([503] * 20) as (url, asked), Orthanc(url) as client, always_busy:
        client.system()
    assert len(asked) == len(wire.RETRY_WAIT_S) + 1


def test_another_web_server_is_not_taken_for_an_orthanc() -> None:
    with server([500]) as (url, _), Orthanc(url) as client, pytest.raises(PacsError, match="HTTP 500"):
        client.last_change()
