"""`create_app`: the application out of its parts. No route stands here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from medai_pipeline import DISCLAIMER, __version__
from medai_pipeline.errors import SettingsError
from medai_pipeline.services import Services
from medai_pipeline.web import api, docs, login, metrics, oidc, pages, problems
from medai_pipeline.web.access import Permission, permission_of
from medai_pipeline.web.authentication import COOKIE
from medai_pipeline.web.middleware import Envelope
from medai_pipeline.web.provider import Provider, role_of_group

LARGEST_BODY = 2**20  # bytes; an upload route has its own limit
STATIC = Path(__file__).with_name("static")

# (method, path as declared) that anybody may ask; everything else has `needs(...)`
PUBLIC = frozenset(
    {
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/login"),
        ("POST", "/login"),
        ("GET", "/login/oidc"),
        ("GET", "/login/oidc/callback"),
        ("MOUNT", "/static/docs"),
        ("MOUNT", "/static"),
    }
)

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
IDEMPOTENCY_KEY: Mapping[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "the same request with the same key is carried out once, and answered alike for a day",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}

READS_BY_BODY = frozenset({f"{api.PREFIX}/orthanc/studies/search"})  # its answer is not kept under a key
ROUTERS = (metrics.router, login.router, oidc.router, docs.router, *pages.ROUTERS, *api.ROUTERS)


def create_app(services: Services) -> FastAPI:
    """The whole application over `services`. Raises SettingsError for a route that does not say who may."""
    app = FastAPI(
        title="medai_pipeline",
        version=__version__,
        description=DISCLAIMER,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        max_body_size=LARGEST_BODY,
        lifespan=_lifespan,
    )
    app.state.services = services
    role_of_group(services.settings)
    app.state.provider = Provider(services.settings, services.keys.web) if services.settings.oidc_issuer else None
    app.add_middleware(Envelope, tls=bool(services.settings.tls_cert), failed=problems.unexpected)
    problems.install(app)
    metrics.install(app, services)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static/docs", StaticFiles(directory=docs.ASSETS), name="docs")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.state.templates = {route.endpoint: route.path for route in iter_route_contexts(app.routes) if route.endpoint}
    unsaid = [f"{method} {path}" for method, path, permission in permissions(app) if permission is None]
    if unsaid:
        raise SettingsError(f"routes that do not say who may: {', '.join(unsaid)}; give them needs(...)")
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def permissions(app: FastAPI) -> Iterator[tuple[str, str, Permission | str | None]]:
    """(method, path, permission) of every route; "public" for those of PUBLIC, None for one that says nothing."""
    for route in iter_route_contexts(app.routes):
        mount = isinstance(route.original_route, Mount)
        for method in sorted(route.methods or ({"MOUNT"} if mount else {"ANY"})):
            place = ("GET" if method == "HEAD" else method, str(route.path))
            yield (
                method,
                str(route.path),
                permission_of(getattr(route, "dependant", None)) or ("public" if place in PUBLIC else None),
            )


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, once; each operation with its permission and how to log in."""
    if app.openapi_schema:
        return app.openapi_schema
    described = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    described.setdefault("components", {})["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "from `medai users token NAME`"},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
    }
    for method, path, permission in permissions(app):
        operation = described["paths"].get(path, {}).get(method.lower())
        if operation is not None:
            operation["x-medai-permission"] = permission
            if method in WRITES and path.startswith(api.PREFIX) and path not in READS_BY_BODY:
                _add_idempotency(operation)
            operation["security"] = [] if permission == "public" else [{"token": []}, {"session": []}]
    app.openapi_schema = described
    return described


def _add_idempotency(operation: dict[str, Any]) -> None:
    parameters = operation.setdefault("parameters", [])
    if all(parameter["name"] != IDEMPOTENCY_KEY["name"] for parameter in parameters):
        parameters.append(dict(IDEMPOTENCY_KEY))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    services: Services = app.state.services
    if "engine" in services.__dict__:
        services.engine.dispose()
    if "pacs" in services.__dict__:
        services.pacs.close()
