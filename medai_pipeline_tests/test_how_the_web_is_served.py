"""Headers, TLS, who can reach it, and logs without names: what holds for every answer."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fastapi import APIRouter, Depends, FastAPI

from medai_pipeline import DISCLAIMER
from medai_pipeline.errors import SettingsError
from medai_pipeline.local.ports import free_port
from medai_pipeline.services import Services
from medai_pipeline.web import app as application
from medai_pipeline.web.access import Permission, needs
from medai_pipeline.web.roles import Role
from medai_pipeline.web.server import config, require_safe
from medai_pipeline_tests.web import API, add_user, browser, caller, log_in


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Paths of a certificate for localhost and its key."""
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(folder / "cert.pem"), str(folder / "key.pem")


@contextmanager
def serving(services: Services) -> Iterator[int]:
    """The real server in a thread, until the block ends; its port."""
    services.settings = replace(services.settings, api_port=free_port())
    server = uvicorn.Server(config(services))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    pause = threading.Event()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        pause.wait(0.02)
    try:
        yield services.settings.api_port
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()


def test_every_answer_has_the_security_headers_and_a_request_id(app: FastAPI) -> None:
    client = browser(app)
    for path in ("/health", "/login", "/no/such/page", f"{API}/me", "/static/app.css", "/static/../app.py"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "script-src 'self';" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert len(headers["x-request-id"]) == 16
    assert client.get("/login").headers["cache-control"] == "no-store"
    assert client.get("/health", headers={"X-Request-ID": "given-id-1234"}).headers["x-request-id"] == "given-id-1234"
    assert client.get("/health", headers={"X-Request-ID": "a\tb<script>"}).headers["x-request-id"] != "a\tb<script>"


def test_every_page_says_research_use(app: FastAPI) -> None:
    client = browser(app)
    for path in ("/login", "/no/such/page"):
        assert DISCLAIMER in client.get(path).text
    assert (
        caller(app, Role.VIEWER).get("/api/openapi.json").json()["info"]["description"].startswith("Research use only")
    )


def test_the_description_is_shown_without_the_internet_and_without_inline_scripts(
    app: FastAPI, services: Services
) -> None:
    add_user(services, "ann", Role.VIEWER)
    client = browser(app)
    log_in(client, "ann")
    for path, script in (("/api/docs", "swagger-ui-bundle.js"), ("/api/redoc", "redoc.standalone.js")):
        answer = client.get(path)
        assert answer.status_code == 200 and "http://" not in answer.text and "https://" not in answer.text
        assert "<script>" not in answer.text and "onload=" not in answer.text
        assert "script-src 'self';" in answer.headers["content-security-policy"]
        assert client.get(f"/static/docs/{script}").status_code == 200


def test_problems_are_json_for_programs_and_pages_for_people(app: FastAPI) -> None:
    person, program = browser(app), caller(app, Role.VIEWER)
    assert "<h1>Not Found</h1>" in person.get("/no/such/page").text
    answer = program.get(f"{API}/studies/NOSUCHSTUDY")
    assert answer.status_code == 404 and answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (
        told["status"] == 404 and told["title"] == "Not Found" and told["request_id"] == answer.headers["x-request-id"]
    )
    wrong = program.get(f"{API}/studies", params={"limit": "ZZMARKmany", "ZZMARKfield": "1"})
    assert wrong.status_code == 422 and "ZZMARK" not in wrong.text.replace("query.ZZMARKfield", "")


def test_an_error_that_nobody_foresaw_tells_nothing(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    router = APIRouter()

    @router.get("/api/v1/breaks/{name}")
    def breaks(name: str, principal: object = Depends(needs(Permission.ACCOUNT))) -> None:
        raise ValueError(f"cannot read {name}")

    monkeypatch.setattr(application, "ROUTERS", (*application.ROUTERS, router))
    caplog.set_level(logging.DEBUG)
    answer = caller(application.create_app(services), Role.VIEWER).get("/api/v1/breaks/ZZMARKDoe")
    assert answer.status_code == 500 and "ZZMARK" not in answer.text
    assert "content-security-policy" in answer.headers
    lines = [r.getMessage() for r in caplog.records if r.name.startswith(("medai", "uvicorn"))]
    assert any("unexpected ValueError in breaks" in line for line in lines)
    assert any("GET /api/v1/breaks/{name} 500" in line for line in lines)
    assert not any("ZZMARK" in line for line in lines)


def test_with_a_certificate_it_speaks_tls_1_3_alone(services: Services, certificate: tuple[str, str]) -> None:
    cert, key = certificate
    services.settings = replace(services.settings, tls_cert=cert, tls_key=key)
    trusting = ssl.create_default_context(cafile=cert)
    with serving(services) as port:
        answer = httpx.get(f"https://localhost:{port}/health", verify=trusting, trust_env=False)
        assert answer.json() == {"status": "ok"} and "strict-transport-security" in answer.headers
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            assert secured.version() == "TLSv1.3"
        old = ssl.create_default_context(cafile=cert)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", port)) as plain:
            old.wrap_socket(plain, server_hostname="localhost")


def test_the_real_server_names_neither_itself_nor_what_was_asked(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(services) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/studies/ZZMARKuid?finding=ZZMARKname", trust_env=False)
    assert answer.status_code == 401 and "server" not in answer.headers
    told = [r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    assert any("GET /api/v1/studies/{study_uid} 401" in line for line in told)
    assert not any("ZZMARK" in line for line in told)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "worklist.example"])
def test_other_machines_are_not_let_near_without_tls(services: Services, host: str) -> None:
    services.settings = replace(services.settings, api_host=host)
    with pytest.raises(SettingsError, match="MEDAI_TLS_CERT"):
        config(services)


def test_nor_without_anybody_who_can_log_in(services: Services, certificate: tuple[str, str]) -> None:
    cert, key = certificate
    services.settings = replace(services.settings, api_host="0.0.0.0", tls_cert=cert, tls_key=key)
    with pytest.raises(SettingsError, match="medai users add"):
        require_safe(services)
    add_user(services, "ann", Role.ADMIN)
    require_safe(services)


def test_half_a_pair_and_a_pair_that_is_none_are_refused(
    services: Services, certificate: tuple[str, str], tmp_path: Path
) -> None:
    cert, key = certificate
    for changes, words in (
        ({"tls_cert": cert}, "both"),
        ({"tls_cert": cert, "tls_key": str(tmp_path / "none.pem")}, "MEDAI_TLS_KEY names no file"),
    ):
        services.settings = replace(services.settings, **{"tls_cert": None, "tls_key": None, **changes})
        with pytest.raises(SettingsError, match=words):
            config(services)
    services.settings = replace(services.settings, tls_cert=cert, tls_key=cert)
    with pytest.raises(SettingsError, match="pair"):
        config(services).load()


def test_health_needs_nobody_and_ready_names_what_is_missing(app: FastAPI) -> None:
    client = browser(app)
    assert client.get("/health").json() == {"status": "ok"}
    answer = client.get("/ready")
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert checks == {"database": True, "pacs": False, "daemon": False, "models": True}
