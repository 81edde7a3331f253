"""How the application is served: address, TLS 1.3, logs. Refuses to be reached from elsewhere without TLS and a login."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from medai_pipeline import logs
from medai_pipeline.errors import SettingsError
from medai_pipeline.memory import no_core_files
from medai_pipeline.services import Services
from medai_pipeline.settings import Settings
from medai_pipeline.web.app import create_app

STOPPING_S = 5  # for requests that are under way
KEEP_ALIVE_S = 15


def serve(services: Services) -> None:
    """Until a signal. Raises SettingsError before anything listens."""
    uvicorn.Server(config(services)).run()


def config(services: Services) -> uvicorn.Config:
    settings = services.settings
    require_safe(services)
    no_core_files()
    logs.configure(settings.log_level, settings.log_format)
    return uvicorn.Config(
        create_app(services),
        host=settings.api_host,
        port=settings.api_port,
        access_log=False,  # it would print paths and queries: `middleware` writes the line
        log_config=None,
        proxy_headers=False,  # who may say where a request comes from is not known here
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOPPING_S,
        h11_max_incomplete_event_size=64 * 2**10,
        ws="none",
        **_tls(settings),
    )


def require_safe(services: Services) -> None:
    """Raises SettingsError, with what to do, for an address that others reach without TLS or without anybody to log in."""
    settings = services.settings
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise SettingsError("set both MEDAI_TLS_CERT and MEDAI_TLS_KEY, or neither")
    if is_loopback(settings.api_host):
        return
    if not settings.tls_cert:
        raise SettingsError(
            f"MEDAI_API_HOST {settings.api_host} can be reached from other machines, and passwords and images would travel "
            "unencrypted: set MEDAI_TLS_CERT and MEDAI_TLS_KEY, or keep 127.0.0.1 behind a proxy that speaks TLS"
        )
    if not settings.oidc_issuer and not services.users.any():
        raise SettingsError(
            f"MEDAI_API_HOST {settings.api_host} can be reached from other machines, and nobody can log in: "
            "run `medai users add NAME --role admin`, or set MEDAI_OIDC_ISSUER"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(settings: Settings) -> dict[str, Any]:
    if not settings.tls_cert or not settings.tls_key:
        return {}
    for setting, path in (("MEDAI_TLS_CERT", settings.tls_cert), ("MEDAI_TLS_KEY", settings.tls_key)):
        if not Path(path).is_file():
            raise SettingsError(f"{setting} names no file: give the path of a PEM file")

    def context(_: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        try:
            made = default()
        except (ssl.SSLError, OSError) as error:
            raise SettingsError(
                "MEDAI_TLS_CERT and MEDAI_TLS_KEY do not make a pair: give a certificate chain and its key as PEM"
            ) from error
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        return made

    return {"ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key, "ssl_context_factory": context}
